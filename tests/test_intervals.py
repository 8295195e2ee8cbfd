"""Intervals: by hand, against naive loops, and how often they hold the truth."""

import time

import numpy as np
import pytest
import reference
from scipy.stats import t, ttest_ind

from fss.errors import InputError
from fss.intervals import Estimate, over_pictures, over_runs, over_values
from fss.metrics import EpisodeTally, paired_estimate, paired_interval

pytestmark = pytest.mark.numbers


def tally_of(counts, class_ids, queries=()):
    """Episodes of these (I, U) in pictures of a million pixels."""
    intersection, union = np.asarray(counts, np.int64).T
    return EpisodeTally(np.stack([class_ids, intersection, union, 10**6 - union, 10**6 - intersection], 1), queries)


def with_ious(ious, class_ids, queries=()):
    return tally_of([(round(1000 * iou), 1000) for iou in ious], class_ids, queries)


def random_tallies(seed, number=1, episodes=60, classes=6, pictures=25):
    """Tallies of one list: a picture is asked several times, and for several classes; some show nothing."""
    rng = np.random.default_rng(seed)
    class_ids = rng.integers(0, classes, episodes) ** 2 // classes  # of classes that differ in size
    queries = [str(n) for n in rng.integers(0, pictures, episodes)]
    union = rng.integers(0, 9, (number, episodes)) * (class_ids != 3)
    intersection = rng.integers(0, union + 1)
    return [tally_of(np.stack(each, 1), class_ids, queries) for each in zip(intersection, union, strict=True)]


def episodes_of(tally):
    return [(c, name, i, u) for (c, i, u, _, _), name in zip(tally.counts.tolist(), tally.queries, strict=True)]


# By hand


def test_four_pictures_of_one_class_by_hand():
    # Equal unions: without a picture the mIoU is the mean of the other three, so the variance is that of a mean.
    tally = with_ious([0.2, 0.4, 0.6, 0.8], [0] * 4, "abcd")
    half = t.ppf(0.975, 3) * np.std([0.2, 0.4, 0.6, 0.8], ddof=1) / 2
    assert tally.interval() == pytest.approx((0.5 - half, 0.5 + half))


def test_a_picture_that_is_asked_twice_is_one():
    one = with_ious([0.3, 0.7, 0.6], [0] * 3, "abc")
    twice = one + one
    assert twice.interval() == pytest.approx(one.interval())
    low, high = twice.interval(over="episodes")
    assert high - low < 0.6 * np.subtract(*one.interval()[::-1])


def test_classes_of_one_picture_are_pooled():
    # Without its picture a class is not covered: the mIoU is that of the other one.
    tally = with_ious([0.2, 0.8], [0, 1], "ab")
    variance = 1 / 2 * (0.3**2 + 0.3**2)
    half = t.ppf(0.975, 1) * variance**0.5
    assert over_pictures([0, 1], ["a", "b"], tally.counts[:, None, 1:3], (1,)) == pytest.approx((0.5, variance, 1))
    assert tally.interval() == (max(0.5 - half, 0), min(0.5 + half, 1)) == (0, 1)  # clipped


def test_a_picture_that_leaves_no_class_is_not_left_out():
    target = [(0, 0), (3, 4), (1, 2)]
    assert with_ious([0.7], [0], "a").interval() == (0.7, 0.7)
    assert tally_of(target[:2], [0, 1], "ab").interval() == (0.75, 0.75)
    right, wrong = tally_of([(9, 9), (0, 0)], [0, 0], "ab"), tally_of([(0, 9), (0, 5)], [0, 0], "ab")
    assert paired_interval(right, wrong) == (1, 1)


def test_pictures_vary_within_their_class_alone():
    tally = with_ious([0.2, 0.2, 0.2, 0.9, 0.9, 0.9], [0, 0, 0, 1, 1, 1], "abcdef")
    assert tally.interval() == pytest.approx((0.55, 0.55))
    low, high = tally.interval(over="classes")
    assert (low, high) == (0, 1)  # two classes tell nothing of others


def test_over_classes_is_students_interval_of_their_ious():
    ious = [0.5, 0.6, 0.65, 0.7]
    half = t.ppf(0.975, 3) * np.std(ious, ddof=1) / 2
    assert with_ious(ious, range(4)).interval(over="classes") == pytest.approx(
        (np.mean(ious) - half, np.mean(ious) + half)
    )
    with pytest.raises(InputError, match="class 7 alone: it takes two or more"):
        with_ious(ious, [7] * 4).interval(over="classes")


