"""The explorer as a widget: point at the query, see what that place attends to."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import ipywidgets as widgets

from fss.data.shapes import World, classes_of
from fss.data.shapes.world import Share
from fss.episodes import EpisodeBatch
from fss.explorer.attended import MAPS
from fss.explorer.elements import Box, Picker, Picture, dropdown, labelled, row, slider
from fss.explorer.headless import COLDEST, HOTTEST, Explorer
from fss.explorer.networks import NETWORKS, network
from fss.explorer.panels import png
from fss.explorer.scenes import EMPTY, ITSELF, OTHER, OWN, SUPPORTS, drawn, is_known, swap
from fss.model import DANet
from fss.viz import rgb

NAMES = tuple(NETWORKS)


class ExploreBox(Box):
    """The explorer: knobs, the query to point at, and a picture of what it attends to.

    Args:
        episode_of: makes the episode that is shown, of the chosen support.
        supports: what may be chosen as support, of ``fss.explorer.scenes.SUPPORTS``.
        networks: names of ``fss.explorer.NETWORKS``, checkpoints, or networks.
        knobs: further controls; each change of one makes the episode anew.

    Attributes:
        explorer: what is shown; ``explorer.place`` is the selected place.
        message: the line below as plain text.
    """

    def __init__(
        self,
        episode_of: Callable[[str], EpisodeBatch],
        supports: Sequence[str],
        networks: Sequence[str | DANet] = NAMES,
        knobs: Sequence[widgets.Widget] = (),
    ) -> None:
        super().__init__()
        self._episode_of, self._busy = episode_of, False
        offered = [(each if isinstance(each, str) else f"yours ({n})", each) for n, each in enumerate(networks, 1)]
        self.network = dropdown("network", offered, networks[0], "which network answers")
        self.map = dropdown("map", [("", "")], "", "which of its maps is shown")
        self.shot = dropdown("shot", ["each"], "each", "whose map: each support's own, or the mean")
        self.support = dropdown("support", supports, supports[0], "what it is given as the object")
        self.temperature = labelled(
            widgets.FloatLogSlider,
            "temperature",
            "scores are divided by it; 1 is the network's own; the prediction stays",
            value=1,
            min=math.log10(COLDEST),
            max=math.log10(HOTTEST),
            step=0.1,
            continuous_update=False,
            readout_format=".2g",
        )
        self.strength = slider("overlay", 0.65, 0.0, 1.0, 0.05, "strength of the colours")
        self.rows = slider("row", 0, 0, 1, 1, "row of the place that asks")
        self.cols = slider("column", 0, 0, 1, 1, "column of the place that asks")
        self.picker = Picker(self.guarded(self._pointed))
        self.picture = Picture("support pictures, what the chosen place attends to, prediction, errors")
        self.children = [
            row(self.network, self.map, self.shot, self.support, self.temperature, self.strength),
            row(*knobs),
            row(widgets.VBox([self.picker, self.rows, self.cols]), self.picture),
            self.line,
        ]
        self.explorer = self._make()
        self._offer()
        for control in (self.network, self.support, *knobs):
            self.when(control, self._load)
        for control in (self.map, self.shot, self.temperature, self.strength):
            self.when(control, self._choose)
        for control in (self.rows, self.cols):
            self.when(control, lambda: self._select(self.rows.value, self.cols.value))

    def when(self, control: widgets.Widget, handler: Callable[[], None]) -> None:
        """Call a handler, guarded, after each change of a control that a reader makes."""
        super().when(control, lambda: None if self._busy else handler())

    def select(self, row: int, col: int) -> None:
        """Select a place, as a click does; a place outside the picture ends as a line."""
        self.guarded(self._select)(row, col)

    def ask(self, episode: EpisodeBatch) -> None:
        """Show another episode, with its own support."""
        self._episode_of = lambda support: swap(episode, support)
        with self._setting():
            self.support.value = OWN
        self.guarded(self._load)()

    def _load(self) -> None:
        """Make episode and explorer anew; place and choices stay where they can."""
        explorer = self._make()
        if self.explorer.attended.grid == explorer.attended.grid:
            explorer.place = self.explorer.place
        self.explorer = explorer
        self._offer()

    def _make(self) -> Explorer:
        return Explorer(network(self.network.value), self._episode_of(self.support.value))

    def _offer(self) -> None:
        """Offer what the explorer has to choose from, and show it."""
        attended = self.explorer.attended
        (rows, cols), shots = attended.grid, attended.shots
        with self._setting():
            _replace(self.map, [(MAPS[name], name) for name in attended.maps])
            _replace(self.shot, ["each", "mean", *shots] if len(shots) > 1 else ["each"])
            self.rows.max, self.cols.max = rows - 1, cols - 1
        self.picker.picture = png(rgb(attended.episode.query))
        self._choose()

    def _choose(self) -> None:
        fixed = self.temperature.disabled = self.map.value in self.explorer.attended.returned
        self.explorer.choose(
            map=self.map.value,
            shot=self.shot.value,
            temperature=None if fixed else min(HOTTEST, max(COLDEST, self.temperature.value)),
            strength=self.strength.value,
        )
        self._show()

    def _pointed(self, content: dict[str, Any]) -> None:
        """Take a message of the picker."""
        if "point" in content:
            self._select(*self.explorer.attended.place_at(*content["point"]))
        else:
            (row, col), (down, right) = self.explorer.place, content["step"]
            self._select(row + down, col + right)

    def _select(self, row: int, col: int) -> None:
        self.explorer.select(row, col)
        self._show()

    def _show(self) -> None:
        explorer = self.explorer
        with self._setting():
            self.rows.value, self.cols.value = explorer.place
        self.picker.marks = [list(mark[:4]) for mark in explorer.asked().marks]
        at, across = explorer.place
        self.picker.label = f"The query picture, row {at}, column {across} selected. Arrow keys move, or click."
        self.picture.value = explorer.render(query=False)
        self.say(explorer.text())

    @contextmanager
    def _setting(self) -> Iterator[None]:
        """Set controls without being called back."""
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before


def _replace(control: widgets.Dropdown, options: Sequence[str | tuple[str, str]]) -> None:
    """Replace the options; the value stays where it is among them, else it is the first."""
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    kept = control.value if control.value in values else values[0]
    control.options = options
    control.value = kept


def explore(
    shown: EpisodeBatch | DANet | str,
    *,
    other: EpisodeBatch | None = None,
    networks: Sequence[str | DANet] = NAMES,
) -> ExploreBox:
    """Show an episode, or any network, in the explorer.

    Args:
        shown: one episode without a batch axis (see ``fss.explorer.Explorer``); or a network, its name or its
            checkpoint, which is shown in the shapes world, before the other ``networks``.
        other: an episode of another class, for the swap of the support.
        networks: what is offered, the first one at the start; also checkpoints and networks.
    """
    if not isinstance(shown, EpisodeBatch):
        return explore_world(networks=[shown, *(name for name in networks if name is not shown)])
    episode = shown
    supports = [OWN, *([] if other is None else [OTHER]), EMPTY]
    supports += [ITSELF] if is_known(episode) else []
    return ExploreBox(lambda support: swap(episode, support, other), supports, networks)


def explore_world(
    class_name: str = "shape-0042",
    *,
    query: int = 9,
    shots: int = 1,
    size: int = 224,
    networks: Sequence[str | DANet] = NAMES,
) -> ExploreBox:
    """Show the shapes world in the explorer, with its knobs as sliders.

    The knobs turn the query's picture; the support stays as it is.

    Args:
        class_name: the class at the start, of the test classes of fold 0.
        query: number of its picture that is asked about, 0..9.
        shots: support pictures.
        size: of the pictures, in pixels.
        networks: see ``explore``.
    """
    default = World()
    name = dropdown("class", classes_of("test", 0), class_name, "class of the object")
    number = slider("picture", query, 0, 9, 1, "which picture of the class is the query")
    distractors = slider("distractors", 2, 0, 8, 1, "other objects in the query")
    share = dropdown("they share", get_args(Share), "none", "what distractors share with the object")
    hidden = slider("occlusion", default.occlusion, 0.0, 1.0, 0.05, "chance of being half hidden")
    area = slider("size", 0.14, 0.02, 0.5, 0.01, "share of the query that the object covers")

    def make(support: str) -> EpisodeBatch:
        world = World(
            distractors_min=distractors.value,
            distractors_max=distractors.value,
            share=share.value,
            occlusion=hidden.value,
            area_min=area.value,
            area_max=area.value,
        )
        return drawn(name.value, query=number.value, shots=shots, world=world, support=support, size=size)

    knobs = (name, number, distractors, share, hidden, area)
    return ExploreBox(make, SUPPORTS, networks, knobs)
