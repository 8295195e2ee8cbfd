import json

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, strategies as st

from fss.errors import InputError
from fss.metrics import EpisodeTally

pytestmark = pytest.mark.numbers


def random_batch(seed, episodes=12, height=5, width=7, ignored=0.15):
    """Labels with holes, an easy and a hard class, class 5 with empty targets, 2 never drawn."""
    rng = np.random.default_rng(seed)
    target = (rng.random((episodes, height, width)) < 0.4).astype(np.int64)
    class_ids = rng.permutation(np.resize([0, 1, 3, 5], episodes))
    target[class_ids == 5] = 0
    flips = rng.random(target.shape) < np.where(class_ids == 1, 0.4, 0.1)[:, None, None]
    prediction = np.where(flips, 1 - target, target)
    prediction[class_ids == 5] = 0
    target[rng.random(target.shape) < ignored] = 255
    return prediction, target, class_ids


def tally_of(*batch):
    tally = EpisodeTally()
    tally.update(*batch)
    return tally


def tally_with_ious(ious, class_ids, pixels=1000):
    """One row of ``pixels`` object pixels an episode, of which the first are predicted."""
    hits = np.rint(np.asarray(ious) * pixels)[:, None, None]
    prediction = np.arange(pixels)[None, None] < hits
    return tally_of(prediction, np.ones_like(prediction), class_ids)


def figures(tally):
    return (
        tally.miou(),
        tally.fb_iou(),
        tally.mean_episode_iou(),
        tally.per_class(),
        len(tally),
    )


def same_multiset(a, b):
    return sorted(a.counts.tolist()) == sorted(b.counts.tolist())


# Hand-computed values


def test_one_episode_by_hand():
    target = [[[1, 1, 0], [0, 255, 255]]]
    prediction = [[[1, 0, 1], [0, 1, 0]]]
    tally = tally_of(prediction, target, [4])
    # object: 1 hit of 3; background: 1 of 3; both ignored pixels are left out
    assert tally.counts.tolist() == [[4, 1, 3, 1, 3]]
    assert tally.per_class() == {4: 1 / 3}
    assert tally.fb_iou() == pytest.approx(1 / 3)
    assert len(tally) == 1


def test_miou_sums_within_a_class_and_means_over_classes():
    tally = EpisodeTally()
    tally.update([[[1, 1, 1, 1]], [[0, 1, 0, 0]]], [[[1, 1, 1, 0]], [[1, 0, 0, 0]]], [7, 7])
    tally.update([[[1, 1, 0, 0]]], [[[1, 1, 0, 0]]], [2])
    # class 7: (3 + 0) / (4 + 2); class 2: 2 / 2
    assert tally.per_class() == {2: 1.0, 7: 0.5}
    assert tally.classes == (2, 7)
    assert tally.miou() == 0.75
    # foreground 5 / 8; background (0 + 2 + 2) / (1 + 4 + 2)
    assert tally.fb_iou() == pytest.approx((5 / 8 + 4 / 7) / 2)
    assert tally.mean_episode_iou() == pytest.approx((3 / 4 + 0 + 1) / 3)


def test_mean_over_images_is_another_figure():
    # A large object is cut out whole, a small one is missed: 80 of 82 pixels, 1 of 2 pictures.
    target = np.zeros((2, 8, 12), np.uint8)
    target[0, :, :10] = 1
    target[1, 0, :2] = 1
    prediction = target.copy()
    prediction[1] = 0
    tally = tally_of(prediction, target, [0, 0])
    assert tally.miou() == pytest.approx(80 / 82)
    assert round(tally.miou(), 3) == 0.976
    assert tally.mean_episode_iou() == 0.5


# Oracle


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_naive_loops(seed, dtype):
    prediction, target, class_ids = random_batch(seed)
    tally = tally_of(prediction, target.astype(dtype), class_ids)
    episodes = list(zip(class_ids.tolist(), prediction.tolist(), target.tolist(), strict=True))
    ious = reference.class_ious(episodes)
    assert 5 in class_ids and 5 not in ious and 2 not in ious
    assert tally.per_class() == pytest.approx(ious)
    assert tally.classes == tuple(ious)
    assert tally.miou() == pytest.approx(sum(ious.values()) / len(ious))
    assert tally.fb_iou() == pytest.approx(reference.fb_iou(episodes))
    assert tally.mean_episode_iou() == pytest.approx(reference.mean_episode_iou(episodes))
    for row, (class_id, *pictures) in zip(tally.counts.tolist(), episodes, strict=True):
        assert row == [class_id, *reference.episode_counts(*pictures)]


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.int32, torch.bool, torch.int64])
def test_tensors_arrays_and_every_integer_dtype_agree(kind):
    prediction, target, class_ids = random_batch(3)
    if isinstance(kind, torch.dtype):
        batch = (
            torch.from_numpy(prediction).to(kind),
            torch.from_numpy(target).to(torch.uint8),
            torch.from_numpy(class_ids),
        )
    else:
        batch = (prediction.astype(kind), target, class_ids.tolist())
    assert np.array_equal(tally_of(*batch).counts, tally_of(prediction, target, class_ids).counts)


