"""The explorer without a browser: choices, numbers, pictures."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from test_attended import SHOTS, episode, model

from fss.errors import InputError
from fss.explorer import Explorer
from fss.explorer.panels import percent

pytestmark = pytest.mark.numbers


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.fixture(scope="module", params=["published", "intended", "best", "base"])
def explorer(request):
    return Explorer(model(request.param), episode())


def test_every_map_and_shot_is_drawn(explorer):
    seen = set()
    for name in explorer.attended.maps:
        for shot in ("each", "mean", 1, "2"):
            explorer.choose(map=name, shot=shot)
            png = explorer.render()
            assert png.startswith(b"\x89PNG") and pixels(png).std() > 10
            assert len(explorer.render(query=False)) < len(png)
            seen.add(png)
    explorer.choose(map=explorer.attended.maps[0], shot="each")
    # of the prior, 'each' and 'mean' show the same
    assert len(seen) == 4 * len(explorer.attended.maps) - 1


def test_a_new_place_is_a_new_picture_and_the_old_one_comes_back(explorer):
    explorer.select(1, 1)
    before = explorer.render()
    explorer.select(3, 7)
    assert explorer.render() != before
    explorer.select(1, 1)
    assert explorer.render() == before


@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (5, 0), (0, 9)])
def test_a_place_outside_is_a_clear_line_and_changes_nothing(explorer, place):
    explorer.select(1, 2)
    with pytest.raises(InputError, match=r"outside the picture: rows run from 0 to 4, columns .*8$"):
        explorer.select(*place)
    with pytest.raises(InputError, match="outside the picture"):
        explorer.snapshot([(0, 0), place])
    assert explorer.place == (1, 2)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"map": "dens"}, "no map 'dens'"),
        ({"shot": 3}, "no shot 3; known: each, mean, 1, 2"),
        ({"shot": "0"}, "no shot '0'"),
        ({"temperature": 0}, "0.1..100"),
        ({"temperature": float("nan")}, "0.1..100"),
        ({"strength": 1.1}, "0..1"),
    ],
)
def test_bad_choices_change_nothing(explorer, choice, said):
    with pytest.raises(InputError, match=said):
        explorer.choose(**{"strength": 0.5, **choice})
    assert explorer.strength == 0.65


def test_heat_by_shot_and_mean():
    dense = Explorer(model("published"), episode())
    each = dense.heat()
    dense.choose(shot=2)
    assert torch.equal(dense.heat(), each[1:])
    dense.choose(shot="mean")
    torch.testing.assert_close(dense.heat(), each.mean(0, keepdim=True))
    match = Explorer(model("best"), episode())
    each = match.heat()
    match.choose(shot="mean")
    torch.testing.assert_close(match.heat().sum(), torch.tensor(1.0))
    torch.testing.assert_close(match.heat()[0], each.sum(0))


def test_numbers_by_hand():
    made, e = model("published"), episode()
    explorer = Explorer(made, e)
    explorer.select(2, 4)
    found, cell = explorer.numbers(), (slice(16, 24), slice(32, 40))
    assert found["probability"] == pytest.approx(float(explorer.attended.probability[cell].mean()))
    assert found["truth"] == pytest.approx(float((e.target[cell] == 1).float().mean()))
    heat = explorer.heat()
    shot, row, col = np.unravel_index(int(heat.argmax()), heat.shape)
    assert (found["shot"], found["at"]) == (shot + 1, (row, col))
    assert found["largest"] == heat.max()
    inside = (e.mask == 1).float().reshape(SHOTS, 5, 8, 9, 8).mean((2, 4))
    assert found["on_object"] == pytest.approx(float((heat * inside).sum() / SHOTS), rel=1e-4)
    explorer.choose(shot=2)
    assert explorer.numbers()["shot"] == 2
    explorer.choose(shot="mean")
    assert explorer.numbers()["on_object"] == pytest.approx(found["on_object"])
    explorer.choose(map="prior")
    assert explorer.numbers().keys() == {"probability", "truth", "prior"}


def test_truth_leaves_ignored_pixels_out():
    e = episode()
    target = torch.full_like(e.target, 255)
    target[0, 0], target[0, 1] = 1, 0
    explorer = Explorer(model("base"), e._replace(target=target))
    explorer.select(0, 0)
    assert explorer.numbers()["truth"] == 0.5
    explorer.select(1, 1)
    assert explorer.numbers()["truth"] is None and "truth" not in explorer.text()


def test_text_says_the_numbers():
    explorer = Explorer(model("intended"), episode())
    explorer.select(1, 2)
    found = explorer.numbers()
    assert explorer.text().startswith(f"Query place (1, 2): {percent(found['probability'])} object")
    assert f"prior {found['prior']:.2f}" in explorer.text()
    assert "of the look is on the object" in explorer.text() and "temperature" not in explorer.text()
    explorer.choose(temperature=5)
    assert explorer.text().endswith("temperature 5 (the network's own is 1)")


def test_even_attention_has_no_peak():
    e = episode(shots=1)
    made = model("published")
    with torch.no_grad():
        made.dense.query_proj.weight.zero_()
        made.dense.query_proj.bias.zero_()
    explorer = Explorer(made, e)
    assert explorer.numbers()["alike"] == 45
    assert "45 places get the most alike: 2.22 % each" in explorer.text()
    assert [panel.marks for panel in explorer.heats()] == [[]]


def test_snapshot_holds_every_point_and_keeps_the_place():
    explorer = Explorer(model("published"), episode(shots=1))
    explorer.select(1, 1)
    one, four = (pixels(explorer.snapshot(points)) for points in ([(0, 0)], [(n, n) for n in range(4)]))
    assert explorer.place == (1, 1)
    assert one.shape[0] == four.shape[0] and one.shape[1] == four.shape[1]
    assert not np.array_equal(one, four)
    with pytest.raises(InputError, match="at least one place"):
        explorer.snapshot([])
    shots = Explorer(model("published"), episode())
    assert pixels(shots.snapshot([(0, 0), (1, 1)])).shape[0] > one.shape[0]


def test_without_a_truth_probabilities_take_the_place_of_errors():
    e = episode()
    explorer = Explorer(model("base"), e._replace(target=torch.full_like(e.target, 255)))
    assert [panel.title for panel in explorer.answer] == [
        "prediction",
        "probability of the object",
    ]
