"""Integer tallies of episodes, and the scores made from them: mIoU, FB-IoU, bootstrap intervals.

An episode leaves five integers: its class, and the intersection and union of foreground and of
background. Every score is a ratio of sums of them, so tallies from several processes add up to
exactly the tally of one.
"""

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from fss.data.pictures import IGNORE
from fss.errors import InputError

COLUMNS = ("class", "fg_intersection", "fg_union", "bg_intersection", "bg_union")
RESAMPLES = 2000

Labels = torch.Tensor | npt.ArrayLike


class EpisodeTally:
    r"""Counts episodes; ``+`` merges two tallies, ``len`` is the number of episodes.

    With intersections :math:`I` and unions :math:`U` in pixels, ignored pixels left out,

    .. math::
        \mathrm{mIoU} = \frac{1}{|C|} \sum_{c \in C} \frac{\sum_{e \in c} I_e}{\sum_{e \in c} U_e}
        \qquad
        \mathrm{FB} = \frac{1}{2} \Big( \frac{\sum_e I_e}{\sum_e U_e}
                      + \frac{\sum_e \bar I_e}{\sum_e \bar U_e} \Big)

    as in PFENet (Tian et al. 2020); the bar is the background. A class is *covered* when its union
    is not empty: :math:`C` holds the covered classes, and one that was never drawn, or that neither
    targets nor predictions ever show, is left out and never counts as 0. Likewise FB-IoU leaves out
    a side (foreground or background) that never occurs. All scores are fractions in 0..1; one that
    no episode supports raises ``InputError`` instead of being nan.

    >>> tally = EpisodeTally()
    >>> tally.update([[[1, 1, 0]], [[0, 1, 0]]], [[[1, 0, 0]], [[0, 1, 255]]], class_ids=[4, 9])
    >>> tally.per_class(), tally.miou()
    ({4: 0.5, 9: 1.0}, 0.75)
    >>> len(tally + tally), (tally + tally).miou()
    (4, 0.75)
    """

    def __init__(self, counts: npt.NDArray[np.int64] | None = None) -> None:
        self.counts = np.zeros((0, len(COLUMNS)), np.int64) if counts is None else counts
        """One row an episode, in the order of the updates; the columns are ``COLUMNS``."""

    def update(self, prediction: Labels, target: Labels, class_ids: Labels) -> None:
        """Add the B episodes of a batch.

        Args:
            prediction: label map [B,H,W] of integers or bools, 1 = object, 0 = background.
            target: label map [B,H,W] of integers, 1 = object, 0 = background, 255 = ignored.
            class_ids: integers [B].

        Tensors of any device, arrays and nested lists are taken.

        Raises:
            InputError: for logits or other floats, other labels, or shapes that do not match;
                the tally is then unchanged.
        """
        predicted = _integers("prediction", prediction, "pass a label map, logits.argmax(1)")
        labels = _integers("target", target, "pass the label map as uint8 or int64")
        classes = _integers("class_ids", class_ids, "pass one integer for each episode")
        if predicted.ndim != 3 or predicted.shape != labels.shape:
            raise InputError(
                f"prediction {list(predicted.shape)} and target {list(labels.shape)} must have "
                "one shape [B,H,W]: resize one to the other, and add the batch axis with [None]"
            )
        if classes.shape != predicted.shape[:1]:
            raise InputError(f"class_ids {list(classes.shape)} must be [{len(predicted)}]: one for each episode")
        object_hit, object_label, valid = predicted == 1, labels == 1, labels != IGNORE
        for name, held, allowed, known in (
            ("prediction", predicted, object_hit | (predicted == 0), "0 and 1"),
            ("target", labels, object_label | (labels == 0) | ~valid, "0, 1 and 255"),
        ):
            if not allowed.all():
                raise InputError(f"{name} holds the label {held[~allowed][0]}: it takes {known} (1 = the object)")

        # The background need not be counted: V = I + bg U = bg I + U over V valid pixels.
        intersection = (object_hit & object_label).sum((1, 2))
        union = ((object_hit & valid) | object_label).sum((1, 2))
        pixels = valid.sum((1, 2))
        rows = np.stack([classes, intersection, union, pixels - union, pixels - intersection], axis=1)
        self.counts = np.concatenate([self.counts, rows.astype(np.int64)])

    def __len__(self) -> int:
        return len(self.counts)

    def __add__(self, other: "EpisodeTally") -> "EpisodeTally":
        return EpisodeTally(np.concatenate([self.counts, other.counts]))

    @property
    def classes(self) -> tuple[int, ...]:
        """The covered classes, ascending."""
        return tuple(self.per_class())

    def per_class(self) -> dict[int, float]:
        """Return class id -> sum of intersections / sum of unions, for the covered classes."""
        classes, index = np.unique(self.counts[:, 0], return_inverse=True)
        sums = np.zeros((len(classes), 2), np.int64)
        np.add.at(sums, index, self.counts[:, 1:3])
        return {int(c): float(i / u) for c, (i, u) in zip(classes, sums, strict=True) if u}

    def miou(self) -> float:
        """Return the mean over the covered classes of their foreground IoU."""
        ious = self.per_class().values()
        if not ious:
            raise InputError("mIoU of no class: update the tally with episodes that show an object")
        return fsum(ious) / len(ious)

    def fb_iou(self) -> float:
        """Return the mean of the foreground and the background IoU, regardless of class."""
        sums = self.counts[:, 1:].sum(0).reshape(2, 2)
        ious = [float(i / u) for i, u in sums if u]
        if not ious:
            raise InputError("FB-IoU of no pixel: update the tally with episodes first")
        return sum(ious) / len(ious)

    def mean_episode_iou(self) -> float:
        """Return the mean over episodes of their foreground IoU.

        An episode whose target and prediction both show no object counts as 1: the prediction is
        right, and the mean runs over the same episodes whatever was predicted. An episode without
        a valid pixel is left out.
        """
        _, intersection, union, _, background = self.counts.T
        measured = (union + background) > 0
        if not measured.any():
            raise InputError("mean episode IoU of no pixel: update the tally with episodes first")
        empty = union == 0
        ious = (intersection + empty)[measured] / (union + empty)[measured]
        return fsum(ious) / len(ious)

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """Return the 95 % percentile-bootstrap interval (lo, hi) of the mIoU.

        Episodes are drawn again within each covered class, 2,000 times; the classes stay fixed, so
        the interval speaks of other episodes of these classes, not of other classes. Episodes with
        an empty union move no sum and are not drawn. A class with n episodes shows (n-1)/n of its
        variance, so a class with one episode shows none: take several per class. The result follows from
        ``seed`` and the multiset of episodes alone, not from their order.
        """
        self.miou()
        return _quantiles(_resampled_mious(self.counts[:, 0], self.counts[:, None, 1:3], seed))

    def to_json(self) -> dict[str, list[int]]:
        """Return the integers as columns, ready for ``json.dump``; ``from_json`` reads them."""
        return dict(zip(COLUMNS, self.counts.T.tolist(), strict=True))

    @classmethod
    def from_json(cls, columns: Mapping[str, Sequence[int]]) -> Self:
        """Return the tally that ``to_json`` wrote; ``InputError`` where it cannot be one."""
        if set(columns) != set(COLUMNS):
            raise InputError(f"a tally has the columns {list(COLUMNS)}, not {sorted(columns)}")
        if len({len(columns[name]) for name in COLUMNS}) > 1:
            raise InputError("the columns of a tally differ in length: the record is damaged")
        tally = cls()
        if columns["class"]:
            rows = [_integers(name, columns[name], "the record is damaged") for name in COLUMNS]
            tally.counts = np.stack(rows, axis=1).astype(np.int64)
        _, fg_i, fg_u, bg_i, bg_u = tally.counts.T
        possible = (fg_i >= 0) & (bg_i >= 0) & (fg_i <= fg_u) & (fg_i + bg_u == bg_i + fg_u)
        if not possible.all():
            raise InputError(f"episode {possible.argmin()} of a tally has impossible counts: it is damaged")
        return tally


