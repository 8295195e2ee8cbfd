"""Integer tallies of episodes, and the scores made from them: mIoU, FB-IoU and their intervals.

An episode leaves five integers, its class and the intersection and union of foreground and of
background, and the name of its query picture. Every score is a ratio of sums of the integers, so
tallies from several processes add up to exactly the tally of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from fss.data.pictures import IGNORE
from fss.errors import InputError
from fss.intervals import Estimate, over_pictures, over_runs, over_values

COLUMNS = ("class", "fg_intersection", "fg_union", "bg_intersection", "bg_union")
QUERY = "query"

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

    Attributes:
        counts: one row an episode, in the order of the updates; the columns are ``COLUMNS``.
        queries: the names of the query pictures in the same order; fewer than episodes where not all
            were given.
        labels: which of 0, 1 and 255 the targets held.

    >>> tally = EpisodeTally()
    >>> tally.update([[[1, 1, 0]], [[0, 1, 0]]], [[[1, 0, 0]], [[0, 1, 255]]], class_ids=[4, 9])
    >>> tally.per_class(), tally.miou()
    ({4: 0.5, 9: 1.0}, 0.75)
    >>> len(tally + tally), (tally + tally).miou()
    (4, 0.75)
    """

    def __init__(
        self, counts: npt.NDArray[np.int64] | None = None, queries: Sequence[str] = (), labels: Iterable[int] = ()
    ) -> None:
        self.counts = np.zeros((0, len(COLUMNS)), np.int64) if counts is None else counts
        self.queries = list(queries)
        self.labels = {*labels}

    def update(
        self,
        prediction: Labels,
        target: Labels,
        class_ids: Labels,
        query_ids: Sequence[str | int] | None = None,
    ) -> None:
        """Add the B episodes of a batch.

        Args:
            prediction: label map [B,H,W] of integers or bools, 1 = object, 0 = background.
            target: label map [B,H,W] of integers, 1 = object, 0 = background, 255 = ignored.
            class_ids: integers [B].
            query_ids: names or numbers of the B query pictures, the same for the same picture
                whatever class it is asked for; ``interval`` and ``paired_interval`` need them.

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
        queries = [] if query_ids is None else [str(each) for each in query_ids]
        if query_ids is not None and len(queries) != len(predicted):
            raise InputError(f"query_ids has {len(queries)} names, not {len(predicted)}: one for each episode")
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
        self.queries += queries
        self.labels |= {*np.unique(labels).tolist()}

    def __len__(self) -> int:
        return len(self.counts)

    def __add__(self, other: "EpisodeTally") -> "EpisodeTally":
        counts = np.concatenate([self.counts, other.counts])
        return EpisodeTally(counts, self.queries + other.queries, self.labels | other.labels)

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
        self._check_labels()
        ious = self.per_class().values()
        if not ious:
            raise InputError("mIoU of no class: update the tally with episodes that show an object")
        return fsum(ious) / len(ious)

    def fb_iou(self) -> float:
        """Return the mean of the foreground and the background IoU, regardless of class."""
        self._check_labels()
        sums = self.counts[:, 1:].sum(0).reshape(2, 2)
        ious = [float(i / u) for i, u in sums if u]
        if not ious:
            raise InputError("FB-IoU of no pixel: update the tally with episodes first")
        return sum(ious) / len(ious)

    def _check_labels(self) -> None:
        if IGNORE in self.labels and 1 not in self.labels:
            raise InputError(
                "the targets hold 255 and never 1, and 255 means ignored: no object is counted; "
                "of masks of 0 and 255 pass (target > 127)"
            )

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

    def interval(self, seed: int = 0, over: str = "queries") -> tuple[float, float]:
        """Return the 95 % interval (lo, hi) of the mIoU, within 0..1.

        Args:
            seed: makes no difference, since nothing is drawn at random; it was a bootstrap's.
            over: what would be others another time. "queries": the query pictures, each with all of
                its episodes (``fss.intervals.over_pictures``); classes and support pictures stay.
                "episodes": the same as if every episode asked a picture that no other asks, which
                is too narrow where they share pictures. "classes": the classes, as Student has it.

        Raises:
            InputError: no mIoU; "queries" without the pictures' names; "classes" with fewer than two.
        """
        self.miou()
        if over == "classes":
            if len(self.classes) < 2:
                raise InputError(f"an interval over classes of class {self.classes[0]} alone: it takes two or more")
            estimate = over_values(list(self.per_class().values()))
        else:
            estimate = over_pictures(self.counts[:, 0], _pictures(self, over), self.counts[:, None, 1:3], (1,))
        low, high = np.clip(estimate.interval(), 0, 1).tolist()
        return low, high

    def to_json(self) -> dict[str, list[int] | list[str]]:
        """Return the columns, ready for ``json.dump``; the names of the pictures only where all are known."""
        columns: dict[str, list[int] | list[str]] = dict(zip(COLUMNS, self.counts.T.tolist(), strict=True))
        return columns | ({QUERY: list(self.queries)} if self.queries and _named(self) else {})

    @classmethod
    def from_json(cls, columns: Mapping[str, Sequence[int] | Sequence[str]]) -> Self:
        """Return the tally that ``to_json`` wrote; ``InputError`` where it cannot be one."""
        if set(columns) - {QUERY} != set(COLUMNS):
            raise InputError(f"a tally has the columns {list(COLUMNS)}, not {sorted(columns)}")
        if len({len(column) for column in columns.values()}) > 1:
            raise InputError("the columns of a tally differ in length: the record is damaged")
        empty = np.zeros(0, np.int64)  # an empty list alone has no type
        rows = [_integers(name, columns[name] or empty, "the record is damaged") for name in COLUMNS]
        counts = np.stack(rows, axis=1).astype(np.int64)
        _, fg_i, fg_u, bg_i, bg_u = counts.T
        possible = (fg_i >= 0) & (bg_i >= 0) & (fg_i <= fg_u) & (fg_i + bg_u == bg_i + fg_u)
        if not possible.all():
            raise InputError(f"episode {possible.argmin()} of a tally has impossible counts: it is damaged")
        return cls(counts, [str(name) for name in columns.get(QUERY, ())])


Tallies = EpisodeTally | Sequence[EpisodeTally]


def paired_interval(a: Tallies, b: Tallies, over: str = "queries") -> tuple[float, float]:
    """Return the 95 % interval (lo, hi) of the difference of two mIoUs, a - b: that of ``paired_estimate``."""
    return paired_estimate(a, b, over).interval()


def paired_estimate(a: Tallies, b: Tallies, over: str = "queries") -> Estimate:
    """Estimate the difference of two mIoUs, a - b, each the mean of its side's tallies.

    All tallies hold the same episodes in the same order (the caller compares the episode lists'
    SHA-256), so what makes a picture hard for both sides cancels. A side of several tallies, one a
    training run, also counts how far its runs spread (``fss.intervals.over_runs``). A side of one is
    taken as it is: of two single networks the estimate says nothing about other trainings of theirs.

    Args:
        a: one tally, or three or more.
        b: likewise.
        over: "queries" or "episodes", as for ``EpisodeTally.interval``.

    Raises:
        InputError: class ids or query pictures that differ; a tally without mIoU; two on a side.
    """
    sides = [[side] if isinstance(side, EpisodeTally) else list(side) for side in (a, b)]
    for side in sides:
        if len(side) in (0, 2):
            raise InputError(f"{len(side)} tallies on one side: an interval over runs takes three runs or more")
    tallies = sides[0] + sides[1]
    first = tallies[0]
    for tally in tallies:
        if not np.array_equal(tally.counts[:, 0], first.counts[:, 0]) or (
            _named(tally) and _named(first) and tally.queries != first.queries
        ):
            raise InputError(
                f"the tallies hold different episodes ({len(first)} and {len(tally)}, or other classes or query "
                "pictures): run both over one episode list, in its order"
            )
        _pictures(tally, over)
    ours, theirs = ([tally.miou() for tally in side] for side in sides)
    contrast = [sign / len(side) for side, sign in zip(sides, (1, -1), strict=True) for _ in side]
    counts = np.stack([tally.counts[:, 1:3] for tally in tallies], axis=1)
    return over_runs(ours, theirs, over_pictures(first.counts[:, 0], _pictures(first, over), counts, contrast))


def _named(tally: EpisodeTally) -> bool:
    return len(tally.queries) == len(tally)


def _pictures(tally: EpisodeTally, over: str) -> Sequence[str] | range:
    """Return what tells the query pictures of the episodes apart."""
    if over not in ("queries", "episodes"):
        raise InputError(f"over = {over!r}: use 'queries' or 'episodes', or of one tally 'classes'")
    if over == "queries" and not _named(tally):
        raise InputError(
            f"the query pictures of {len(tally) - len(tally.queries)} of {len(tally)} episodes have no name: pass "
            'query_ids to update, or ask for over="episodes", as if no two episodes shared a picture'
        )
    return tally.queries if over == "queries" else range(len(tally))


def _integers(name: str, values: Labels, fix: str) -> npt.NDArray[np.generic]:
    """Return integers or bools as an array; refuse floats, which are logits or probabilities."""
    values = values.cpu() if isinstance(values, torch.Tensor) else np.asarray(values)
    if not any(kind in str(values.dtype) for kind in ("int", "bool")):
        raise InputError(f"{name} is {values.dtype}, not integer: {fix}")
    return np.asarray(values)
