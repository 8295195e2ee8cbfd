"""Notebook 11 in a real JupyterLab: every control of the explorer and the painter, by hand."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from statistics import median
from urllib.error import URLError

import nbformat
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "11_explore.ipynb"
PATIENCE = 600  # seconds; a run takes one to five minutes
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # all cells are in the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
# The last cell of the copy: the end of a run, and what a run leaves behind.
ENDED = """
import os, resource
import matplotlib.pyplot
from ipywidgets.widgets import widget
print("ended", os.getpid(), len(widget._instances), len(matplotlib.pyplot.get_fignums()),
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
PROMPTS = "cells => cells.map(cell => cell.textContent)"
FINGERPRINT = """async image => {
    const bytes = await (await fetch(image.src)).arrayBuffer();
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return [...hash].map(byte => byte.toString(16).padStart(2, "0")).join("");
}"""
# From the press of the button to the moment when the new picture has been read.
STOPWATCH = """(image, picker) => {
    let pressed;
    window.milliseconds = [];
    picker.addEventListener("pointerdown", event => { pressed = event.timeStamp; }, true);
    image.addEventListener("load", () => milliseconds.push(performance.now() - pressed));
}"""


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """The address of a JupyterLab over a copy of the notebook, and the folder that it is in.

    Asks for the browser, so that a skip comes first.
    """
    pytest.importorskip("jupyterlab", reason="no JupyterLab; make e2e installs it")
    folder = tmp_path_factory.mktemp("lab")
    home, root = folder / "home", folder / "notebooks"
    for name, settings in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(settings))
    root.mkdir()
    copy_unrun(NOTEBOOK, root / NOTEBOOK.name)
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex()
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
    ]
    log = folder / "log"
    with log.open("w") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{address}/api") or server.poll() is not None, 120)
        assert server.poll() is None, log.read_text()
        yield f"{address}/lab/tree/{NOTEBOOK.name}?token={token}", root
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()  # the kernels see that and end
            server.wait()


def copy_unrun(path, to):
    """A copy without outputs and widgets' state, which asks for widgets that are no more."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.cells.append(nbformat.v4.new_code_cell(ENDED))
    nbformat.write(notebook, to)


def answers(url):
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except (URLError, OSError):
        return False
    return True


def wait_until(happened, seconds=60):
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.02)


class Session:
    """The notebook in a page, as a reader has it: run by the menu, moved by mouse and keys.

    Attributes:
        page: the page of playwright.
        ended: of the last run: process of the kernel, widgets, open figures, peak memory in KiB.
    """

    def __init__(self, page, address):
        self.page, self.ended = page, [0]
        self.devtools = page.context.new_cdp_session(page)
        page.set_default_timeout(60_000)
        page.goto(address)
        self.wait_for_kernel()

    def run_all(self):
        self._choose("run-all")

    def restart_and_run_all(self):
        self._choose("restart-and-run-all")
        self.page.locator(".jp-Dialog .jp-mod-accept").click()

    def _choose(self, entry):
        """Of the menu "Run"."""
        menus = self.page.locator("#jp-MainMenu")
        menus.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.locator(f".lm-Menu-item[data-command='runmenu:{entry}']").click()

    def wait_for_kernel(self):
        self.page.locator("#jp-main-statusbar").get_by_text(re.compile(r"\| Idle$")).wait_for()

    def wait(self):
        """For the end of a run in another kernel than that of the last run."""
        wait_until(self._has_ended, PATIENCE)
        self.wait_for_kernel()
        prompts = self.page.eval_on_selector_all(".jp-CodeCell .jp-InputPrompt", PROMPTS)
        assert prompts[-1] == f"[{len(prompts)}]:"  # all have run, once; a folded cell shows none

    def _has_ended(self):
        last = self.page.locator(".jp-CodeCell").last.locator(".jp-OutputArea-output")
        text = last.inner_text() if last.count() else ""
        if not text.startswith("ended"):
            return False
        ended = list(map(int, text.split()[1:]))
        new, self.ended = ended[0] != self.ended[0], ended
        return new

    def cells(self, kind):
        """The cells that show a picker or a painter."""
        return self.page.locator(f".jp-CodeCell:has(.fss-{kind})")

    def at(self, locator, y, x):
        """The point of the screen at fractions of an element's height and width."""
        locator.scroll_into_view_if_needed()
        box = locator.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def click(self, locator, y, x):
        self.page.mouse.click(*self.at(locator, y, x))

    def drag(self, locator, *places):
        points = [self.at(locator, *place) for place in places]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point, steps=10)
        self.page.mouse.up()

    def touch(self, locator, *places, second=None):
        """Drag a finger over places; a second one may lie at another place all the while."""
        (x, y), *points = [self.at(locator, *place) for place in places]
        resting = []
        self._fingers("touchStart", [(x, y)])
        if second is not None:
            resting = [self.at(locator, *second)]
            self._fingers("touchStart", [(x, y), *resting])
        for to_x, to_y in points:
            for n in range(1, 11):
                between = x + (to_x - x) * n / 10, y + (to_y - y) * n / 10
                self._fingers("touchMove", [between, *resting])
            x, y = to_x, to_y
        self._fingers("touchEnd", [])

    def _fingers(self, event, points):
        fingers = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(points)]
        self.devtools.send("Input.dispatchTouchEvent", {"type": event, "touchPoints": fingers})


