"""The widgets without a browser: messages in, bytes out, errors as a line, nothing left behind."""

import io
from datetime import UTC, datetime

import ipywidgets
import numpy as np
import pytest
import torch
from ipywidgets.widgets import widget as registry
from PIL import Image
from test_attended import episode, model

from fss.explorer import Explorer, draw_masks, explore, explore_world
from fss.explorer.elements import HINT, Painter, Picker
from fss.explorer.scenes import DISTRACTOR, EMPTY, ITSELF, OTHER, OWN, SUPPORTS

ARMS = ("published", "best", "base")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    made = {arm: model(arm) for arm in ARMS}
    monkeypatch.setattr("fss.explorer.explore_widget.network", made.__getitem__)


@pytest.fixture
def box():
    made = explore(episode(), other=episode(1), networks=ARMS)
    yield made
    made.close()


def photo(height=40, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def painter():
    made = draw_masks([photo(), photo(30, 30)], photo(seed=1), networks=("best", "published"))
    yield made
    made.close()


def point(box, y, x):
    box.picker._handle_custom_msg({"point": [y, x]}, [])


def step(box, down, right):
    box.picker._handle_custom_msg({"step": [down, right]}, [])


def upload(control, *files):
    control.value = tuple(
        {"name": name, "type": "", "size": len(content), "content": content, "last_modified": datetime.now(UTC)}
        for name, content in files
    )


def png(array):
    content = io.BytesIO()
    Image.fromarray(array).save(content, format="PNG")
    return content.getvalue()


def every(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from every(child)


# The explorer


def test_a_click_moves_everything(box):
    before, answered = box.picture.value, box.picker.answered
    point(box, 0.3, 0.99)
    assert box.explorer.place == (1, 8) == (box.rows.value, box.cols.value)
    assert box.picture.value != before and box.picture.value == box.explorer.render(query=False)
    assert box.message == box.explorer.text() and "row 1, column 8" in box.picker.label
    top, left, bottom, right = box.picker.marks[-1]
    assert top < 0.3 < bottom and left < 0.99 < right
    assert box.picker.answered == answered + 1


def test_keys_and_sliders_move_too(box):
    box.rows.value = 0
    assert box.explorer.place == (0, 4)
    step(box, 1, -2)
    assert box.explorer.place == (1, 2) == (box.rows.value, box.cols.value)


@pytest.mark.parametrize(("y", "x"), [(-0.1, 0.5), (0.5, 1.3), (None, 2)])
def test_a_click_outside_is_a_line_and_the_next_one_works(box, y, x):
    before, answered = box.picture.value, box.picker.answered
    point(box, y, x)
    assert ("outside the picture" if y else "fault of the kit") in box.message
    assert 'role="alert"' in box.line.value and box.picture.value == before
    assert box.picker.answered == answered + 1  # or the script would wait for ever
    point(box, 0.1, 0.1)
    assert 'role="status"' in box.line.value and box.message == box.explorer.text()


def test_a_key_at_the_rim_is_a_line(box):
    box.select(0, 0)
    step(box, -1, 0)
    assert "outside the picture" in box.message and box.explorer.place == (0, 0)


def test_every_choice_of_every_network_is_shown(box):
    for arm in ARMS:
        box.network.value = arm
        own = Explorer(model(arm), episode())
        assert [value for _, value in box.map.options] == list(own.attended.maps)
        for name in own.attended.maps:
            box.map.value = name
            for shot in ("each", "mean", "2"):
                box.shot.value = shot
                own.place = box.explorer.place
                own.choose(map=name, shot=shot)
                assert box.picture.value == own.render(query=False)
        box.shot.value = "each"


def test_temperature_and_strength_change_the_picture_and_not_the_prediction(box):
    seen, prediction = {box.picture.value}, box.explorer.attended.prediction
    for control, value in ((box.temperature, 100), (box.temperature, 0.1), (box.strength, 0.2)):
        control.value = value
        seen.add(box.picture.value)
    assert len(seen) == 4 and box.explorer.temperature == pytest.approx(0.1)
    assert box.explorer.attended.prediction is prediction


def test_a_network_without_the_chosen_map_takes_its_first(box):
    box.map.value = "light"
    box.select(3, 3)
    box.network.value = "best"
    assert box.map.value == "match3" == box.explorer.map and box.explorer.place == (3, 3)
    assert box.message == box.explorer.text()


def test_swaps(box):
    assert box.support.options == (OWN, OTHER, EMPTY, ITSELF)
    shots = {}
    for support in box.support.options:
        box.support.value = support
        shots[support] = len(box.explorer.attended.episode.support)
    assert shots == {OWN: 2, OTHER: 1, EMPTY: 2, ITSELF: 1}
    unknown = episode()._replace(target=torch.full_like(episode().target, 255))
    other = explore(unknown, networks=ARMS)
    assert other.support.options == (OWN, EMPTY)
    other.close()


def test_a_network_by_its_name_is_shown_in_the_world():
    box = explore("best", networks=ARMS)
    assert box.network.options == (("best", "best"), ("published", "published"), ("base", "base"))
    assert box.explorer.map == "match3" and box.message == box.explorer.text()
    box.close()


def test_the_worlds_knobs_change_the_query():
    box = explore_world("shape-0007", size=64, networks=ARMS)
    knobs = {control.description: control for control in every(box) if hasattr(control, "description")}
    seen = {box.picker.picture}
    for name, value in (
        ("distractors", 6),
        ("they share", "texture"),
        ("they share", "outline"),
        ("occlusion", 0.0),
        ("size", 0.3),
        ("picture", 3),
        ("class", "shape-0009"),
    ):
        knobs[name].value = value
        assert box.message == box.explorer.text(), name
        seen.add(box.picker.picture)
    assert len(seen) == 8
    assert box.support.options == SUPPORTS
    box.support.value = DISTRACTOR
    assert "no distractor of a class of its own" in box.message  # they share the outline
    knobs["they share"].value = "none"
    assert box.message == box.explorer.text()
    box.close()


# The painter


def test_paint_undo_segment(painter):
    painter.active.value = 0
    before = painter.painter.picture
    painter.paint("box", [(5, 5), (20, 30)])
    assert painter.painter.picture != before and painter.canvases[0].mask.sum() == 16 * 26
    assert "16.2 % of the picture is labelled" in painter.message
    painter.press("Undo")
    assert painter.painter.picture == before
    painter.press("Undo")
    assert painter.message == "there is nothing to undo"
    painter.press("Segment")
    assert painter.message == "the mask of picture 1 is empty; paint over its object first"
    assert painter.result is None
    painter.paint("box", [(-1, -1), (99, 99)])
    painter.press("Segment")
    assert "covers all of it" in painter.message
    painter.paint("eraser", [(0, 0)])
    painter.active.value = 1
    painter.paint("polygon", [(1, 1), (1, 25), (20, 9)])
    painter.press("Segment")
    assert painter.message.startswith("Segmented with best")
    assert painter.result in painter.children[-1].children
    assert painter.episode.support.shape == (2, 3, 256, 256)
    first = painter.result
    first.support.value = EMPTY
    painter.paint("brush", [(20, 20)], 3)
    painter.press("Segment")
    assert painter.result is first
    assert torch.equal(first.explorer.attended.episode.mask, painter.episode.mask)


def test_strokes_come_as_messages(painter):
    answered = painter.painter.answered
    for content, said in (
        ({"tool": "brush", "points": [[5, 5], [8, 8]], "radius": 2}, "labelled"),
        ({"tool": "brush", "points": [[500, 500]], "radius": 2}, "outside the picture"),
        ({"tool": "brush", "points": None, "radius": 2}, "fault of the kit"),
        ({}, "fault of the kit"),
        ({"tool": "polygon", "points": [[5, 5], [8, 8]], "radius": 2}, "at least 3 points"),
    ):
        painter.painter._handle_custom_msg(content, [])
        assert said in painter.message
    assert painter.painter.answered == answered + 5
    painter.tool.value, painter.radius.value = "eraser", 20
    assert (painter.painter.tool, painter.painter.radius) == ("eraser", 20)


def test_clear_and_remove(painter):
    painter.paint("box", [(1, 1), (9, 9)])
    painter.press("Clear")
    assert not painter.canvas.mask.any()
    painter.press("Remove")
    painter.press("Remove")
    assert painter.canvases == [] and "Upload a picture" in painter.message
    for button in ("Remove", "Undo", "Clear"):
        painter.press(button)
        assert painter.message == "there is no support picture yet; upload one"
    painter.press("Segment")
    assert "no support picture" in painter.message


def test_uploads():
    painter = draw_masks(networks=("best",))
    painter.press("Segment")
    assert painter.message == "there is no query picture yet; upload one"
    upload(painter.support_upload, ("cat.png", png(photo())))
    upload(painter.support_upload, ("cat.png", png(photo())))  # the same one once more
    assert [c.name for c in painter.canvases] == ["cat.png"] * 2 and painter.active.value == 1
    mask = np.zeros((40, 64), np.uint8)
    mask[4:20] = 255
    upload(painter.mask_upload, ("mask.png", png(mask)))
    assert painter.canvases[1].mask.sum() == 16 * 64
    upload(painter.query_upload, ("dog.png", png(photo(20, 20))))
    assert painter.query.image.shape == (20, 20, 3)
    for control, content, said in (
        (painter.support_upload, b"no picture", "notes.png is no picture"),
        (painter.query_upload, png(photo(1, 1)), "1 x 1 pixels"),
        (painter.mask_upload, png(mask[:9]), "64 x 9 pixels"),
        (painter.mask_upload, png(0 * mask), "marks no object"),
    ):
        upload(control, ("notes.png", content))
        assert said in painter.message and 'role="alert"' in painter.line.value
    assert len(painter.canvases) == 2 and painter.query.name == "dog.png"
    upload(painter.support_upload, *[(f"{n}.png", png(photo())) for n in range(4)])
    assert len(painter.canvases) == 5 and "1 of 4 pictures were left out" in painter.message
    painter.close()


def test_save_and_load(painter, tmp_path):
    painter.target.value, painter.class_name.value = str(tmp_path), "cup"
    painter.press("Save")
    assert "is empty" in painter.message and not list(tmp_path.iterdir())
    for n in (0, 1):
        painter.active.value = n
        painter.paint("box", [(1, 1), (9, 9)])
    painter.press("Save")
    assert f"--data folder:{tmp_path}" in painter.message
    assert len(list((tmp_path / "cup").iterdir())) == 4
    painter.folder.value = str(tmp_path / "cup")
    painter.press("Load folder")
    assert len(painter.canvases) == 4 and painter.canvases[3].mask.any()
    painter.folder.value = str(tmp_path / "none")
    painter.press("Load folder")
    assert "no folder" in painter.message


def test_masks_given_at_the_start():
    mask = np.zeros((40, 64), np.uint8)
    mask[3:9, 2:30] = 1
    painter = draw_masks([(photo(), mask)], photo(), networks=("best",))
    assert np.array_equal(painter.canvases[0].mask, mask)
    painter.close()


# Both


@pytest.mark.parametrize("kind", ["explore", "world", "paint"])
def test_close_leaves_nothing_behind(kind):
    before = dict(registry._instances)
    if kind == "paint":
        box = draw_masks([photo()], photo(), networks=("best",))
        box.paint("box", [(1, 1), (9, 9)])
        box.press("Segment")
        assert box.result is not None
    elif kind == "world":
        box = explore_world(size=64, networks=ARMS)
    else:
        box = explore(episode(), networks=ARMS)
        point(box, 0.1, 0.1)
    assert len(registry._instances) > len(before) + 30
    widgets = list(every(box))
    box.close()
    assert registry._instances == before
    assert not any(w._trait_notifiers.get("value", {}).get("change") for w in widgets)
    box.close()  # once more does no harm


@pytest.mark.parametrize("made", ["box", "painter"])
def test_everything_is_labelled(made, request):
    for widget in every(request.getfixturevalue(made)):
        if isinstance(widget, Picker | Painter):
            assert "rrow keys" in widget.label
        elif isinstance(widget, ipywidgets.Image):
            assert widget.tooltip and widget.format == "png"
            assert widget.description == ""  # or the script of the tooltip fails
        elif not isinstance(widget, ipywidgets.Box | ipywidgets.HTML):
            assert widget.description
            assert widget.tooltip or widget.tooltips


def test_a_page_without_the_extension_says_what_to_do(box):
    assert box._repr_mimebundle_()["text/plain"] == HINT


@pytest.mark.parametrize("kind", [Picker, Painter])
def test_scripts_come_with_the_package_and_from_nowhere_else(kind):
    made = kind(print)
    script = str(made._esm)
    assert "export default { render }" in script
    assert "http" not in script and "import " not in script and "innerHTML" not in script
    made.close()


def test_text_is_escaped(box):
    box.say("<img src=x onerror=alert(1)>")
    assert "<img" not in box.line.value and box.message == "<img src=x onerror=alert(1)>"
