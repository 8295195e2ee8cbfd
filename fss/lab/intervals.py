"""Intervals of several claims at once, and of a gain as a share of what the support is worth."""

from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import stdtr, stdtrit

from fss.intervals import LEVEL, Estimate

ROOM = 0.1  # of mIoU, above which a share of it says something


class Adjusted(NamedTuple):
    """A claim of several: its p-value and its interval (low, high), both adjusted."""

    p: float
    interval: tuple[float, float]


def holm(estimates: Sequence[Estimate], level: float = LEVEL) -> list[Adjusted]:
    """Correct the claims that these estimates differ from 0, so that the chance of any false one stays 1 - level.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979. Of m claims the one with
    the k-th smallest p-value is held to (1 - level) / (m - k + 1), up to the first that fails; those behind it
    are held to the same as that one. So an interval leaves 0 out where Holm's procedure rejects, and only there.
    """
    alpha, number = 1 - level, len(estimates)
    adjusted: dict[int, Adjusted] = {}
    p, held = 0.0, number
    for rank, place in enumerate(sorted(range(number), key=lambda n: _p_value(estimates[n]))):
        p = max(p, min(1.0, (number - rank) * _p_value(estimates[place])))
        adjusted[place] = Adjusted(p, estimates[place].interval(1 - alpha / held))
        if p < alpha:
            held -= 1
    return [adjusted[place] for place in range(number)]


def share_of_room(gain: Estimate, room: Estimate, both: Estimate) -> tuple[float, tuple[float, float]] | None:
    """Return an arm's gain over base as a share of what base gains over blind, with its interval of 95 %.

    Source: Fieller, "Some problems in interval estimation", 1954, with the fewer of both degrees of freedom.
    Gain and room share base; how they vary together follows from their sum.

    Args:
        gain: the arm minus base.
        room: base minus blind.
        both: the arm minus blind.

    Returns:
        The share and (low, high); None where the room is at most ten points, or too uncertain to divide by.
    """
    together = (both.variance - gain.variance - room.variance) / 2
    squared = float(stdtrit(min(gain.degrees, room.degrees), (1 + LEVEL) / 2)) ** 2
    # The shares s for which gain - s room does not differ from 0: a s^2 - 2 b s + c <= 0.
    a = room.value**2 - squared * room.variance
    b = gain.value * room.value - squared * together
    c = gain.value**2 - squared * gain.variance
    if room.value <= ROOM or a <= 0:
        return None
    half = max(b**2 - a * c, 0.0) ** 0.5
    return gain.value / room.value, ((b - half) / a, (b + half) / a)


def _p_value(estimate: Estimate) -> float:
    """Return Student's two-sided p-value of the value's being 0."""
    if not estimate.variance:
        return float(estimate.value == 0)
    return 2 * float(stdtr(estimate.degrees, -abs(estimate.value) / estimate.variance**0.5))