class Picture:
    """An image of the page, and whether its bytes change."""

    def __init__(self, locator):
        self.locator = locator

    @property
    def bytes(self):
        return self.locator.evaluate(FINGERPRINT)

    def change(self, act, *given):
        """Do something that must change the picture; returns what it was."""
        before = self.bytes
        act(*given)
        wait_until(lambda: self.bytes != before)
        return before


@pytest.fixture(scope="module")
def watched(open_page):
    return open_page(viewport={"width": 1400, "height": 1100})


@pytest.fixture(scope="module")
def ran(lab, watched):
    """The notebook after its first run."""
    session = Session(watched.page, lab[0])
    session.run_all()
    session.wait()
    return session


@pytest.fixture
def session(ran, watched):
    """The notebook; whatever is done with it, no error may be seen and no other host asked."""
    yield ran
    assert watched.errors == []
    assert watched.foreign == []


def answer(cell):
    """The image beside a query: what the chosen place attends to."""
    return Picture(cell.get_by_title("what the chosen place attends to"))


def line(cell):
    return cell.locator("[role=status],[role=alert]").first.inner_text()


def sliders(cell):
    """Row and column are the last two."""
    return cell.locator(".noUi-handle").all()


def move(slider):
    """A slider to its end, or to its begin where it stood at the end."""
    before = slider.get_attribute("aria-valuenow")
    slider.press("End")
    if slider.get_attribute("aria-valuenow") == before:
        slider.press("Home")


def soften(cell):
    """Make every look a soft one; two sharp ones at the same place are the same picture."""
    sliders(cell)[0].press("End")
    wait_until(lambda: "temperature 100 " in line(cell))


def asks(cell, *place):
    """Whether the line speaks of that place."""
    return line(cell).startswith(f"Query place {place}: ")


def test_point_at_the_query(session):
    cell = session.cells("picker").first
    picker, picture = cell.locator(".fss-picker"), answer(cell)
    rows, cols = (int(float(s.get_attribute("aria-valuemax"))) + 1 for s in sliders(cell)[-2:])
    soften(cell)
    seen = {picture.bytes}

    def changes(place, act, *given):
        picture.change(act, *given)
        wait_until(lambda: asks(cell, *place))
        seen.add(picture.bytes)

    for y, x in ((0.21, 0.3), (0.6, 0.7), (0.8, 0.2)):
        row, col = int(rows * y), int(cols * x)
        changes((row, col), session.click, picker, y, x)
    changes((row, col + 1), picker.press, "ArrowRight")
    changes((row - 1, col + 1), picker.press, "ArrowUp")
    to = int(rows * 0.91), int(cols * 0.6)
    changes(to, session.drag, picker, (0.2, 0.2), (0.4, 0.5), (0.91, 0.6))
    assert len(seen) == 7
    session.drag(picker, (0.91, 0.6), (0.91, 1.3))
    wait_until(lambda: "outside the picture" in line(cell))
    changes((0, 0), session.click, picker, 0.01, 0.01)
    changes(to, session.touch, picker, (0.2, 0.2), (0.91, 0.6))


@pytest.mark.parametrize(("n", "count"), [(0, 4), (1, 8)])
def test_every_slider_of_an_explorer(session, n, count):
    cell = session.cells("picker").nth(n)
    assert len(sliders(cell)) == count
    soften(cell)
    for slider in reversed(sliders(cell)):
        answer(cell).change(move, slider)
        assert cell.locator("[role=alert]").count() == 0


