"""Pictures to point at and to paint on, with scripts that run in the browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

HERE = Path(__file__).parent


def _script(name: str) -> str:
    """The script of a widget; anywidget takes one, so what both share stands before it."""
    return "".join((HERE / file).read_text(encoding="utf-8") for file in ("picture.js", name))


class _Live(anywidget.AnyWidget):
    """A picture whose script sends messages and waits for the answer before it sends the next."""

    picture = traitlets.Bytes().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    answered = traitlets.Int().tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        self.on_msg(self._take)

    def _take(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        try:
            self._answer(content)
        finally:
            self.answered += 1

    def _answer(self, content: dict[str, Any]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Close, and drop the observer of messages."""
        self.on_msg(self._take, remove=True)
        super().close()


class Picker(_Live):
    """A picture that is clicked, dragged over, or walked over with the arrow keys.

    The script sends where it is pointed at, in fractions of height and width, also outside the
    picture, or by how many places a key moves.
    """

    _esm = _script("picker.js")
    marks: traitlets.List[list[float]] = traitlets.List().tag(sync=True)  # [top, left, bottom, right] in fractions

    def __init__(self, *, pointed: Callable[[float, float], None], stepped: Callable[[int, int], None]) -> None:
        super().__init__()
        self._pointed, self._stepped = pointed, stepped

    def _answer(self, content: dict[str, Any]) -> None:
        if "point" in content:
            self._pointed(*content["point"])
        elif "step" in content:
            self._stepped(*content["step"])


class Painter(_Live):
    """A picture that strokes are drawn over with mouse, touch or keys.

    The script shows a stroke while it is drawn and then sends it, ``{tool, points, radius}`` with
    (row, column) in pixels; what counts is the picture that comes back.
    """

    _esm = _script("painter.js")
    size = traitlets.List([1, 1]).tag(sync=True)  # height and width in pixels
    tool = traitlets.Unicode("brush").tag(sync=True)
    radius = traitlets.Float(8).tag(sync=True)

    def __init__(self, *, stroked: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._stroked = stroked

    def _answer(self, content: dict[str, Any]) -> None:
        self._stroked(content)