# Edges


def test_class_without_union_is_not_covered():
    empty = np.zeros((1, 2, 3), np.int64)
    seen = np.ones((1, 2, 3), np.int64)
    tally = tally_of(empty, empty, [8]) + tally_of(seen, seen, [1])
    assert tally.per_class() == {1: 1.0}
    assert tally.miou() == 1.0
    assert tally.interval(over="episodes") == (1.0, 1.0)
    assert len(tally) == 2
    # a false alarm covers the class: its IoU is 0
    assert (tally + tally_of(seen, empty, [8])).per_class() == {1: 1.0, 8: 0.0}


def test_empty_episode_counts_as_right_and_an_ignored_one_not_at_all():
    empty = np.zeros((1, 2, 3), np.int64)
    missed = tally_of(empty, empty + 1, [0])
    assert missed.mean_episode_iou() == 0.0
    assert (missed + tally_of(empty, empty, [0])).mean_episode_iou() == 0.5
    assert (missed + tally_of(empty, empty + 255, [0])).mean_episode_iou() == 0.0


def test_fb_iou_leaves_out_the_side_that_never_occurs():
    ones = np.ones((1, 2, 3), np.int64)
    assert tally_of(ones, ones, [0]).fb_iou() == 1.0
    assert tally_of(0 * ones, 0 * ones, [0]).fb_iou() == 1.0
    assert tally_of(0 * ones, ones, [0]).fb_iou() == 0.0


@pytest.mark.parametrize("figure", ["miou", "fb_iou", "mean_episode_iou", "interval"])
@pytest.mark.parametrize("label", [None, 255])
def test_a_figure_of_nothing_raises(figure, label):
    tally = EpisodeTally()
    if label is not None:
        tally.update(np.zeros((1, 2, 3), int), np.full((1, 2, 3), label), [0])
    assert tally.per_class() == {}
    with pytest.raises(InputError, match=r"update the tally|pass \(target > 127\)"):
        getattr(tally, figure)()


@pytest.mark.parametrize("spill", [0, 1])
def test_targets_of_0_and_255_are_named(spill):
    """As files store masks: 255 would be ignored, and no object ever counted."""
    stored = np.zeros((2, 4, 5), np.uint8)
    stored[:, 1:3, 2:] = 255
    predicted = (stored == 255).astype(int)
    predicted[0, 0, :spill] = 1
    first, second = (tally_of(predicted[n : n + 1], stored[n : n + 1], [n]) for n in (0, 1))
    for tally in (first, first + second):
        for figure in ("miou", "fb_iou", "interval"):
            with pytest.raises(InputError, match=r"255 and never 1.* pass \(target > 127\)"):
                getattr(tally, figure)()
    right = tally_of(predicted[:1], stored[:1] > 127, [0]) + first
    assert right.miou() > 0


ZEROS = np.zeros((2, 3, 4), np.int64)


@pytest.mark.parametrize(
    ("prediction", "target", "class_ids", "message"),
    [
        (torch.zeros(2, 2, 3, 4), ZEROS, [0, 1], r"torch.float32.*argmax"),
        (torch.zeros(2, 3, 4, dtype=torch.bfloat16), ZEROS, [0, 1], "bfloat16.*argmax"),
        (ZEROS.astype(float), ZEROS, [0, 1], "float64.*argmax"),
        (ZEROS, ZEROS.astype(np.float32), [0, 1], "target is float32"),
        (ZEROS, ZEROS + 2, [0, 1], "target holds the label 2"),
        (ZEROS, ZEROS - 1, [0, 1], "target holds the label -1"),
        (ZEROS + 255, ZEROS, [0, 1], "prediction holds the label 255"),
        (ZEROS, ZEROS[:, :, :3], [0, 1], r"\[2, 3, 4\].*\[2, 3, 3\]"),
        (ZEROS[0], ZEROS[0], [0], "batch axis"),
        (ZEROS, ZEROS, [0], r"class_ids \[1\] must be \[2\]"),
        (ZEROS, ZEROS, [0.0, 1.0], "class_ids is float64"),
    ],
)
def test_bad_input_is_refused_and_leaves_the_tally_alone(prediction, target, class_ids, message):
    tally = tally_of(ZEROS, ZEROS + 1, [0, 1])
    before = tally.counts.copy()
    with pytest.raises(InputError, match=message):
        tally.update(prediction, target, class_ids, query_ids=["a", "b"])
    with pytest.raises(InputError, match="query_ids has 3 names, not 2"):
        tally.update(ZEROS, ZEROS, [0, 1], query_ids=["a", "b", "c"])
    assert np.array_equal(tally.counts, before) and tally.queries == []


