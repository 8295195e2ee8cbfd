"""One row of a map at a time is the network's own map, wherever it is asked."""

import pytest
import torch
from tiny import boxes, network

from fss.config import DANetConfig
from fss.episodes import EpisodeBatch, EpisodeDataset, EpisodeList
from fss.errors import InputError
from fss.explorer.attended import MAPS, Attended

pytestmark = pytest.mark.numbers

HEIGHT, WIDTH, SHOTS = 40, 72, 2
ARMS = {
    "published": DANetConfig.published(),
    "intended": DANetConfig.intended(),
    "best": DANetConfig.best(),
    "base": DANetConfig.published(lda=False, pca=False),
}


def episode(shots=SHOTS):
    data = boxes(size=WIDTH)
    whole = EpisodeDataset(data, EpisodeList.sample(data, shots=shots, episodes=1, seed=0))[0]
    return EpisodeBatch(*(tensor[..., :HEIGHT, :] for tensor in whole))


def model(arm):
    made = network(**{**ARMS[arm].to_json(), "channels": 8})
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith(("alpha", "beta", "theta")):
                parameter.fill_(0.5)
            if "query_proj" in name:
                parameter.mul_(30)  # an untrained attention is even, and all its pictures are one
    return made


def whole_maps(made, e):
    with torch.no_grad():
        return made(e.query[None], e.support[None], e.mask[None], need_maps=True)


@pytest.mark.parametrize("arm", ARMS)
def test_answer_is_the_networks(arm):
    made, e = model(arm), episode()
    attended, prediction = Attended(made, e), whole_maps(made, e)
    torch.testing.assert_close(attended.probability, prediction.logits.softmax(1)[0, 1])
    assert torch.equal(attended.prediction, prediction.mask()[0])
    torch.testing.assert_close(attended.prior, prediction.attention["prior"][0, 0])
    known, truth = e.target != 255, e.target == 1
    found = (attended.prediction == 1) & known
    assert attended.iou == pytest.approx(float((found & truth).sum() / (found | truth).sum()))


@pytest.mark.parametrize("arm", ["published", "intended"])
@pytest.mark.parametrize("place", [(0, 0), (1, 7), (4, 8)])
def test_temperature_one_is_the_networks_own_map(arm, place):
    made, e = model(arm), episode()
    attended, maps = Attended(made, e), whole_maps(made, e).attention
    (row, col), (rows, cols) = place, attended.grid
    assert (rows, cols) == (5, 9)
    dense = maps["dense_by_shot"][0, :, row * cols + col].reshape(SHOTS, rows, cols)
    torch.testing.assert_close(attended.shares("dense", place), dense)
    by_row = maps["rows_by_shot"][0, :, row][:, :, None].expand(SHOTS, rows, cols) / cols
    by_col = maps["cols_by_shot"][0, :, col][:, None, :].expand(SHOTS, rows, cols) / rows
    torch.testing.assert_close(attended.shares("rows", place), by_row)
    torch.testing.assert_close(attended.shares("cols", place), by_col)
    torch.testing.assert_close(attended.shares("light", place), (by_row + by_col) / 2)


@pytest.mark.parametrize("place", [(0, 0), (2, 5), (4, 8)])
def test_matches_are_the_networks_own_on_their_own_grids(place):
    made, e = model("best"), episode()
    attended, maps = Attended(made, e), whole_maps(made, e).attention
    for name, (height, width) in (("match3", (3, 5)), ("match4", (2, 3))):
        i = place[0] * height // 5 * width + place[1] * width // 9
        expected = maps[f"{name}_by_shot"][0, :, i].reshape(SHOTS, height, width)
        torch.testing.assert_close(attended.shares(name, place), expected)
        torch.testing.assert_close(expected.sum(), torch.tensor(1.0))  # over both shots together


