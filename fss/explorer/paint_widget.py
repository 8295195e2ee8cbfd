"""Painting masks as a widget: label your own pictures, segment another, save what you labelled."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets

from fss.episodes import EpisodeBatch
from fss.errors import InputError
from fss.explorer.elements import LABEL, Box, Painter, Picture, dropdown, labelled, row, slider
from fss.explorer.explore_widget import NAMES, ExploreBox, explore
from fss.explorer.paint import TOOLS, Canvas, Stroke, Upload, canvases_in, save_canvases
from fss.explorer.panels import Panel, sheet
from fss.explorer.scenes import of_pictures
from fss.model import DANet
from fss.predict import NOTHING_FOUND

MOST = 5  # support pictures
SIZE = 256  # pixels, at which the shipped network for photographs was trained
PHOTOGRAPHS_FIRST = ("best", *(name for name in NAMES if name != "best"))


class PaintBox(Box):
    """The painter: support pictures to label, a query to segment, and the explorer of the answer.

    Args:
        canvases: support pictures at the start.
        query: picture uint8 [H,W,3] to segment; it can be uploaded, too.
        networks: see ``explore``.

    Attributes:
        canvases: the support pictures with their masks.
        query: what is segmented, or None.
        episode: what was segmented last, or None.
        result: the explorer of the answer, or None.
        message: the line below as plain text.
    """

    def __init__(
        self,
        canvases: Sequence[Canvas] = (),
        query: np.ndarray | None = None,
        networks: Sequence[str | DANet] = PHOTOGRAPHS_FIRST,
    ) -> None:
        super().__init__()
        self.canvases: list[Canvas] = list(canvases)
        self.query = None if query is None else Canvas(query, "the query")
        self.episode: EpisodeBatch | None = None
        self.result: ExploreBox | None = None
        self._networks = networks

        self.support_upload = _upload("support pictures", multiple=True)
        self.query_upload = _upload("query picture")
        self.mask_upload = _upload("mask (PNG)")
        self.folder = _text("folder", "a folder of pictures to label, on the kernel's machine")
        self.active = dropdown("paint on", [("", 0)], 0, "which support picture is painted on")
        self.tool = widgets.ToggleButtons(
            options=TOOLS,
            description="tool",
            style={**LABEL, "button_width": "76px"},
            tooltips=[
                "drag over the object",
                "drag to take away",
                "drag from corner to corner",
                "click corner by corner; close it at the first one or with Enter",
            ],
            layout=widgets.Layout(width="auto"),
        )
        self.radius = slider("radius", 8, 1, 64, 1, "of brush and eraser, in pixels")
        self.painter = Painter(self.guarded(self._stroke))
        self.strip = Picture("all support pictures with their masks, and the query")
        self.target = _text("save in", "folder that gets the class", "my_pictures")
        self.class_name = _text("class", "what the object is called", "thing")
        self._result = widgets.VBox()
        self.buttons: dict[str, widgets.Button] = {}
        for name, tip, handler in (
            ("Load folder", "read the folder's pictures, and masks beside them", self._load_folder),
            ("Undo", "take the last stroke back", lambda clicked: self._edit(Canvas.undo)),
            ("Clear", "wipe this mask", lambda clicked: self._edit(Canvas.clear)),
            ("Remove", "take this support picture away", self._remove),
            ("Segment", "find the object in the query", self._segment),
            ("Save", "write pictures and masks as a class of a data set", self._save),
        ):
            self.buttons[name] = widgets.Button(description=name, tooltip=tip)
            self.buttons[name].on_click(self.guarded(handler))
        load, undo, clear, remove, segment, save = self.buttons.values()
        self.children = [
            row(self.support_upload, self.query_upload, self.mask_upload, self.folder, load),
            row(self.tool, self.radius, self.active),
            row(widgets.VBox([self.painter, row(undo, clear, remove, segment)]), self.strip),
            row(self.target, self.class_name, save),
            self.line,
            self._result,
        ]
        self.when(self.support_upload, self._add_supports)
        self.when(self.query_upload, self._set_query)
        self.when(self.mask_upload, self._load_mask)
        self.when(self.active, self._show)
        traitlets.dlink((self.tool, "value"), (self.painter, "tool"))
        traitlets.dlink((self.radius, "value"), (self.painter, "radius"))
        self._refresh()

    @property
    def canvas(self) -> Canvas:
        """The support picture that is painted on; raises `InputError` without one."""
        if not self.canvases:
            raise InputError("there is no support picture yet; upload one")
        return self.canvases[self.active.value]

    def paint(self, tool: str, points: Sequence[tuple[float, float]], radius: float = 8) -> None:
        """Paint as the mouse does (see ``paint.Stroke``). What is wrong ends as a line."""
        self.guarded(self._stroke)({"tool": tool, "points": points, "radius": radius})

    def press(self, button: str) -> None:
        """Press one of ``buttons``, as a click does."""
        self.buttons[button].click()

    def _stroke(self, content: dict[str, Any]) -> None:
        points = [(float(y), float(x)) for y, x in content["points"]]
        stroke = Stroke(content["tool"], points, float(content["radius"]))
        self._edit(lambda canvas: canvas.paint(stroke))

    def _edit(self, edit: Callable[[Canvas], None]) -> None:
        """Change the mask that is painted on, and show it."""
        edit(self.canvas)
        self._show()

    def _remove(self, clicked: Any) -> None:
        self.canvases.remove(self.canvas)
        self._refresh()

    def _add_supports(self) -> None:
        self._add([Canvas.read(file) for file in _files(self.support_upload)])

    def _load_folder(self, clicked: Any) -> None:
        self._add(canvases_in(Path(self.folder.value.strip() or ".").expanduser()))

    def _add(self, canvases: Sequence[Canvas]) -> None:
        if not canvases:  # an upload that was emptied
            return
        room = MOST - len(self.canvases)
        self.canvases += canvases[:room]
        self._refresh()
        if len(canvases) > room:
            raise InputError(
                f"{len(canvases) - room} of {len(canvases)} pictures were left out: there is room "
                f"for {MOST} support pictures; remove one first"
            )

    def _set_query(self) -> None:
        for file in _files(self.query_upload):
            self.query = Canvas.read(file)
            self._show()

    def _load_mask(self) -> None:
        for file in _files(self.mask_upload):
            self.canvas.load(file)
            self._show()

    def _refresh(self) -> None:
        """Offer the support pictures that there are, and show the last of them."""
        names = [(f"support {n + 1}: {c.name}", n) for n, c in enumerate(self.canvases)]
        self.active.options = names or [("no picture yet", 0)]
        self.active.value = max(0, len(names) - 1)
        self._show()

    def _show(self) -> None:
        panels = [Panel(c.shown(), f"support {n}", f"{_covers(c)} labelled") for n, c in enumerate(self.canvases, 1)]
        if self.query is not None:
            panels.append(Panel(self.query.image, "query", "to be segmented"))
        self.strip.value = sheet([panels[:3], panels[3:]], side=160) if panels else b""
        if not self.canvases:
            self.painter.picture = b""
            self.say("Upload a picture of the object, or load a folder.")
            return
        canvas = self.canvas
        self.painter.size = list(canvas.mask.shape)
        self.painter.picture = canvas.render()
        self.painter.label = (
            f"Support {self.active.value + 1} to paint on. Arrow keys move, space paints or sets a "
            "corner, Enter closes a shape, Escape drops it."
        )
        self.say(f"{canvas.name}: {_covers(canvas)} of the picture is labelled.")

    def _segment(self, clicked: Any) -> None:
        if self.query is None:
            raise InputError("there is no query picture yet; upload one")
        for canvas in self.canvases:
            canvas.check()
        pairs = [(canvas.image, canvas.mask) for canvas in self.canvases]
        self.episode = of_pictures(pairs, self.query.image, size=SIZE)
        if self.result is None:
            self.result = explore(self.episode, networks=self._networks)
            self._result.children = [self.result]
        else:
            self.result.ask(self.episode)
        share = float((self.result.explorer.attended.prediction == 1).float().mean())
        found = f"{100 * share:.3g} % of the query" if share else NOTHING_FOUND.format("the query")
        self.say(f"Segmented with {self.result.network.label}: {found}.")

    def _save(self, clicked: Any) -> None:
        root = Path(self.target.value.strip() or ".").expanduser()
        saved = save_canvases(root, self.class_name.value.strip(), self.canvases)
        self.say(
            f"Saved {len(saved)} pictures in {saved[0].parent}. fss train and fss eval take them "
            f"as --data folder:{root} (three classes or more, each of two pictures or more)."
        )


def draw_masks(
    support: Sequence[np.ndarray | tuple[np.ndarray, np.ndarray]] = (),
    query: np.ndarray | None = None,
    *,
    networks: Sequence[str | DANet] = PHOTOGRAPHS_FIRST,
) -> PaintBox:
    """Paint masks over support pictures and segment a query by them.

    Args:
        support: pictures uint8 [H,W,3] to start with, or pairs with a mask [H,W] of 0 and 1; more
            can be uploaded.
        query: picture uint8 [H,W,3] to segment.
        networks: see ``explore``.

    Raises:
        InputError: a picture of fewer than 16 pixels a side, or a mask of another size.
    """
    canvases = []
    for n, given in enumerate(support, 1):
        image, mask = given if isinstance(given, tuple) else (given, None)
        canvas = Canvas(image, f"picture {n}")
        if mask is not None:
            canvas.set(mask)
        canvases.append(canvas)
    return PaintBox(canvases, query, networks)


def _upload(label: str, *, multiple: bool = False) -> widgets.FileUpload:
    return widgets.FileUpload(
        accept="image/*",
        multiple=multiple,
        description=label,
        tooltip=f"upload {label}",
        layout=widgets.Layout(width="180px"),
    )


def _text(label: str, tip: str, value: str = "") -> widgets.Text:
    return labelled(widgets.Text, label, tip, value=value, placeholder=tip, continuous_update=False)


def _files(upload: widgets.FileUpload) -> list[Upload]:
    """The files, which are taken out, so that the same one may come again."""
    files = [Upload(file["name"], bytes(file["content"])) for file in upload.value]
    upload.value = ()
    return files


def _covers(canvas: Canvas) -> str:
    return f"{100 * canvas.mask.mean():.3g} %"
