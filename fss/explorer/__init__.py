"""Where does a place of the query look? One episode, one network, one place at a time.

``Explorer`` is the whole logic of the widgets in ``fss.explorer.widgets`` and needs none of them: it answers
with numbers, and with PNG bytes for a page that has no kernel.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fss.checkpoint import find_checkpoint, load
from fss.config import arm
from fss.data.pictures import stamp
from fss.episodes import EpisodeBatch
from fss.errors import InputError, nearest
from fss.explorer.heat import BANDS, Looks
from fss.explorer.panels import ALIKE, Panels, percent
from fss.explorer.sheet import Panel, sheet
from fss.model import DANet

NETWORKS = {
    "intended": "intended-lite0-shapes",
    "published": "published-lite0-shapes",
    "best": "best-lite0-photos",
    "base, untrained": None,
    "published, untrained": None,
    "intended, untrained": None,
    "best, untrained": None,
}
"""What a widget offers. Weights of the first three are shipped; the others are fresh ones."""

COLDEST, HOTTEST = 0.1, 100.0


def network(name: str) -> DANet:
    """Load one of ``NETWORKS``, or a checkpoint (see ``fss.load``), and keep it.

    Raises:
        InputError: no such network.
    """
    if name in NETWORKS:
        return _offered(name)
    file = find_checkpoint(name)
    return _read(file, stamp(file))


@lru_cache(maxsize=8)
def _read(file: Path, written: str) -> DANet:
    """A file as it was ``written``: a run that goes on writes it anew."""
    return load(file)


@lru_cache(maxsize=len(NETWORKS))
def _offered(name: str) -> DANet:
    weights = NETWORKS[name]
    if weights is not None:
        return load(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = name.removesuffix(", untrained")
        return DANet(arm("published" if plain == "published" else plain)).eval()


class Explorer:
    """What a place of the query looks at, in numbers and as a picture.

    Args:
        model: the network, in eval mode.
        episode: one episode without a batch axis; see ``Looks``, which also says what is raised.

    Attributes:
        looks: what the network says of the episode.
        place: the selected place, (row, column).
        map, shot, temperature, strength: what is shown; see ``choose``.
    """

    def __init__(self, model: DANet, episode: EpisodeBatch) -> None:
        self.looks = Looks(model, episode)
        self.panels = Panels(self.looks)
        self.map, self.shot = self.looks.maps[0], "each"
        self.temperature, self.strength = 1.0, 0.65
        rows, cols = self.looks.grid
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
            map: one of ``looks.maps``.
            shot: ``"each"`` support picture under its own map, all under the ``"mean"``, or one, by
                its number from 1 on.
            temperature: the scores are divided by it, 0.1..100; at 1 the map is the network's own.
                It changes what is shown, never the prediction.
            strength: of the colours over the picture, 0..1.

        Raises:
            InputError: none of these; nothing is changed.
        """
        maps, shots = self.looks.maps, ["each", "mean", *shot_numbers(self.looks)]
        if map is not None and map not in maps:
            raise InputError(f"no map {map!r} in this network; {nearest(map, maps)}")
        if shot is not None and str(shot) not in shots:
            raise InputError(f"no shot {shot!r}; known: {', '.join(shots)}")
        if temperature is not None and not COLDEST <= temperature <= HOTTEST:
            raise InputError(f"temperature {temperature} is not in {COLDEST:g}..{HOTTEST:g}")
        if strength is not None and not 0 <= strength <= 1:
            raise InputError(f"strength {strength} is not in 0..1")
        self.map = self.map if map is None else map
        self.shot = self.shot if shot is None else str(shot)
        self.temperature = self.temperature if temperature is None else temperature
        self.strength = self.strength if strength is None else strength

    def select(self, row: int, col: int) -> None:
        """Select a place of the query by its row and column, from 0 on.

        Raises:
            InputError: outside the picture; the old place stays.
        """
        rows, cols = self.looks.grid
        if not (0 <= row < rows and 0 <= col < cols):
            raise InputError(
                f"place ({row}, {col}) lies outside the picture: rows run from 0 to {rows - 1}, "
                f"columns from 0 to {cols - 1}"
            )
        self.place = (int(row), int(col))

    def heat(self, place: tuple[int, int] | None = None) -> Tensor:
        """Return the chosen map of a place, by default of the selected one.

        [K,H,W] by shot, or [1,H,W] of one shot or of the mean (see ``Looks.look``). Of the prior,
        which is of the query and the same for all places, [1,H,W].
        """
        if self.map == "prior":
            assert self.looks.prior is not None
            return self.looks.prior[None]
        place = self.place if place is None else place
        heat = self.looks.look(self.map, place, temperature=self.temperature)
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
        target, cells = self.looks.episode.target, self.looks.cells
        known = cells((target != 255).float())[row, col]
        found: dict[str, Any] = {
            "probability": float(cells(self.looks.probability)[row, col]),
            "truth": float(cells((target == 1).float())[row, col] / known) if known > 0 else None,
        }
        if self.looks.prior is not None:
            found["prior"] = float(self.looks.prior[row, col])
        if self.map == "prior":
            return found
        heat = self.heat()
        height, width = heat.shape[1:]
        shot, at = divmod(int(heat.argmax()), height * width)
        return found | {
            "largest": float(heat.max()),
            "at": divmod(at, width),
            "shot": None if self.shot == "mean" else int(self._numbers()[shot]),
            "alike": int((heat >= ALIKE * heat.max()).sum()),
            "on_object": self._on_object(),
        }

    def _on_object(self) -> float:
        """The share of the look that falls on objects: each support's look on its own object."""
        looks = self.looks.look(self.map, self.place, temperature=self.temperature)
        objects = self.looks.object_share((looks.shape[1], looks.shape[2]))
        if self.shot != "mean":
            looks, objects = self._shown(looks), self._shown(objects)
        return float((looks * objects).sum() / looks.sum().clamp_min(1e-12))

    def text(self) -> str:
        """Return ``numbers`` as a line to read."""
        found = self.numbers()
        first = f"Query place {self.place}: {percent(found['probability'])} object"
        if found["truth"] is not None:
            first += f" (truth {percent(found['truth'])})"
        parts = [first]
        if "prior" in found:
            parts.append(f"prior {found['prior']:.2f}")
        if "largest" in found:
            largest, several = percent(found["largest"]), len(self.looks.episode.support) > 1
            shot = f" of support {found['shot']}" if several and found["shot"] else ""
            if self.map not in BANDS and found["alike"] == 1:
                parts.append(f"looks most at place {found['at']}{shot}: {largest}")
            elif self.map not in BANDS:
                parts.append(f"{found['alike']} places get the most alike: {largest} each")
            parts.append(f"{percent(found['on_object'])} of the look is on the object")
            if self.temperature != 1:
                parts.append(f"temperature {self.temperature:.3g} (the network's own is 1)")
        return " · ".join(parts)

    def render(self, *, query: bool = True) -> bytes:
        """Draw the selected place, where it looks, the prediction and its errors: PNG.

        ``query=False`` leaves the query out, for a widget that shows it already.
        """
        asked = [self.asked()] if query else []
        supports, answer, looks = self._supports(), self.panels.answer, self._looks(self.place)
        if len(supports) == 1:
            return sheet([[*asked, *supports, *looks], answer])
        if self.map == "prior":
            return sheet([[*asked, *looks, *answer], supports])
        return sheet([[*asked, *answer], supports, looks])

    def snapshot(self, points: Sequence[tuple[int, int]], *, steps: int = 256) -> bytes:
        """Draw several places, (row, column), and where each looks: the PNG above a widget.

        Args:
            points: the places.
            steps: of each colour; 32 halve the bytes, and nobody sees it.

        Raises:
            InputError: a place outside the picture, or no place; the selected one stays.
        """
        if not points:
            raise InputError("a snapshot needs at least one place")
        kept = self.place
        try:
            for point in points:
                self.select(*point)
        finally:
            self.place = kept
        several = len(points) > 1
        looks = [self._looks(point, f"{n}: " * several) for n, point in enumerate(points, 1)]
        supports, first = self._supports(), [self.asked(points), *self.panels.answer]
        rows = [[*supports, *first]] if len(supports) == 1 else [first, supports]
        panels = looks[0] if self.map == "prior" else [panel for each in looks for panel in each]
        step = max(len(looks[0]), 4 // len(looks[0]) * len(looks[0]))
        rows += [panels[n : n + step] for n in range(0, len(panels), step)]
        return sheet(rows, compress=9, steps=steps)

    def asked(self, points: Sequence[tuple[int, int]] | None = None) -> Panel:
        """Draw the query and the places that ask, by default the selected one."""
        rows, cols = self.map in ("light", "rows"), self.map in ("light", "cols")
        return self.panels.asked(points or [self.place], rows=rows, cols=cols)

    def _looks(self, place: tuple[int, int], prefix: str = "") -> list[Panel]:
        if self.map == "prior":
            return [self.panels.prior(self.strength)]
        title = prefix + ("mean look" if self.shot == "mean" else "where it looks")
        title += "" if self.temperature == 1 else f", at T = {self.temperature:.3g}"
        heat, peak = self.heat(place), self.map not in BANDS
        return self.panels.heat(heat, self._numbers(), title, strength=self.strength, peak=peak)

    def _supports(self) -> list[Panel]:
        return self._shown(self.panels.supports)

    def _shown(self, by_shot: Any) -> Any:
        """Of all shots, those that are chosen."""
        return by_shot if self.shot in ("each", "mean") else by_shot[int(self.shot) - 1 :][:1]

    def _numbers(self) -> list[str]:
        return self._shown(shot_numbers(self.looks))


def shot_numbers(looks: Looks) -> list[str]:
    """The numbers of an episode's support pictures, from 1 on, as ``choose`` takes them."""
    return [str(n) for n in range(1, len(looks.episode.support) + 1)]
