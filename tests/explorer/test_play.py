"""Controls call a notebook's drawing with their values; its errors end as a line."""

import ipywidgets
import pytest
from ipywidgets.widgets import widget as registry

from fss.errors import InputError
from fss.explorer.play import play
from fss.viz import NotebookFigure


def draw(**values):
    if values.get("n") == 4:
        raise InputError("there is no fourth")
    return repr(values).encode()


@pytest.fixture
def box():
    made = play(
        draw, n=range(1, 6), size=(0, 1, 0.25), arm=["base", "best"], bold=True, at={"of": range(9), "value": 7}
    )
    yield made
    made.close()


def test_every_control_starts_somewhere_and_moves_the_picture(box):
    values = {"n": 1, "size": 0.0, "arm": "base", "bold": True, "at": 7}
    assert box.picture.value == draw(**values)
    for name, value in {"n": 5, "size": 0.75, "arm": "best", "bold": False, "at": 8}.items():
        box.controls[name].value = values[name] = value
        assert box.picture.value == draw(**values)


def test_a_figure_is_drawn_as_a_png():
    made = play(lambda side: NotebookFigure(figsize=(side, 1), dpi=10), side=range(1, 3))
    first = bytes(made.picture.value)
    made.controls["side"].value = 2
    second = bytes(made.picture.value)
    assert first.startswith(b"\x89PNG") and second.startswith(b"\x89PNG") and second != first
    made.close()


def test_an_error_is_a_line_and_the_next_change_works(box):
    before = box.picture.value
    box.controls["n"].value = 4
    assert box.message == "there is no fourth" and box.picture.value == before
    box.controls["n"].value = 3
    assert box.message == "" and box.picture.value != before
    with pytest.raises(InputError, match="no fourth"):
        play(draw, n=range(4, 5))


def test_everything_is_labelled_and_the_picture_is_a_png(box):
    for name, control in box.controls.items():
        assert control.description == name and control.tooltip
    assert isinstance(box.picture, ipywidgets.Image) and box.picture.format == "png"
    assert play(draw, title="the map of a place").picture.tooltip == "the map of a place"


def test_a_widget_is_taken_as_it_is_and_labelled():
    box = play(draw, area=ipywidgets.IntRangeSlider(value=(1, 3), max=8))
    assert box.picture.value == draw(area=(1, 3)) and box.controls["area"].description == "area"
    box.close()


@pytest.mark.parametrize("bad", [range(0), [], "base", 3, (1, 0, 1), {"value": 3}])
def test_what_is_no_control_is_named(bad):
    with pytest.raises(InputError, match="control n = .* is not a range"):
        play(draw, n=bad)


def test_close_leaves_nothing_behind():
    before = dict(registry._instances)
    play(draw, n=range(3), arm=["base"]).close()
    assert registry._instances == before
