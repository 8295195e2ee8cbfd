"""Notebook 11 in a real JupyterLab: every control of the explorer and the painter, by hand."""

from statistics import median

import numpy as np
import pytest
from in_jupyterlab import Picture, Session, wait_until
from PIL import Image

pytestmark = pytest.mark.slow
# From the press of the button to the moment when the new picture has been read.
STOPWATCH = """(image, picker) => {
    let pressed;
    window.milliseconds = [];
    picker.addEventListener("pointerdown", event => { pressed = event.timeStamp; }, true);
    image.addEventListener("load", () => milliseconds.push(performance.now() - pressed));
}"""


@pytest.fixture(scope="module")
def watched(open_page):
    return open_page(viewport={"width": 1400, "height": 1100})


@pytest.fixture(scope="module")
def ran(lab, watched):
    """The notebook after its first run."""
    session = Session(watched.page, lab[0]("11_explore.ipynb"))
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
