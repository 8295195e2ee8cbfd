"""Intervals over folds, of several claims at once, and of a gain as a share of what the support is worth."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from fss.intervals import LEVEL, Estimate, over_pictures, summed
from fss.metrics import EpisodeTally

RUNS = 3  # of one fold; fewer on a side say too little about how far others would spread
ROOM = 0.1  # of mIoU, above which a share of it says something


class Parts(NamedTuple):
    """A difference of two arms, and (variance, degrees of freedom) of the runs of each and of the pictures."""

    value: float
    runs: tuple[tuple[float, float], ...]
    pictures: tuple[float, float]

    def estimate(self) -> Estimate:
        """Add the variances up; their degrees of freedom are Satterthwaite's (1946)."""
        return Estimate(self.value, *summed([*self.runs, self.pictures]))


Side = Sequence[Sequence[EpisodeTally]]  # an arm's tallies: of each fold, those of its runs


def difference(a: Side, b: Side, *, fixed: tuple[bool, bool] = (False, False)) -> Parts | None:
    """Take the difference of two arms apart: the mean over folds of mean(a) - mean(b), each fold on its own episodes.

    What other runs would give is judged by each arm's spread within the folds, pooled over them, but never
    over arms (Welch, 1947); what other query pictures would, by the paired difference of each fold.

    Args:
        a: the tallies of one arm.
        b: those of the other, of the same folds and episodes.
        fixed: whether a side is a reference, which no run changes; it needs no second run.

    Returns:
        None where a side has too few runs to say how far others would spread: ``RUNS``, or two of several folds.
    """
    folds, runs = len(a), []
    for side, known in zip((a, b), fixed, strict=True):
        scores = [[tally.miou() for tally in fold] for fold in side]
        degrees = sum(len(fold) - 1 for fold in scores)
        if not known and degrees < RUNS - 1:
            return None
        if not known:
            within = sum(float(np.var(fold)) * len(fold) for fold in scores) / degrees
            runs.append((sum(within / len(fold) for fold in scores) / folds**2, float(degrees)))
    estimates = []
    for ours, theirs in zip(a, b, strict=True):
        tallies = [*ours, *theirs]
        contrast = [1 / len(ours)] * len(ours) + [-1 / len(theirs)] * len(theirs)
        counts = np.stack([tally.counts[:, 1:3] for tally in tallies], axis=1)
        estimates.append(over_pictures(tallies[0].counts[:, 0], tallies[0].queries, counts, contrast))
    pictures = summed([(each.variance / folds**2, each.degrees) for each in estimates])
    return Parts(sum(each.value for each in estimates) / folds, tuple(runs), pictures)


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