Tallies = EpisodeTally | Sequence[EpisodeTally]


def paired_interval(a: Tallies, b: Tallies, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval (lo, hi) of the difference of two mIoUs, a - b.

    All tallies hold the same episodes in the same order (the caller compares the episode lists'
    SHA-256). Each draw takes the same episodes from all, so that what makes an episode hard for
    both sides cancels; otherwise as ``EpisodeTally.interval``. Where a side is several tallies,
    one a training seed, its mIoU is their mean, and each draw also draws the seeds again, so that
    the interval speaks of other trainings as far as so many can tell.

    Raises:
        InputError: where the class ids differ, or one of the tallies has no mIoU.
    """
    sides = [[side] if isinstance(side, EpisodeTally) else list(side) for side in (a, b)]
    tallies = sides[0] + sides[1]
    classes = tallies[0].counts[:, 0]
    for tally in tallies:
        if not np.array_equal(tally.counts[:, 0], classes):
            raise InputError(
                f"the tallies hold different episodes ({len(tallies[0])} and {len(tally)}, or "
                "other classes): run both over one episode list, in its order"
            )
        tally.miou()
    counts = np.stack([tally.counts[:, 1:3] for tally in tallies], axis=1)
    mious = _resampled_mious(classes, counts, seed)
    rng = np.random.default_rng([seed, 1])
    means = []
    for side in np.split(mious, [len(sides[0])], axis=1):
        seeds = rng.integers(side.shape[1], size=side.shape)
        means.append(np.take_along_axis(side, seeds, axis=1).mean(1))
    return _quantiles(means[0] - means[1])


def _resampled_mious(
    classes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], seed: int
) -> npt.NDArray[np.float64]:
    """Return [RESAMPLES, T] mIoUs of T tallies, from ``counts`` [N,T,2] of (I, U)."""
    drawn = counts[..., 1].any(1)
    classes, counts = classes[drawn], counts[drawn].reshape(-1, 2 * counts.shape[1])
    order = np.lexsort((*counts.T, classes))
    classes, counts = classes[order], counts[order]
    rng = np.random.default_rng(seed)
    total = np.zeros((RESAMPLES, counts.shape[1] // 2))
    covered = np.zeros_like(total)
    for episodes in np.split(counts, np.flatnonzero(np.diff(classes)) + 1):
        n = len(episodes)
        times_drawn = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        intersection, union = np.moveaxis((times_drawn @ episodes).reshape(RESAMPLES, -1, 2), 2, 0)
        total += intersection / np.maximum(union, 1)
        covered += union > 0
    # Of a pair, one tally's only covered class may rest on episodes that a draw leaves out.
    return np.divide(total, covered, out=np.full_like(total, np.nan), where=covered > 0)


def _quantiles(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    lo, hi = np.nanquantile(values, [0.025, 0.975])
    return float(lo), float(hi)


def _integers(name: str, values: Labels, fix: str) -> npt.NDArray[np.generic]:
    """Return integers or bools as an array; refuse floats, which are logits or probabilities."""
    values = values.cpu() if isinstance(values, torch.Tensor) else np.asarray(values)
    if not any(kind in str(values.dtype) for kind in ("int", "bool")):
        raise InputError(f"{name} is {values.dtype}, not integer: {fix}")
    return np.asarray(values)
