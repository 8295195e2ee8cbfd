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
from scipy.special import stdtrit

LEVEL = 0.95


class Estimate(NamedTuple):
    """A value, its variance and the degrees of freedom of the variance."""

    value: float
    variance: float
    degrees: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return Student's interval (low, high) of that level; the value alone where nothing varies."""
        half = float(stdtrit(self.degrees, (1 + level) / 2)) * self.variance**0.5
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
    # One row for each picture and class that it is asked for: they are far fewer than both multiplied.
    asked, of_row, times = np.unique(of_picture * len(ids) + of_class, return_inverse=True, return_counts=True)
    picture, of_class = np.divmod(asked, len(ids))
    rows = np.zeros((len(asked), *counts.shape[1:]), np.int64)
    np.add.at(rows, of_row, counts)
    whole = np.zeros((len(ids), *counts.shape[1:]), np.int64)
    np.add.at(whole, of_class, rows)
    ious, covered = _ious(whole)
    lesser, still_covered = _ious(whole[of_class] - rows)
    sums, numbers = np.tile(ious.sum(0), (len(names), 1)), np.tile(covered.sum(0), (len(names), 1))
    np.add.at(sums, picture, lesser - ious[of_class])
    np.subtract.at(numbers, picture, covered[of_class] & ~still_covered)
    value = ious.sum(0) / np.maximum(covered.sum(0), 1) @ np.asarray(contrast)
    without = sums / np.maximum(numbers, 1) @ np.asarray(contrast)

    most = np.lexsort((of_class, -times, picture))
    group = of_class[most][np.unique(picture[most], return_index=True)[1]]
    group[np.bincount(group)[group] == 1] = len(ids)
    parts = []
    for each in np.unique(group):
        values = without[(group == each) & (numbers > 0).all(1)]  # that leave every tally a class
        if len(values) > 1:
            parts.append((float(np.var(values)) * (len(values) - 1), len(values) - 1))
    return Estimate(float(value), *summed(parts))


def over_values(values: Sequence[float]) -> Estimate:
    """Estimate the mean of values that were drawn independently, two or more, such as the IoUs of classes."""
    return Estimate(float(np.mean(values)), float(np.var(values, ddof=1)) / len(values), len(values) - 1)


def over_runs(a: Sequence[float], b: Sequence[float], paired: Estimate) -> Estimate:
    """Estimate mean(a) - mean(b) over other training runs and other query pictures (Welch, 1947).

    The sides' runs may spread differently. Runs that were measured on one list share what the list does to
    them, so the variance of the difference over its pictures is added. A side of one run adds nothing more.

    Args:
        a: the scores of one side's runs.
        b: those of the other side.
        paired: the same difference over pictures, with the runs as they are.
    """
    parts = [*(over_values(side) for side in (a, b) if len(side) > 1), paired]
    return Estimate(float(np.mean(a) - np.mean(b)), *summed([(each.variance, each.degrees) for each in parts]))


def _ious(sums: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return I / U [N, T] of sums [N, T, 2], 0 where the union is empty, and where it is not."""
    intersection, union = sums[..., 0], sums[..., 1]
    return intersection / np.maximum(union, 1), union > 0


def summed(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Add independent variances up; their degrees of freedom are Satterthwaite's (1946)."""
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / degrees for part, degrees in parts)
    return variance, variance**2 / spread if spread else 1.0