@pytest.mark.parametrize("arm", ["published", "intended", "best"])
def test_temperature_divides_the_scores(arm):
    attended = Attended(model(arm), episode())
    for name in set(attended.maps) - {"prior", "light"}:
        own = attended.shares(name, (2, 3)).double().flatten(1)
        warm = attended.shares(name, (2, 3), temperature=3).double().flatten(1)
        axis = (0, 1) if name.startswith("match") else 1
        powered = own ** (1 / 3)
        warm, powered = (x / x.sum(axis, keepdim=True) for x in (warm, powered))
        torch.testing.assert_close(warm, powered, atol=1e-6, rtol=1e-4)
        assert warm.max() <= own.max() + 1e-6


def test_heat_lets_a_pointed_map_show_its_ranking():
    """What underflows to nothing at 1 is still there when the scores are divided."""
    made = model("published")
    with torch.no_grad():
        made.dense.query_proj.weight.mul_(1e6)
        made.dense.query_proj.bias.mul_(1e6)
    attended = Attended(made, episode())
    assert (attended.shares("dense", (2, 3)) == 0).any()
    assert (attended.shares("dense", (2, 3), temperature=1e6) > 0).all()


def test_maps_are_those_that_the_network_has():
    has = {arm: Attended(model(arm), episode()).maps for arm in ARMS}
    assert has["published"] == has["intended"] == ("dense", "light", "rows", "cols", "prior")
    assert has["best"] == ("match3", "match4", "prior")
    assert has["base"] == ("prior",)
    assert set().union(*has.values()) == set(MAPS)
    bare = network(lda=False, pca=False, prior=None)
    with pytest.raises(InputError, match="neither attention nor a prior"):
        Attended(bare, episode())


def test_no_whole_map_is_built(monkeypatch):
    made, e = model("published"), episode()
    forward, asked = made.dense.forward, []

    def watched(*args, need_map=True):
        asked.append(need_map)
        return forward(*args, need_map=need_map)

    monkeypatch.setattr(made.dense, "forward", watched)
    backbone, passes = made.backbone.forward, []
    monkeypatch.setattr(made.backbone, "forward", lambda x: passes.append(len(x)) or backbone(x))
    attended = Attended(made, e)
    for place in ((0, 0), (1, 1)):
        attended.shares("dense", place)
    assert asked == [False] and sorted(passes) == [1, SHOTS]


def test_places_and_their_cells():
    attended = Attended(model("base"), episode())
    assert attended.cell(0, 0) == (0, 0, 1 / 5, 1 / 9)
    for row in range(5):
        for col in range(9):
            top, left, bottom, right = attended.cell(row, col)
            assert attended.place_at((top + bottom) / 2, (left + right) / 2) == (row, col)
    assert attended.cell(1, 2, (2, 3)) == (0.5, 2 / 3, 1, 1)
    for y, x in ((-0.1, 0.5), (0.5, 1.0), (1.2, 0.2), (float("nan"), 0.5)):
        with pytest.raises(InputError, match="outside the picture"):
            attended.place_at(y, x)


def test_aligned_places_lie_around_their_corners():
    made = model("base")
    made.backbone.aligned = True
    attended = Attended(made, episode())
    top, left, bottom, right = attended.cell(1, 4)
    assert (top, bottom) == (0.5 / 4, 1.5 / 4) and (left, right) == (3.5 / 8, 4.5 / 8)
    assert attended.cell(0, 8) == (0, 7.5 / 8, 0.5 / 4, 1)
    assert attended.place_at(0.12, 0.99) == (0, 8) and attended.place_at(0.13, 0.5) == (1, 4)


def test_truth_that_is_not_known_or_empty():
    e = episode()
    assert Attended(model("base"), e._replace(target=torch.full_like(e.target, 255))).iou is None
    attended = Attended(model("base"), e._replace(target=torch.zeros_like(e.target)))
    assert attended.iou == (0 if attended.prediction.any() else None)


def test_a_batch_is_no_episode():
    e = episode()
    with pytest.raises(InputError, match=r"\[1, 3, 40, 72\].*pick one of the batch"):
        Attended(model("base"), EpisodeBatch(*(tensor[None] for tensor in e)))