# Properties

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 9), st.integers(1, 9))
def test_all_figures_lie_between_0_and_1(seed, height, width):
    prediction, target, class_ids = random_batch(seed, 6, height, width)
    prediction[0], target[0] = 1, 1
    tally = tally_of(prediction, target, class_ids)
    values = [tally.miou(), tally.fb_iou(), tally.mean_episode_iou(), *tally.per_class().values()]
    assert all(0 <= value <= 1 for value in values)
    lo, hi = tally.interval(over="episodes")
    assert 0 <= lo <= hi <= 1


@given(seeds, st.integers(1, 11))
def test_split_batch_and_merged_tallies_are_one_tally(seed, cut):
    prediction, target, class_ids = random_batch(seed)
    whole = tally_of(prediction, target, class_ids)
    split = tally_of(prediction[:cut], target[:cut], class_ids[:cut])
    rest = tally_of(prediction[cut:], target[cut:], class_ids[cut:])
    assert figures(rest + split) == figures(whole) == figures(split + rest)
    assert (rest + split).interval(over="episodes") == pytest.approx(whole.interval(over="episodes"), abs=1e-12)
    split.update(prediction[cut:], target[cut:], class_ids[cut:])
    assert np.array_equal(split.counts, whole.counts)
    assert len(rest) == 12 - cut


@given(seeds)
def test_what_is_predicted_on_ignored_pixels_does_not_matter(seed):
    prediction, target, class_ids = random_batch(seed, ignored=0.3)
    flipped = np.where(target == 255, 1 - prediction, prediction)
    assert not np.array_equal(flipped, prediction)
    tallies = tally_of(prediction, target, class_ids), tally_of(flipped, target, class_ids)
    assert np.array_equal(tallies[0].counts, tallies[1].counts)


@given(seeds)
def test_foreground_iou_is_symmetric_where_nothing_is_ignored(seed):
    prediction, target, class_ids = random_batch(seed, ignored=0)
    there, back = tally_of(prediction, target, class_ids), tally_of(target, prediction, class_ids)
    assert there.per_class() == back.per_class()
    assert there.fb_iou() == back.fb_iou()


# JSON


def test_json_round_trip():
    tally = tally_of(*random_batch(0))
    again = EpisodeTally.from_json(json.loads(json.dumps(tally.to_json())))
    assert np.array_equal(again.counts, tally.counts)
    assert figures(again) == figures(tally)
    assert len(EpisodeTally.from_json(EpisodeTally().to_json())) == 0


def test_names_of_query_pictures_go_along():
    batch = random_batch(0)
    named, more, unnamed = EpisodeTally(), EpisodeTally(), tally_of(*batch)
    named.update(*batch, query_ids=[f"a/{n}" for n in range(12)])
    more.update(*batch, query_ids=range(12))
    both = named + more
    assert both.queries == [*(f"a/{n}" for n in range(12)), *map(str, range(12))]
    assert len(named.queries) == 12  # a sum leaves its parts as they are
    record = json.loads(json.dumps(both.to_json()))
    assert record["query"] == both.queries
    again = EpisodeTally.from_json(record)
    assert (again.queries, figures(again)) == (both.queries, figures(both))
    assert "query" not in unnamed.to_json()
    assert "query" not in (named + unnamed).to_json()
    empty = EpisodeTally()
    assert (empty + named).queries == named.queries and "query" not in empty.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fg_union": [1]}, "impossible"),
        ({"fg_intersection": [-1]}, "impossible"),
        ({"bg_union": [2]}, "impossible"),
        ({"bg_union": [5, 5]}, "length"),
        ({"fg_union": [3.5]}, "fg_union is float64"),
        ({"extra": [1]}, "columns"),
        ({"query": ["a", "b"]}, "length"),
    ],
)
def test_damaged_json_is_refused(change, message):
    record = tally_of([[[1, 1, 0]]], [[[1, 1, 1]]], [0]).to_json()
    EpisodeTally.from_json(record)
    with pytest.raises(InputError, match=message):
        EpisodeTally.from_json(record | change)
