"""A JupyterLab of its own, and a notebook in its page, moved by mouse and keys."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
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


@contextmanager
def served(folder):
    """Serve copies of all notebooks: yields the address of one by its file's name, and the folder that they are in."""
    home, root = folder / "home", folder / "notebooks"
    for name, settings in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(settings))
    root.mkdir()
    for path in NOTEBOOKS.glob("*.ipynb"):
        copy_unrun(path, root / path.name)
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
        yield lambda name: f"{address}/lab/tree/{name}?token={token}", root
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
