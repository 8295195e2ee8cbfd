"""The pictures of an explorer, each with a line above and below."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from fss.data.pictures import IGNORE
from fss.explorer.attended import Attended
from fss.explorer.sheet import Mark, Panel
from fss.viz import FALSE_ALARM, HIT, MISS, Picture, error_map, outline, overlay

ALIKE = 0.99  # of the largest share: a place above it gets as much as the largest


class Panels:
    """Draws what a network says of an episode; what does not depend on the place, only once."""

    def __init__(self, attended: Attended) -> None:
        self.attended = attended

    @cached_property
    def query(self) -> Picture:
        """The query as uint8 [h,w,3]."""
        query = self.attended.episode.query
        return outline(query, torch.zeros(query.shape[1:], dtype=torch.uint8))

    @cached_property
    def supports(self) -> list[Panel]:
        """The support pictures with their labels."""
        supports, masks = self.attended.episode.support, self.attended.episode.mask
        panels = []
        for n, (support, mask) in enumerate(zip(supports, masks, strict=True), 1):
            title = f"support {n}" if len(supports) > 1 else "support"
            note = "the label in yellow" if bool((mask == 1).any()) else "no object is labelled"
            panels.append(Panel(outline(support, mask), title, note))
        return panels

    @cached_property
    def answer(self) -> list[Panel]:
        """The prediction, and its errors or, where the truth is not known, its probabilities."""
        attended, query, target = self.attended, self.attended.episode.query, self.attended.episode.target
        share = percent(float((attended.prediction == 1).float().mean()))
        drawn = outline(query, attended.prediction, FALSE_ALARM)
        found = Panel(drawn, "prediction", f"{share} of the picture")
        if bool((target == IGNORE).all()):
            picture = overlay(query, attended.probability, limits=(0, 1))
            return [found, Panel(picture, "probability of the object", bar=("0 %", "100 %"))]
        title = "errors" if attended.iou is None else f"errors: IoU {percent(attended.iou)}"
        key = ((HIT, "hit"), (MISS, "miss"), (FALSE_ALARM, "false alarm"))
        return [found, Panel(error_map(query, attended.prediction, target), title, key=key)]

    def asked(self, points: Sequence[tuple[int, int]], *, rows: bool, cols: bool) -> Panel:
        """The query with the places that ask, and whether their rows and columns do."""
        marks = []
        for n, point in enumerate(points, 1):
            top, left, bottom, right = self.attended.cell(*point)
            marks += [Mark(top, 0, bottom, 1)] * rows + [Mark(0, left, 1, right)] * cols
            marks.append(Mark(top, left, bottom, right, str(n) if len(points) > 1 else ""))
        if len(points) > 1:
            return Panel(self.query, "query: the places that ask", "numbered as below", marks=marks)
        ((row, col),) = points
        chance = percent(float(self.attended.cells(self.attended.probability)[row, col]))
        title = f"query: place ({row}, {col})"
        return Panel(self.query, title, f"object here: {chance}", marks=marks)

    def heat(self, heat: Tensor, shots: Sequence[str], title: str, *, strength: float, peak: bool) -> list[Panel]:
        """The support pictures of some shots under their maps [K,H,W], or all under one [1,H,W].

        All have one scale, from 0 to the largest share; with ``peak`` the place that gets it is
        framed, if there is one such place.
        """
        episode, top = self.attended.episode, float(heat.max())
        grid = (heat.shape[1], heat.shape[2])
        peak = peak and int((heat >= ALIKE * top).sum()) == 1
        panels = []
        for number, shares in zip(shots, heat.expand(len(shots), -1, -1), strict=True):
            support, mask = episode.support[int(number) - 1], episode.mask[int(number) - 1]
            large = self.attended.enlarged(shares)
            picture = overlay(support, large, alpha=strength, limits=(0, top))
            marks = []
            if peak and float(shares.max()) == top:
                row, col = divmod(int(shares.argmax()), grid[1])
                marks = [Mark(*self.attended.cell(row, col, grid))]
            head = f"support {number}: {title}" if len(episode.support) > 1 else title
            bar = ("0", f"{percent(top)} a place")
            panels.append(Panel(outline(picture, mask, "white"), head, bar=bar, marks=marks))
        return panels

    def prior(self, strength: float) -> Panel:
        """The query under the prior, 0..1."""
        assert self.attended.prior is not None
        large = self.attended.enlarged(self.attended.prior)
        picture = overlay(self.attended.episode.query, large, alpha=strength, limits=(0, 1))
        return Panel(picture, "prior, on the query", bar=("0", "1"))


def percent(share: float) -> str:
    """Write a share 0..1 in per cent; 0 and 100 only where it is that to a tenth."""
    return f"{100 * share:.3g} %" if 0.0005 <= share < 0.9995 else f"{100 * round(share)} %"
