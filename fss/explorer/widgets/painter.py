"""A picture to paint on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets


class Painter(anywidget.AnyWidget):
    """A picture that strokes are drawn over with mouse, touch or keys.

    The script shows a stroke while it is drawn and then sends it, ``{tool, points, radius}`` with
    (row, column) in pixels; what counts is the picture that comes back.
    """

    _esm = Path(__file__).parent / "painter.js"
    picture = traitlets.Bytes().tag(sync=True)
    size = traitlets.List([1, 1]).tag(sync=True)  # height and width in pixels
    tool = traitlets.Unicode("brush").tag(sync=True)
    radius = traitlets.Float(8).tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    answered = traitlets.Int().tag(sync=True)

    def __init__(self, *, stroked: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._stroked = stroked
        self.on_msg(self._take)

    def _take(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        try:
            self._stroked(content)
        finally:
            self.answered += 1

    def close(self) -> None:
        """Close, and let go of who listens."""
        self.on_msg(self._take, remove=True)
        super().close()