def test_runs_are_welchs():
    a, b = [0.5, 0.7, 0.66], [0.4, 0.42, 0.41, 0.44]
    estimate = over_runs(a, b, Estimate(0.0, 0.0, 5))
    welch = ttest_ind(a, b, equal_var=False).confidence_interval()
    assert estimate.interval() == pytest.approx((welch.low, welch.high))
    assert estimate.degrees == pytest.approx(ttest_ind(a, b, equal_var=False).df)
    wider = over_runs(a, b, Estimate(0.0, 1e-3, 200))
    assert wider.variance == pytest.approx(estimate.variance + 1e-3)


def test_a_reference_has_no_runs_that_spread():
    a = [0.5, 0.7, 0.66]
    paired = Estimate(0.0, 1e-4, 50)
    assert over_runs(a, [0.3], paired).variance == pytest.approx(over_values(a).variance + 1e-4)
    assert over_runs([0.5], [0.3], paired) == pytest.approx((0.2, 1e-4, 50))


# Against loops


@pytest.mark.parametrize("seed", range(6))
def test_pictures_agree_with_naive_loops(seed):
    tallies = random_tallies(seed, 3)
    sides = [episodes_of(tally) for tally in tallies]
    for number, contrast in ((1, (1,)), (2, (1, -1)), (3, (0.5, 0.5, -1))):
        counts = np.stack([tally.counts[:, 1:3] for tally in tallies[:number]], 1)
        found = over_pictures(tallies[0].counts[:, 0], tallies[0].queries, counts, contrast)
        assert found == pytest.approx(reference.jackknife(sides[:number], contrast))
    assert found.degrees > 1


@pytest.mark.parametrize("seed", range(3))
def test_intervals_agree_with_naive_loops(seed):
    a, b = random_tallies(seed, 2)
    for sides, contrast, found in (
        ([a], [1], a.interval()),
        ([a, b], [1, -1], paired_interval(a, b)),
    ):
        value, variance, degrees = reference.jackknife([episodes_of(tally) for tally in sides], contrast)
        half = t.ppf(0.975, degrees) * variance**0.5
        assert found == pytest.approx((value - half, value + half))


def test_an_interval_follows_from_the_episodes_not_from_their_order_or_a_seed():
    (tally,) = random_tallies(0)
    order = np.random.default_rng(1).permutation(len(tally))
    shuffled = EpisodeTally(tally.counts[order], [tally.queries[n] for n in order])
    assert tally.interval(seed=3) == tally.interval(seed=4) == tally.interval()
    assert shuffled.interval() == pytest.approx(tally.interval(), abs=1e-12)


def test_an_interval_of_the_papers_1000_episodes_takes_less_than_a_second():
    tallies = random_tallies(0, 10, episodes=1000, classes=100, pictures=700)
    start = time.process_time()
    paired_interval(tallies[:5], tallies[5:])
    assert time.process_time() - start < 1


# Pairs


def test_pairs_cancel_what_is_hard_for_both():
    rng = np.random.default_rng(0)
    ious, names = rng.uniform(0.2, 0.8, 200), [str(n) for n in range(200)]
    b, a = with_ious(ious, np.arange(200) % 10, names), with_ious(ious + 0.03, np.arange(200) % 10, names)
    assert paired_interval(a, b) == pytest.approx((0.03, 0.03), abs=1e-3)
    assert a.interval()[0] < b.interval()[1]  # unpaired, the two overlap
    assert paired_interval(a, a) == (0, 0)
    low, high = paired_interval(a, b)
    assert paired_interval(b, a) == pytest.approx((-high, -low))


def test_several_runs_a_side_are_welchs_with_the_paired_variance():
    tallies = random_tallies(1, 7)
    a, b = tallies[:3], tallies[3:]
    contrast = [1 / 3] * 3 + [-1 / 4] * 4
    _, variance, degrees = reference.jackknife([episodes_of(tally) for tally in tallies], contrast)
    runs = [[tally.miou() for tally in side] for side in (a, b)]
    parts = [(np.var(side, ddof=1) / len(side), len(side) - 1) for side in runs] + [(variance, degrees)]
    whole = sum(part for part, _ in parts)
    freedom = whole**2 / sum(part**2 / n for part, n in parts)
    estimate = paired_estimate(a, b)
    assert estimate == pytest.approx((np.mean(runs[0]) - np.mean(runs[1]), whole, freedom))
    assert paired_interval(a, b) == estimate.interval()
    alone = paired_estimate(a, b[0])  # a reference, which no seed changes
    assert alone.variance < paired_estimate(a, b[:1] * 3).variance + 1e-12


@pytest.mark.parametrize("sides", [(2, 2), (2, 5), (3, 2), (1, 2), (0, 3)])
def test_fewer_than_three_runs_have_no_interval(sides):
    tallies = random_tallies(1, 7)
    a, b = tallies[: sides[0]], tallies[7 - sides[1] :]
    with pytest.raises(InputError, match="takes three runs or more"):
        paired_interval(a, b)


