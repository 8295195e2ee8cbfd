"""Several classes at once: lists, labels and scores against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bad_input import said  # noqa: F401  a fixture
from tiny import network

import fss
from fss.data import open_dataset
from fss.episodes import EpisodeDataset, EpisodeList, draw_episode
from fss.errors import InputError
from fss.evaluate import BATCH, all_foreground, evaluate, exclusive, reference
from fss.model import DANet

DATA = open_dataset("shapes", split="test", fold=0, size=48)


def sampled(ways: int, episodes: int = 6, shots: int = 1, **options) -> EpisodeList:
    return EpisodeList.sample(DATA, shots=shots, episodes=episodes, seed=3, ways=ways, **options)


@pytest.mark.parametrize("shots", [1, 2])
def test_each_query_is_asked_for_its_own_class_and_for_others(shots):
    one, three = sampled(1, shots=shots), sampled(3, shots=shots)
    assert (one.ways, three.ways, len(three)) == (1, 3, 18)
    assert three.episodes == sampled(3, shots=shots).episodes and three.sha256 != sampled(2, shots=shots).sha256
    assert one == EpisodeList.sample(DATA, shots=shots, episodes=6, seed=3)
    for first, group in zip(one, (three[n : n + 3] for n in range(0, 18, 3)), strict=True):
        assert group[0] == first
        assert len({each.class_name for each in group}) == 3
        for each in group[1:]:
            assert (each.query, each.listed) == (first.query, first.class_name)
            assert len({*each.support}) == shots and {*each.support} <= {*DATA[each.class_name].names}
    three.check(DATA)


def test_a_saved_list_keeps_its_ways(tmp_path):
    sampled(2).save(tmp_path / "list.json")
    back = EpisodeList.load(tmp_path / "list.json")
    assert back.ways == 2 and back.episodes == sampled(2).episodes


@pytest.mark.parametrize("kept", [slice(0, 5), slice(1, 5)])
def test_a_list_whose_episodes_do_not_belong_together_is_refused(kept):
    with pytest.raises(InputError, match="do not ask one query for 2 classes; sample anew"):
        EpisodeList(sampled(2).episodes[kept], {"ways": 2}).check(DATA)


@pytest.mark.parametrize(
    ("ways", "options", "message"),
    [
        (0, {}, "ways = 0: use 1 or more"),
        (len(DATA) + 1, {}, f"ways = {len(DATA) + 1}: .* use at most {len(DATA)}"),
        (2, {"support": "absent"}, "ways = 2: .* with support 'absent' use at most 1"),
    ],
)
def test_ways_that_cannot_be(ways, options, message):
    with pytest.raises(InputError, match=message):
        sampled(ways, **options)


def test_a_pixel_goes_to_the_highest_class_above_the_ground():
    scores = torch.tensor([[[1.0, -1, 2], [0, 3, -2]], [[2.0, -2, 1], [0, 4, -1]]])  # two classes, 2 x 3 pixels
    assert exclusive(scores, 2).tolist() == [[[0, 0, 1], [0, 0, 0]], [[1, 0, 0], [0, 1, 0]]]
    assert exclusive(scores, 1).tolist() == (scores > 0).long().tolist()


def by_loops(model: DANet, episodes: EpisodeList, ways: int) -> tuple[np.ndarray, float]:
    """Label maps 0..ways of each query, and PANet's mean IoU over classes."""
    whole = EpisodeDataset(DATA, episodes)
    maps, sums = [], {}
    for start in range(0, len(episodes), ways):
        scores, truths = [], []
        for i in range(start, start + ways):
            batch = whole[i]
            with torch.no_grad():
                logits = model(batch.query[None], batch.support[None], batch.mask[None]).logits[0]
            scores.append((logits[1] - logits[0]).numpy())
            truths.append(batch.target.numpy())
        labels = np.zeros((48, 48), int)
        for y in range(48):
            for x in range(48):
                best = max(range(ways), key=lambda n: scores[n][y, x])
                if scores[best][y, x] > 0:
                    labels[y, x] = best + 1
        maps.append(labels)
        for n, truth in enumerate(truths):
            found, wanted = (labels == n + 1) & (truth != 255), truth == 1
            both = sums.setdefault(episodes[start + n].class_name, [0, 0])
            both[0] += (found & wanted).sum()
            both[1] += (found | wanted).sum()
    ious = [hit / union for hit, union in sums.values() if union]
    return np.stack(maps), float(np.mean(ious))


