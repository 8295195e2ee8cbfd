"""How sure a score is: intervals of 95 % over other query pictures, other classes and other training runs.

Episodes that share a picture are not independent: what makes a picture hard, makes it hard in each of
them. So whole pictures are left out, one at a time, each with all of its episodes, and the interval follows
from how far that moves the score: the jackknife (Efron and Stein, 1981). It draws nothing at random, and where
classes have few pictures it covers the truth more often than the bootstrap's percentiles. Supports stay what
they are, so it is conditional on the pool of support pictures.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LEVEL = 0.95


class Estimate(NamedTuple):
    """A value, its variance and the degrees of freedom of the variance."""

    value: float
    variance: float
    degrees: float

    def interval(self) -> tuple[float, float]:
        """Return Student's interval (low, high) of 95 %; the value alone where nothing varies."""
        from scipy.stats import t  # takes a third of a second

        half = float(t.ppf((1 + LEVEL) / 2, self.degrees)) * self.variance**0.5 if self.variance else 0.0
        return self.value - half, self.value + half


def over_pictures(
    classes: npt.ArrayLike, pictures: npt.ArrayLike, counts: npt.NDArray[np.int64], contrast: Sequence[float]
) -> Estimate:
    """Estimate a sum of mIoUs, each times its factor, over other query pictures of the same classes.

    Pictures are left out within classes: a class of n pictures adds (n - 1) / n times the sum of squares. A
    picture that is asked for several classes counts in the one that it is asked for most. Classes of one
    picture are pooled.

    Args:
        classes: class ids of the N episodes.
        pictures: names of their query pictures.
        counts: intersections and unions of the object in T tallies of these episodes, [N, T, 2].
        contrast: T factors: (1,) is the mIoU of one tally, (1, -1) the difference of two.
    """
    ids, of_class = np.unique(classes, return_inverse=True)
    names, of_picture = np.unique(pictures, return_inverse=True)
    asked = np.zeros((len(names), len(ids)), np.int64)
    np.add.at(asked, (of_picture, of_class), 1)
    sums = np.zeros((len(names), len(ids), *counts.shape[1:]), np.int64)
    np.add.at(sums, (of_picture, of_class), counts)
    whole = sums.sum(0)
    value = _mious(whole) @ np.asarray(contrast)
    without = _mious(whole - sums) @ np.asarray(contrast)
    group = asked.argmax(1)
    group[np.bincount(group)[group] == 1] = len(ids)
    squares = {int(g): np.sum((without[group == g] - without[group == g].mean()) ** 2) for g in np.unique(group)}
    sizes = {g: int(np.sum(group == g)) for g in squares}
    parts = [(float(squares[g]) * (n - 1) / n, n - 1) for g, n in sizes.items() if n > 1]
    return Estimate(float(value), *_summed(parts))


def over_values(values: Sequence[float]) -> Estimate:
    """Estimate the mean of values that were drawn independently, two or more, such as the IoUs of classes."""
    return Estimate(float(np.mean(values)), float(np.var(values, ddof=1)) / len(values), len(values) - 1)


def over_runs(a: Sequence[float], b: Sequence[float], paired: Estimate) -> Estimate:
    """Estimate mean(a) - mean(b) over other training runs and other query pictures (Welch, 1947).

    The sides' runs, three or more each, may spread differently. Runs that were measured on one list share what
    the list does to them, so the variance of the difference over its pictures is added.

    Args:
        a: the scores of one side's runs.
        b: those of the other side.
        paired: the same difference over pictures, with the runs as they are.
    """
    sides = [over_values(a), over_values(b)]
    variances = [(each.variance, each.degrees) for each in (*sides, paired)]
    return Estimate(sides[0].value - sides[1].value, *_summed(variances))


def _mious(sums: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return mIoUs [..., T] over the classes C whose union is not empty, from sums [..., C, T, 2] of (I, U)."""
    intersection, union = sums[..., 0], sums[..., 1]
    covered = union > 0
    ious = np.divide(intersection, union, out=np.zeros(union.shape), where=covered)
    return ious.sum(-2) / np.maximum(covered.sum(-2), 1)


def _summed(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Add independent variances up; their degrees of freedom are Satterthwaite's (1946)."""
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / degrees for part, degrees in parts)
    return variance, variance**2 / spread if spread else 1.0
