"""Every notebook in a real JupyterLab, from top to bottom, and every control of its last cells."""

import os

import pytest
from in_jupyterlab import NOTEBOOKS, Picture, Session, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("FSS_COURSE" not in os.environ, reason="ten minutes; make e2e runs it"),
]


@pytest.mark.parametrize("name", sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")))
def test_a_notebook_runs_and_each_control_changes_its_picture(open_page, tmp_path, name):
    pytest.importorskip("jupyterlab", reason="no JupyterLab; make e2e installs it")
    watched = open_page(viewport={"width": 1400, "height": 1100})
    with served(tmp_path) as (address, _):  # one for each, so that no more than one kernel takes memory
        session = Session(watched.page, address(name))
        session.run_all()
        session.wait()
        output = session.page.locator(".jp-OutputArea-output")
        stubs = session.page.locator(".jp-CodeCell", has_text="raise NotImplementedError").count()
        assert output.filter(has_text="Traceback (most recent call last)").count() <= stubs
        boxes = session.page.locator(".jp-CodeCell:not(:has(.fss-picker)):not(:has(.fss-painter))")
        boxes = boxes.filter(has=session.page.locator(".jupyter-widgets")).all()
        assert boxes, "no picture with controls"
        for box in boxes:
            picture = Picture(box.locator("img").last)
            controls = [*box.locator(".noUi-handle").all(), *box.locator("select").all()]
            assert controls, "no control that could be moved"
            for control in controls:
                picture.change(moved, control)
                assert box.locator("[role=alert]").count() == 0
        watched.page.goto("about:blank")  # before the server ends, or the page would miss it
    assert watched.errors == []
    assert watched.foreign == []


def moved(control):
    """Move a slider to its end, or to its begin; choose another entry of a menu."""
    if control.evaluate("control => control.tagName") == "SELECT":
        at = control.evaluate("menu => menu.selectedIndex")
        control.select_option(index=at + 1 if at == 0 else at - 1)
        return
    before = control.get_attribute("aria-valuenow")
    control.press("End")
    if control.get_attribute("aria-valuenow") == before:
        control.press("Home")
