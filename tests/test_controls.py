"""Supports that are absent from the query, or of another object in it: what a score counts beside."""

import hashlib
import json
from dataclasses import asdict, replace

import pytest
import torch
from tiny import boxes, network

from fss.config import Scoring
from fss.data import open_dataset
from fss.episodes import EpisodeDataset, EpisodeList, EpisodeStream, draw_episode, episode_loader
from fss.errors import InputError
from fss.evaluate import UNVERIFIED, all_foreground, evaluate
from fss.features import CachedFeatures, FeatureBatch, LiveFeatures

DATA = open_dataset("shapes", split="test", fold=0, size=64)
LISTS = {
    support: EpisodeList.sample(DATA, shots=2, episodes=24, seed=3, support=support)
    for support in ("own", "absent", "other")
}


def measure(data, episodes, **options):
    return evaluate(network(), data, episodes, cache=False, **options)


def nothing(batch: FeatureBatch) -> torch.Tensor:
    return torch.zeros_like(batch.target)


def truth(batch: FeatureBatch) -> torch.Tensor:
    return (batch.target == 1).to(torch.uint8)


def first_object(batch: FeatureBatch) -> torch.Tensor:
    return torch.stack([DATA.read(episode.listed, episode.query)[1] for episode in batch.episodes])


@pytest.mark.parametrize("support", ["absent", "other"])
def test_a_query_is_asked_for_a_class_that_it_does_not_show_or_for_another_one(support):
    for episode in LISTS[support]:
        assert episode.shown and episode.class_name != episode.shown and episode.listed == episode.shown
        assert DATA.reader.shows(episode.shown, episode.query, episode.class_name) is (support == "other")
        assert {*episode.support} <= {*DATA[episode.class_name].names} and len({*episode.support}) == 2
    assert len({episode.class_name for episode in LISTS[support]}) > 10
    LISTS[support].check(DATA)


def test_the_target_is_what_is_asked_for():
    for batch in episode_loader(EpisodeDataset(DATA, LISTS["absent"].episodes), batch=5):
        assert not batch.target.any() and (batch.mask == 1).flatten(2).any(2).all()
    for episode, pictures in zip(LISTS["other"], EpisodeDataset(DATA, LISTS["other"].episodes), strict=False):
        _, instances = DATA.reader.instances(episode.shown, episode.query, DATA.size)
        (label,) = (
            n
            for n in range(2, instances.max() + 1)
            if DATA.reader.class_of(episode.shown, episode.query, n) == episode.class_name
        )
        assert torch.equal(pictures.target, torch.from_numpy((instances == label).astype("uint8")))


@pytest.mark.parametrize("support", ["absent", "other"])
def test_cached_features_ask_the_same(support):
    model = network()
    data = replace(DATA, images={name: names[:2] for name, names in DATA.images.items()})
    episodes = EpisodeList.sample(data, shots=1, episodes=20, seed=1, support=support)
    live, cached = LiveFeatures(model, data), CachedFeatures(model, data)
    for a, b in zip(live.batches(episodes, 9), cached.batches(episodes, 9), strict=True):
        assert torch.equal(a.target, b.target) and torch.equal(a.mask, b.mask)
        assert torch.equal(a.query.block3, b.query.block3) and torch.equal(a.support.block3, b.support.block3)


@pytest.mark.parametrize("support", ["own", "absent", "other"])
def test_more_shots_append_support_and_change_nothing_else(support):
    for index in range(12):
        few, many = (draw_episode(DATA, shots, 5, index, support) for shots in (1, 5))
        assert replace(many, support=many.support[:1]) == few


def test_lists_come_back_and_own_ones_keep_their_hash(tmp_path):
    for support, episodes in LISTS.items():
        episodes.save(tmp_path / "list.json")
        again = EpisodeList.load(tmp_path / "list.json")
        assert again == episodes and again.support == support
    own = [{k: v for k, v in asdict(episode).items() if k != "shown"} for episode in LISTS["own"]]
    assert LISTS["own"].sha256 == hashlib.sha256(json.dumps(own).encode()).hexdigest()


def test_where_no_label_says_what_is_absent_a_note_does():
    data = boxes(classes=3, pictures=4)
    episodes = EpisodeList.sample(data, shots=1, episodes=9, seed=0, support="absent")
    assert all(episode.shown != episode.class_name for episode in episodes)
    assert UNVERIFIED in measure(data, episodes)["notes"]
    with pytest.raises(InputError, match="boxes, test: hardly a picture shows two of its classes, as --support other"):
        EpisodeList.sample(data, shots=1, episodes=1, seed=0, support="other")


def test_objects_that_share_their_looks_are_asked_for_by_nobody():
    data = open_dataset("shapes:share=texture", split="test", fold=0, size=64)
    with pytest.raises(InputError, match="share=texture"):
        measure(data, EpisodeList.sample(data, shots=1, episodes=3, seed=0, support="other"))


def test_nothing_to_find():
    result = measure(DATA, LISTS["absent"], predict=all_foreground)
    assert (result["support"], result["marked"], result["mean_episode_iou"]) == ("absent", 1, 0)
    assert [result[name] for name in ("miou", "miou_interval", "fb_iou", "per_class")] == [None, None, None, {}]
    result = measure(DATA, LISTS["absent"], predict=nothing)
    assert (result["marked"], result["mean_episode_iou"], result["episodes"]) == (0, 1, 24)


def test_the_other_object():
    result = measure(DATA, LISTS["other"], predict=truth)
    assert (result["support"], result["miou"], result["stays"]) == ("other", 1, 0)
    assert result["pictures"] == len({(episode.shown, episode.query) for episode in LISTS["other"]})
    result = measure(DATA, LISTS["other"], predict=first_object)
    assert (result["miou"], result["stays"]) == (0, 1)
    assert "stays" not in measure(DATA, LISTS["own"], predict=truth)


def test_controls_are_scored_at_the_networks_size():
    with pytest.raises(InputError, match="--support absent is scored at the network's size"):
        measure(DATA, LISTS["absent"], scoring=Scoring(at="label"))


def test_a_share_of_the_training_has_nothing_to_find():
    episodes = EpisodeStream(DATA, 1, 4, 200, absent=0.3)
    absent = [episode.shown is not None for episode in episodes]
    assert 40 < sum(absent) < 80
    assert all(episodes[n] == EpisodeStream(DATA, 1, 4, 9999, absent=0.3)[n] for n in (0, 7, 199))
    own = EpisodeStream(DATA, 1, 4, 200)
    assert all(a == b for a, b, other in zip(own, episodes, absent, strict=True) if not other)


def test_a_training_without_absent_pictures_is_refused_before_it_begins():
    alone = replace(DATA, images={name: DATA.images[name] for name in DATA.classes[:1]})
    assert len(EpisodeStream(alone, 1, 0, 5)) == 5
    with pytest.raises(InputError, match="hardly a picture is known not to show .* absent=SHARE need"):
        EpisodeStream(alone, 1, 0, 5, absent=0.1)