def test_pairs_of_other_episodes_are_refused():
    (a,) = random_tallies(0)
    (other,) = random_tallies(5)
    with pytest.raises(InputError, match="one episode list"):
        paired_interval(a, EpisodeTally(other.counts, a.queries))
    with pytest.raises(InputError, match="query pictures"):
        paired_interval(a, EpisodeTally(a.counts, a.queries[::-1]))
    with pytest.raises(InputError, match="60 and 120"):
        paired_interval(a, a + a)
    with pytest.raises(InputError, match="no class"):
        paired_interval(EpisodeTally(), EpisodeTally())


def test_pictures_without_names_are_refused_in_one_line():
    named, unnamed = with_ious([0.5] * 3, [0] * 3, "abc"), with_ious([0.4, 0.5, 0.6], [0] * 3)
    for call in (unnamed.interval, (named + unnamed).interval, lambda: paired_interval(named, unnamed)):
        with pytest.raises(InputError, match=r"3 of [36] episodes have no name: pass query_ids .* over=\"episodes\""):
            call()
    assert unnamed.interval(over="episodes") == pytest.approx(EpisodeTally(unnamed.counts, "xyz").interval())
    assert paired_interval(named, unnamed, over="episodes") == pytest.approx(
        paired_interval(named, EpisodeTally(unnamed.counts, "abc"))
    )
    for over in ("query", "classes"):
        with pytest.raises(InputError, match=f"over = '{over}': use 'queries' or 'episodes'"):
            paired_interval(named, named, over=over)


# How often they hold the truth: in a world of endlessly many pictures, of which a pool is drawn

POOLS = np.array([7, 8, 9, 10, 12, 14, 16, 18, 20, 22, 28, 40, 60])  # pictures a class, 264 in all
LEVELS = np.random.default_rng(3).normal(0.2, 0.8, len(POOLS))  # of the classes, as logits
REPLICATES, EPISODES = 1000, 1000


def logistic(x):
    return 1 / (1 + np.exp(-x))


def truth(shift=0.0, spread=0.0):
    """The mean over runs (of this spread) of the mIoU over all pictures there could be.

    How large an object is does not depend on how hard it is, so the IoU of a class is a mean over
    hardness, luck and run: three normal numbers whose sum is one, integrated by Gauss and Hermite.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    deviation = (1 + 0.5**2 + spread**2) ** 0.5
    ious = logistic(LEVELS[:, None] + shift + deviation * nodes) @ (weights / weights.sum())
    return ious.mean()


def drawn(rng):
    """A list of episodes: classes, names of pictures, areas of the objects and how easy each is."""
    areas = [1000 * np.exp(rng.normal(0, 0.6, n)) for n in POOLS]
    easy = [rng.normal(0, 1, n) + level for n, level in zip(POOLS, LEVELS, strict=True)]
    class_ids = rng.integers(0, len(POOLS), EPISODES)
    pictures = rng.integers(0, POOLS[class_ids])
    place = np.cumsum(POOLS)[class_ids] - POOLS[class_ids] + pictures
    return class_ids, place.astype(str).tolist(), np.concatenate(areas)[place], np.concatenate(easy)[place]


def measured(class_ids, queries, area, logits):
    return tally_of(np.stack([area * logistic(logits), area], 1).astype(np.int64), class_ids, queries)


@pytest.mark.slow
def test_an_interval_over_pictures_holds_the_truth_19_times_of_20():
    rng, true = np.random.default_rng(4), truth()
    held = narrow = 0
    for _ in range(REPLICATES):
        *asked, easy = drawn(rng)
        tally = measured(*asked, easy + rng.normal(0, 0.5, EPISODES))
        (low, high), (lower, upper) = tally.interval(), tally.interval(over="episodes")
        held += low <= true <= high
        narrow += lower <= true <= upper
    assert 0.92 <= held / REPLICATES <= 0.98
    assert narrow / REPLICATES < 0.85  # why pictures are left out, not episodes


@pytest.mark.slow
@pytest.mark.parametrize("runs", [3, 5])
def test_an_interval_over_runs_holds_the_truth_19_times_of_20(runs):
    """The runs of one arm spread five times as far as those of the other; both find the same pictures hard."""
    rng = np.random.default_rng(runs)
    arms = (0.0, 0.05), (-0.2, 0.25)  # mean and spread of their runs
    true = truth(*arms[0]) - truth(*arms[1])
    held = 0
    for _ in range(REPLICATES):
        *asked, easy = drawn(rng)
        luck = rng.normal(0, 0.5, EPISODES)
        sides = [
            [
                measured(*asked, easy + rng.normal(mean, spread) + 0.7 * luck + rng.normal(0, 0.357, EPISODES))
                for _ in range(runs)
            ]
            for mean, spread in arms
        ]
        low, high = paired_interval(*sides)
        held += low <= true <= high
    assert 0.92 <= held / REPLICATES <= 0.98