@pytest.mark.parametrize(("n", "count"), [(0, 3), (1, 5)])
def test_every_menu_of_an_explorer(session, n, count):
    cell = session.cells("picker").nth(n)
    soften(cell)
    menus = [menu for menu in cell.locator("select").all() if menu.locator("option").count() > 1]
    assert len(menus) == count
    for menu in menus:
        at = menu.evaluate("menu => menu.selectedIndex")
        for index in (at + 1 if at == 0 else at - 1, at):
            answer(cell).change(lambda menu=menu, index=index: menu.select_option(index=index))
            assert cell.locator("[role=alert]").count() == 0


def test_fifty_clicks(session, capsys):
    cell, page = session.cells("picker").first, session.page
    picker, picture = cell.locator(".fss-picker"), answer(cell)
    soften(cell)
    picture.locator.evaluate(STOPWATCH, picker.element_handle())
    for n in range(50):
        page.wait_for_timeout(150)  # a reader's pace
        session.click(picker, (0.13 + 0.31 * n) % 1, (0.07 + 0.43 * n) % 1)  # all over, none twice
        page.wait_for_function("n => window.milliseconds.length > n", arg=n)
    times = page.evaluate("window.milliseconds")
    with capsys.disabled():
        print(f"median of 50 clicks: {median(times):.0f} ms from event to new picture")


def test_paint_segment_upload_save(session, lab, tmp_path):
    cell, page = session.cells("painter").first, session.page
    painter = cell.locator(".fss-painter")
    picture, strip = Picture(painter.locator("img")), Picture(cell.get_by_title("all support"))

    def press(name):
        cell.get_by_role("button", name=name, exact=True).click()

    def upload(name, path):
        with page.expect_file_chooser() as chooser:
            cell.get_by_role("button", name=name).click()
        chooser.value.set_files(path)

    def stroke():
        session.drag(painter, (0.3, 0.3), (0.6, 0.7))

    start = picture.change(press, "Clear")
    empty = picture.change(stroke)
    thin = picture.change(press, "Undo")
    assert picture.bytes == empty
    move(*sliders(cell))
    picture.change(stroke)
    thick = picture.bytes
    assert len({start, empty, thin, thick}) == 4
    for tool, places in {
        "eraser": [(0.3, 0.3), (0.4, 0.3)],
        "box": [(0.1, 0.7), (0.3, 0.9)],
    }.items():
        press(tool)
        picture.change(session.drag, painter, *places)
    press("polygon")
    for y, x in ((0.7, 0.1), (0.7, 0.4), (0.95, 0.2)):
        session.click(painter, y, x)
    picture.change(painter.press, "Enter")
    press("brush")
    painter.press("ArrowLeft")
    picture.change(painter.press, " ")
    before = picture.change(session.touch, painter, (0.9, 0.6), (0.8, 0.9))
    finger = picture.change(press, "Undo")
    assert picture.bytes == before
    picture.change(lambda: session.touch(painter, (0.9, 0.6), (0.8, 0.9), second=(0.2, 0.2)))
    assert picture.bytes == finger  # the second one paints nothing

    press("Segment")
    result = cell.locator(".fss-picker")
    result.wait_for()
    wait_until(lambda: line(cell).startswith("Segmented with best"))
    found = answer(cell)
    found.change(session.click, result, 0.3, 0.6)
    for slider in sliders(cell)[:0:-1]:
        found.change(move, slider)

    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    strip.change(upload, "query picture", tmp_path / "photo.png")
    found.change(press, "Segment")
    picture.change(upload, "support pictures", tmp_path / "photo.png")
    press("box")
    picture.change(session.drag, painter, (0.255, 0.26), (0.755, 0.505))
    cell.get_by_placeholder("folder that gets the class").fill("mine")
    cell.get_by_placeholder("what the object is called").fill("noise")
    press("Save")
    wait_until(lambda: line(cell).startswith("Saved 2 pictures in mine/noise."))
    saved = {path.name: path for path in (lab[1] / "mine" / "noise").iterdir()}
    assert len(saved) == 4
    image, mask = (np.asarray(Image.open(saved[name])) for name in ("2.jpg", "2.png"))
    assert image.shape == photo.shape
    assert mask.shape == (60, 90) and (mask > 0).sum() == 31 * 23


def test_restart_twice(session):
    """Each run leaves the same behind, and the page asks for no widget that is no more."""
    runs = [session.ended]
    for _ in range(2):
        session.restart_and_run_all()
        session.wait()
        runs.append(session.ended)
        shown = session.cells("picker").count(), session.cells("painter").count()
        assert shown == (2, 1)
        cell = session.cells("picker").first
        answer(cell).change(move, sliders(cell)[1])
    _, widgets, figures, memory = zip(*runs, strict=True)
    assert len(set(widgets)) == 1 and set(figures) == {0}
    assert max(memory) <= 1.05 * min(memory)
