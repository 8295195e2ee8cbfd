"""What both widgets are made of: a box that never dies of an error and leaves nothing behind."""

import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import traitlets

from fss.errors import InputError

HINT = "No widget here? Run this cell in JupyterLab with ipywidgets and anywidget, then reload."
"""Stands in the place of a widget where nothing can show it; ipywidgets cuts after 110 letters."""

LABEL = {"description_width": "96px"}
WIDE = "330px"


class Box(widgets.VBox):
    """A column of widgets whose last is a line of text: a result, or what went wrong."""

    def __init__(self, children: Sequence[widgets.Widget] = ()) -> None:
        self.line = widgets.HTML()
        super().__init__([*children, self.line])

    def __repr__(self) -> str:
        return HINT

    @property
    def message(self) -> str:
        """The line as plain text."""
        return html.unescape(self.line.value.partition(">")[2].removesuffix("</div>"))

    def say(self, text: str, *, error: bool = False) -> None:
        """Show a line; a screen reader reads it out."""
        style = "color:var(--jp-error-color1,#c62828);font-weight:600" if error else ""
        role = "alert" if error else "status"
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

    def when(self, control: widgets.Widget, handler: Callable[..., None]) -> None:
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
