"""Several claims at once, and a gain as a share, by hand."""

import numpy as np
import pytest
from scipy.stats import norm, t

from fss.intervals import Estimate
from fss.lab.intervals import holm, share_of_room

pytestmark = pytest.mark.numbers


def with_p(p, degrees=1e9):
    """An estimate of standard error 1 that Student gives this p-value."""
    return Estimate(float(t.ppf(1 - p / 2, degrees)), 1.0, degrees)


def test_holm_by_hand():
    # Four claims, held to 0.05 / 4, 0.05 / 3 and 0.05 / 2: the third fails, so the fourth is not judged anew.
    ps = 0.04, 0.005, 0.03, 0.01
    found = holm([with_p(p) for p in ps])
    assert [each.p for each in found] == pytest.approx([0.06, 0.02, 0.06, 0.03])
    for p, held, each in zip(ps, (2, 4, 2, 3), found, strict=True):
        half = norm.ppf(1 - 0.05 / held / 2)
        center = norm.ppf(1 - p / 2)
        assert each.interval == pytest.approx((center - half, center + half), abs=1e-5)
        assert (each.interval[0] > 0) == (each.p < 0.05)


@pytest.mark.parametrize("seed", range(5))
def test_an_adjusted_interval_leaves_zero_out_where_holm_rejects(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        found = holm([Estimate(rng.normal(0, 3), 1.0, rng.integers(2, 50)) for _ in range(6)])
        for p, (low, high) in found:
            assert (p < 0.05) == (low > 0 or high < 0)


def test_holm_of_one_claim_or_none_changes_nothing():
    one = with_p(0.03, 7)
    assert holm([one]) == [(pytest.approx(0.03), pytest.approx(one.interval()))]
    assert holm([]) == []
    assert holm([Estimate(0.0, 0.0, 1), Estimate(0.1, 0.0, 1)]) == [(1.0, (0.0, 0.0)), (0.0, (0.1, 0.1))]


def test_fieller_by_hand():
    # A gain of 6 of 30 points, neither sharing anything: 0.2, and s where |0.06 - 0.3 s| = t sqrt(va + s^2 vb).
    gain, room = Estimate(0.06, 1e-4, 8), Estimate(0.3, 4e-4, 20)
    share, ends = share_of_room(gain, room, Estimate(0.36, 5e-4, 9))
    assert share == pytest.approx(0.2)
    for end in ends:
        assert abs(0.06 - 0.3 * end) == pytest.approx(t.ppf(0.975, 8) * (1e-4 + 4e-4 * end**2) ** 0.5)
    assert ends[0] < share < ends[1]


def test_the_share_of_a_room_that_does_not_vary_is_the_gains_own_interval():
    gain = Estimate(0.06, 1e-4, 8)
    _, ends = share_of_room(gain, Estimate(0.3, 0.0, 8), Estimate(0.36, 1e-4, 8))
    assert ends == pytest.approx([end / 0.3 for end in gain.interval()])


def test_base_in_common_counts_once():
    # What the gain loses the room wins: where base alone varies, v = u = 4 and together = -4 (in 1e-4).
    varied = Estimate(0.06, 4e-4, 10), Estimate(0.3, 4e-4, 10), Estimate(0.36, 0.0, 10)
    share, ends = share_of_room(*varied)
    for end in ends:
        assert abs(0.06 - 0.3 * end) == pytest.approx(t.ppf(0.975, 10) * 0.02 * (1 + end))
    assert ends[0] < share < ends[1]


def test_no_share_of_little_room_or_of_one_that_may_be_nothing():
    gain = Estimate(0.06, 1e-4, 8)
    assert share_of_room(gain, Estimate(0.1, 1e-6, 8), Estimate(0.16, 1e-4, 8)) is None
    assert share_of_room(gain, Estimate(-0.3, 1e-6, 8), Estimate(0.16, 1e-4, 8)) is None
    assert share_of_room(gain, Estimate(0.2, 1e-2, 8), Estimate(0.26, 1e-2, 8)) is None
