"""The explorer without widgets: one place of the query, in numbers and as PNG bytes."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from fss.data.pictures import IGNORE
from fss.episodes import EpisodeBatch
from fss.errors import InputError, nearest
from fss.explorer.attended import BANDS, Attended
from fss.explorer.panels import Mark, Panel, percent, sheet
from fss.explorer.scenes import is_known
from fss.model import DANet
from fss.viz import FALSE_ALARM, OUTCOMES, error_map, heated, outline, overlay, rgb

COLDEST, HOTTEST = 0.1, 100.0
ALIKE = 0.99  # of the largest share: a place above it gets as much as the largest


class Explorer:
    """What a place of the query attends to, in numbers and as a picture.

    Args:
        model: the network, in eval mode.
        episode: one episode without a batch axis; see ``Attended``, which also says what is raised.

    Attributes:
        attended: what the network says of the episode.
        place: the selected place, (row, column).
        map, shot, temperature, strength: what is shown; see ``choose``.
    """

    def __init__(self, model: DANet, episode: EpisodeBatch) -> None:
        self.attended = Attended(model, episode)
        self.map, self.shot = self.attended.maps[0], "each"
        self.temperature, self.strength = 1.0, 0.65
        rows, cols = self.attended.grid
        self.place = (rows // 2, cols // 2)

    def choose(
        self,
        *,
        map: str | None = None,  # noqa: A002
        shot: str | int | None = None,
        temperature: float | None = None,
        strength: float | None = None,
    ) -> None:
        """Choose what is shown; what is not given stays.

        Args:
            map: one of ``attended.maps``.
            shot: ``"each"`` support picture under its own map, all under the ``"mean"``, or one, by
                its number from 1 on.
            temperature: the scores are divided by it, 0.1..100; at 1 the map is the network's own.
                It changes what is shown, never the prediction, and no map that a module returned.
            strength: of the colours over the picture, 0..1.

        Raises:
            InputError: none of these; nothing is changed.
        """
        maps, shots = self.attended.maps, ["each", "mean", *self.attended.shots]
        if map is not None and map not in maps:
            raise InputError(f"no map {map!r} in this network; {nearest(map, maps)}")
        if shot is not None and str(shot) not in shots:
            raise InputError(f"no shot {shot!r}; known: {', '.join(shots)}")
        if temperature is not None and not COLDEST <= temperature <= HOTTEST:
            raise InputError(f"temperature {temperature} is not in {COLDEST:g}..{HOTTEST:g}")
        if strength is not None and not 0 <= strength <= 1:
            raise InputError(f"strength {strength} is not in 0..1")
        shown = self.map if map is None else map
        if temperature not in (None, 1) and shown in self.attended.returned:
            raise InputError(f"the module returns its map {shown!r} as it is: it takes no temperature")
        self.map = shown
        self.shot = self.shot if shot is None else str(shot)
        self.temperature = self.temperature if temperature is None else temperature
        self.strength = self.strength if strength is None else strength

    def select(self, row: int, col: int) -> None:
        """Select a place of the query by its row and column, from 0 on.

        Raises:
            InputError: outside the picture; the old place stays.
        """
        self._check(row, col)
        self.place = (int(row), int(col))

    def _check(self, row: int, col: int) -> None:
        rows, cols = self.attended.grid
        if not (0 <= row < rows and 0 <= col < cols):
            raise InputError(
                f"place ({row}, {col}) lies outside the picture: rows run from 0 to {rows - 1}, "
                f"columns from 0 to {cols - 1}"
            )

    def heat(self, place: tuple[int, int] | None = None) -> Tensor:
        """Return the chosen map of a place, by default of the selected one.

        [K,H,W] by shot, or [1,H,W] of one shot or of the mean (see ``Attended.shares``). Of the prior,
        which is of the query and the same for all places, [1,H,W].
        """
        if self.map == "prior":
            assert self.attended.prior is not None
            return self.attended.prior[None]
        place = self.place if place is None else place
        heat = self.attended.shares(self.map, place, temperature=self.temperature)
        if self.shot == "mean":  # a match shares itself out over all shots, the others over each
            return heat.sum(0, keepdim=True) / (1 if self.map.startswith("match") else len(heat))
        return self._shown(heat)

    def numbers(self) -> dict[str, Any]:
        """Return what is under the pointer.

        ``probability`` of the object and its share in ``truth`` (None where that is not known),
        both as means over the place, and its ``prior``, where the network has one. For a map over
        the support: the ``largest`` share, the ``at`` = (row, column) that gets it and its ``shot``
        (None for the mean), how many places get as much (``alike``), and the share that falls
        ``on_object``.
        """
        row, col = self.place
        target, cells = self.attended.episode.target, self.attended.cells
        known = cells((target != IGNORE).float())[row, col]
        found: dict[str, Any] = {
            "probability": float(cells(self.attended.probability)[row, col]),
            "truth": float(cells((target == 1).float())[row, col] / known) if known > 0 else None,
        }
        if self.attended.prior is not None:
            found["prior"] = float(self.attended.prior[row, col])
        if self.map == "prior":
            return found
        heat = self.heat()
        height, width = heat.shape[1:]
        shot, at = divmod(int(heat.argmax()), height * width)
        return found | {
            "largest": float(heat.max()),
            "at": divmod(at, width),
            "shot": None if self.shot == "mean" else int(self._shown(self.attended.shots)[shot]),
            "alike": _alike(heat),
            "on_object": self._on_object(),
        }

    def _on_object(self) -> float:
        """The share of the attention that falls on objects: each support's on its own object."""
        shares = self.attended.shares(self.map, self.place, temperature=self.temperature)
        objects = self.attended.object_share((shares.shape[1], shares.shape[2]))
        if self.shot != "mean":
            shares, objects = self._shown(shares), self._shown(objects)
        return float((shares * objects).sum() / shares.sum().clamp_min(1e-12))

    def text(self) -> str:
        """Return ``numbers`` as a line to read."""
        found = self.numbers()
        truth = "" if found["truth"] is None else f" (truth {percent(found['truth'])})"
        parts = [f"Query place {self.place}: {percent(found['probability'])} object{truth}"]
        if self.attended.missing:
            parts.append(self.attended.missing)
        if "prior" in found:
            parts.append(f"prior {found['prior']:.2f}")
        if "largest" in found:
            largest, several = percent(found["largest"]), len(self.attended.episode.support) > 1
            shot = f" of support {found['shot']}" if several and found["shot"] else ""
            if self.map not in BANDS and found["alike"] == 1:
                parts.append(f"looks most at place {found['at']}{shot}: {largest}")
            elif self.map not in BANDS:
                parts.append(f"{found['alike']} places get the most alike: {largest} each")
            parts.append(f"{percent(found['on_object'])} of the look is on the object")
            if self._tempered():
                parts.append(f"temperature {self.temperature:.3g} (the network's own is 1)")
        return " · ".join(parts)

    def render(self, *, query: bool = True) -> bytes:
        """Draw the selected place, what it attends to, the prediction and its errors: PNG.

        ``query=False`` leaves the query out, for a widget that shows it already.
        """
        asked = [self.asked()] if query else []
        supports, answer, heats = self._shown(self.supports), self.answer, self.heats()
        if len(supports) == 1:
            return sheet([[*asked, *supports, *heats], answer])
        if self.map == "prior":
            return sheet([[*asked, *heats, *answer], supports])
        return sheet([[*asked, *answer], supports, heats])

    def snapshot(self, points: Sequence[tuple[int, int]], *, steps: int = 256) -> bytes:
        """Draw several places, (row, column), and what each attends to: the PNG above a widget.

        Args:
            points: the places.
            steps: of each colour; 32 halve the bytes, and nobody sees it.

        Raises:
            InputError: a place outside the picture, or no place.
        """
        if not points:
            raise InputError("a snapshot needs at least one place")
        for point in points:
            self._check(*point)
        heats = [self.heats(point, f"{n}: " * (len(points) > 1)) for n, point in enumerate(points, 1)]
        supports, first = self._shown(self.supports), [self.asked(points), *self.answer]
        rows = [[*supports, *first]] if len(supports) == 1 else [first, supports]
        panels = heats[0] if self.map == "prior" else [panel for each in heats for panel in each]
        step = max(len(heats[0]), 4 // len(heats[0]) * len(heats[0]))
        rows += [panels[n : n + step] for n in range(0, len(panels), step)]
        return sheet(rows, compress=9, steps=steps)

    @cached_property
    def supports(self) -> list[Panel]:
        """The support pictures with their labels."""
        (_, _, supports, masks), shots = self.attended.episode, self.attended.shots
        panels = []
        for number, support, mask in zip(shots, supports, masks, strict=True):
            note = "the label in yellow" if bool((mask == 1).any()) else "no object is labelled"
            panels.append(Panel(outline(support, mask), f"support {number}" if len(shots) > 1 else "support", note))
        return panels

    @cached_property
    def answer(self) -> list[Panel]:
        """The prediction, and its errors or, where the truth is not known, its probabilities."""
        attended, (query, target, *_) = self.attended, self.attended.episode
        share = percent(float((attended.prediction == 1).float().mean()))
        found = Panel(outline(query, attended.prediction, FALSE_ALARM), "prediction", f"{share} of the picture")
        if not is_known(attended.episode):
            picture = overlay(query, attended.probability, limits=(0, 1))
            return [found, Panel(picture, "probability of the object", bar=("0 %", "100 %"))]
        title = "errors" if attended.iou is None else f"errors: IoU {percent(attended.iou)}"
        return [found, Panel(error_map(query, attended.prediction, target), title, key=OUTCOMES)]

    def asked(self, points: Sequence[tuple[int, int]] | None = None) -> Panel:
        """Draw the query and the places that ask, by default the selected one, with their rows and columns."""
        attended, points, marks = self.attended, points or [self.place], []
        for n, point in enumerate(points, 1):
            top, left, bottom, right = attended.cell(*point)
            marks += [Mark(top, 0, bottom, 1)] * (self.map in ("light", "rows"))
            marks += [Mark(0, left, 1, right)] * (self.map in ("light", "cols"))
            marks.append(Mark(top, left, bottom, right, str(n) if len(points) > 1 else ""))
        title, note = "query: the places that ask", "numbered as below"
        if len(points) == 1:
            ((row, col),) = points
            chance = percent(float(attended.cells(attended.probability)[row, col]))
            title, note = f"query: place ({row}, {col})", f"object here: {chance}"
        return Panel(rgb(attended.episode.query), title, note, marks=marks)

    def heats(self, place: tuple[int, int] | None = None, prefix: str = "") -> list[Panel]:
        """Draw the chosen map of a place, by default of the selected one: the shown supports, or the query, under it.

        All have one scale, from 0 to the largest share. The place that gets it is framed, unless others get
        as much or the map is one of bands.
        """
        attended, episode, heat = self.attended, self.attended.episode, self.heat(place)
        if self.map == "prior":
            picture = overlay(episode.query, attended.enlarged(heat[0]), alpha=self.strength, limits=(0, 1))
            return [Panel(picture, "prior, on the query", bar=("0", "1"))]
        title = prefix + ("mean attention" if self.shot == "mean" else "what it attends to")
        title += f", at T = {self.temperature:.3g}" if self._tempered() else ""
        shown = self._shown([*zip(attended.shots, episode.support, episode.mask, strict=True)])
        grid, top = (heat.shape[1], heat.shape[2]), float(heat.max())
        framed = self.map not in BANDS and _alike(heat) == 1
        panels = []
        for (number, support, mask), shares in zip(shown, heat.expand(len(shown), -1, -1), strict=True):
            picture = heated(support, mask, attended.enlarged(shares), top=top, alpha=self.strength)
            largest = divmod(int(shares.argmax()), grid[1])
            marks = [Mark(*attended.cell(*largest, grid))] if framed and float(shares.max()) == top else []
            head = f"support {number}: {title}" if len(attended.shots) > 1 else title
            panels.append(Panel(picture, head, bar=("0", f"{percent(top)} a place"), marks=marks))
        return panels

    def _tempered(self) -> bool:
        return self.temperature != 1 and self.map not in self.attended.returned

    def _shown(self, by_shot: Any) -> Any:
        """Of all shots, those that are chosen."""
        return by_shot if self.shot in ("each", "mean") else by_shot[int(self.shot) - 1 :][:1]


def _alike(heat: Tensor) -> int:
    """How many places get as much as the one that gets most."""
    return int((heat >= ALIKE * heat.max()).sum())