@pytest.mark.parametrize("ways", [2, 3, BATCH + 1])
def test_scores_are_those_of_plain_loops(ways):
    torch.manual_seed(0)
    model = network().eval()
    model.decoder.classify[-1].bias.data += torch.tensor([0.0, 0.05])  # so that objects are found, and meet
    episodes = sampled(ways, episodes=5)
    result = evaluate(model, DATA, episodes, cache=False)
    maps, miou = by_loops(model, episodes, ways)
    assert result["miou"] == pytest.approx(miou, abs=2e-3)  # a pixel at a border may round otherwise in a batch
    assert (result["ways"], result["episodes"], result["fb_iou"]) == (ways, 5 * ways, None)
    assert result["marked"] * ways == pytest.approx((maps > 0).mean(), abs=2e-3)
    assert 0.01 < (maps > 0).mean() and len(np.unique(maps)) > 2


def test_one_way_is_what_it_was():
    model = network().eval()
    plain = EpisodeList.sample(DATA, shots=1, episodes=6, seed=3)
    ours, theirs = (evaluate(model, DATA, each, cache=False) for each in (sampled(1), plain))
    del ours["seconds"], theirs["seconds"]
    assert ours == theirs and "ways" not in ours


def test_a_picture_that_shows_neither_class_stays_mostly_unlabelled():
    data = open_dataset("shapes", split="test", fold=0, size=224)
    absent = [draw_episode(data, 1, 0, index, "absent") for index in range(8)]
    pairs = []
    for one, other in zip(absent, absent[1:], strict=False):
        if data.reader.shows(one.shown, one.query, other.class_name) is False and one.class_name != other.class_name:
            pairs += [one, replace(other, query=one.query, shown=one.shown)]
    model = fss.load("intended-lite0-shapes")
    result = evaluate(model, data, EpisodeList(tuple(pairs), {"ways": 2, "support": "absent"}), cache=False)
    assert len(pairs) >= 10 and 2 * result["marked"] < 0.05


@pytest.mark.parametrize("name", ["prototype", "attended@0.02", "all-foreground"])
def test_references_give_a_pixel_to_one_class_only(name):
    model = network().eval()
    episodes = sampled(3)
    seen = []

    def noted(batch, ways=1):
        labels = (all_foreground if name == "all-foreground" else reference(name, model))(batch, ways)
        seen.append(labels.unflatten(0, (-1, ways)).sum(1))
        return labels

    evaluate(model, DATA, episodes, predict=noted, cache=False)
    assert torch.cat(seen).max() == 1 and len(torch.cat(seen)) == 6


def test_the_command(said, tmp_path):  # noqa: F811
    ask = (
        "eval",
        "--checkpoint",
        "prototype",
        "--data",
        "shapes",
        "--size",
        64,
        "--episodes",
        3,
        "--no-cache",
        "--quiet",
    )
    code, out, err = said(*ask, "--ways", 2, "--save-list", tmp_path / "list.json")
    assert (code, err) == (0, "") and "6 episodes of 1 shot, shapes test, 2 classes a query" in out and "FB" not in out
    code, again, _ = said(*ask, "--list", tmp_path / "list.json")
    assert (code, again) == (0, out)
    code, _, err = said(*ask, "--list", tmp_path / "list.json", "--ways", 3)
    assert code == 2 and "--ways 3: the list" in err and "has 2, which stays" in err
