"""What the widgets are made of: a box that never dies of an error, controls, pictures to point at and to paint on."""

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

from fss.errors import InputError

HINT = "No widget here? Run this cell in JupyterLab with ipywidgets and anywidget, then reload."
"""Stands in the place of a widget where nothing can show it; ipywidgets cuts after 110 letters."""

LABEL = {"description_width": "96px"}
WIDE = "330px"


class Box(widgets.VBox):
    """A column of widgets whose last is a line of text: a result, or what went wrong.

    Attributes:
        line: the widget of the line.
        message: the line as plain text.
    """

    message = ""

    def __init__(self) -> None:
        self.line = widgets.HTML()
        super().__init__([self.line])

    def __repr__(self) -> str:
        return HINT

    def say(self, text: str, *, error: bool = False) -> None:
        """Show a line; a screen reader reads it out."""
        style = "color:var(--jp-error-color1,#c62828);font-weight:600" if error else ""
        role = "alert" if error else "status"
        self.message = text
        self.line.value = f'<div role="{role}" style="{style}">{html.escape(text)}</div>'

    def guarded(self, handler: Callable[..., None]) -> Callable[..., None]:
        """Let a handler's error end as a line: whatever happens, the next click works."""

        def handle(*given: Any) -> None:
            try:
                handler(*given)
            except InputError as error:
                self.say(str(error), error=True)
            except Exception as error:  # a traceback would end in a log that nobody reads
                self.say(f"{type(error).__name__}: {error}; this is a fault of the kit", error=True)

        return handle

    def when(self, control: widgets.Widget, handler: Callable[[], None]) -> None:
        """Call a handler, guarded, after each change of a control's value."""
        control.observe(self.guarded(lambda change: handler()), names="value")

    def close(self) -> None:
        """Close this and all it holds, and drop every observer."""
        _release(self)
        super().close()


def _release(widget: widgets.Widget) -> None:
    """Close a widget's children, its layout and its style, and drop its observers."""
    for child in getattr(widget, "children", ()):
        if not isinstance(child, Box):  # which releases its own
            _release(child)
        child.close()
    for part in (widget.layout, getattr(widget, "style", None)):
        if part is not None:
            part.close()
    widget.unobserve_all()


def row(*children: widgets.Widget) -> widgets.HBox:
    """Widgets side by side, in as many lines as a narrow page needs."""
    return widgets.HBox(children, layout=widgets.Layout(flex_flow="row wrap"))


def labelled(kind: Callable[..., Any], label: str, tip: str, **settings: Any) -> Any:
    """A control of some kind with a label beside it and a tip, all of one width."""
    layout = widgets.Layout(width=WIDE)
    return kind(description=label, tooltip=tip, style=LABEL, layout=layout, **settings)


def dropdown(label: str, options: Sequence[Any], value: Any, tip: str) -> widgets.Dropdown:
    """A labelled choice."""
    return labelled(widgets.Dropdown, label, tip, options=options, value=value)


def slider(
    label: str, value: float, low: float, high: float, step: float, tip: str
) -> widgets.IntSlider | widgets.FloatSlider:
    """A labelled number; it answers when it is let go."""
    kind = widgets.FloatSlider if isinstance(step, float) else widgets.IntSlider
    return labelled(kind, label, tip, value=value, min=low, max=high, step=step, continuous_update=False)


class Picture(widgets.Image):
    """A PNG with a title, which is what a screen reader says of it.

    ipywidgets' script for a title asks every widget for its description and fails on an image,
    which has none; an empty one fixes that.
    """

    description = traitlets.Unicode().tag(sync=True)

    def __init__(self, title: str) -> None:
        layout = widgets.Layout(max_width="100%", align_self="flex-start")
        super().__init__(format="png", tooltip=title, layout=layout)


def _script(name: str) -> str:
    """The script of a picture; anywidget takes one, so what both share stands before it."""
    return "".join((Path(__file__).parent / file).read_text(encoding="utf-8") for file in ("picture.js", name))


class _LivePicture(anywidget.AnyWidget):
    """A picture whose script sends messages, and counts the answers to send no more than are taken."""

    picture = traitlets.Bytes().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    answered = traitlets.Int().tag(sync=True)

    def __init__(self, received: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._received = received
        self.on_msg(self._answer)

    def _answer(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        try:
            self._received(content)
        finally:
            self.answered += 1


class Picker(_LivePicture):
    """A picture that is clicked, dragged over, or walked over with the arrow keys.

    The script sends ``{point: [y, x]}``, where it is pointed at, in fractions of height and width, also
    outside the picture, or ``{step: [down, right]}``, by how many places a key moves.
    """

    _esm = _script("picker.js")
    marks: traitlets.List[list[float]] = traitlets.List().tag(sync=True)  # [top, left, bottom, right] in fractions


class Painter(_LivePicture):
    """A picture that strokes are drawn over with mouse, touch or keys.

    The script shows a stroke while it is drawn and then sends it, ``{tool, points, radius}`` with
    (row, column) in pixels; what counts is the picture that comes back.
    """

    _esm = _script("painter.js")
    size = traitlets.List([1, 1]).tag(sync=True)  # height and width in pixels
    tool = traitlets.Unicode("brush").tag(sync=True)
    radius = traitlets.Float(8).tag(sync=True)
