"""A picture to point at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets


class Picker(anywidget.AnyWidget):
    """A picture that is clicked, dragged over, or walked over with the arrow keys.

    The script sends where it is pointed at, in fractions of height and width, also outside the
    picture, or by how many places a key moves; it waits for the answer before it sends the next.
    """

    _esm = Path(__file__).parent / "picker.js"
    picture = traitlets.Bytes().tag(sync=True)
    marks: traitlets.List[list[float]] = traitlets.List().tag(sync=True)  # [top, left, bottom, right] in fractions
    label = traitlets.Unicode().tag(sync=True)
    answered = traitlets.Int().tag(sync=True)

    def __init__(self, *, pointed: Callable[[float, float], None], stepped: Callable[[int, int], None]) -> None:
        super().__init__()
        self._pointed, self._stepped = pointed, stepped
        self.on_msg(self._take)

    def _take(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        try:
            if "point" in content:
                self._pointed(*content["point"])
            elif "step" in content:
                self._stepped(*content["step"])
        finally:
            self.answered += 1

    def close(self) -> None:
        """Close, and let go of who listens."""
        self.on_msg(self._take, remove=True)
        super().close()
