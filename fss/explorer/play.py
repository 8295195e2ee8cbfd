"""Sliders and menus around a picture, for the last cells of a notebook."""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from fss.errors import InputError
from fss.explorer.elements import Box, Picture, dropdown, labelled, row, slider
from fss.viz import NotebookFigure


class Play(Box):
    """Controls above a picture that is drawn anew whenever one of them changes.

    Args:
        draw: takes the controls' values by name and returns a figure, or the bytes of a PNG.
        controls: see ``play``.
        title: what the picture shows, for a screen reader.

    Attributes:
        controls: the widgets by name.
        picture: the widget of the picture.
        message: what went wrong when the picture was last drawn; otherwise empty.
    """

    def __init__(self, draw: Callable[..., NotebookFigure | bytes], controls: dict[str, Any], title: str) -> None:
        super().__init__()
        self._draw = draw
        self.controls = {name: _control(name, values) for name, values in controls.items()}
        self.picture = Picture(title)
        self.children = [row(*self.controls.values()), self.picture, self.line]
        self._show()
        for control in self.controls.values():
            self.when(control, self._show)

    def _show(self) -> None:
        drawn = self._draw(**{name: control.value for name, control in self.controls.items()})
        self.picture.value = drawn if isinstance(drawn, bytes) else drawn._repr_png_()
        self.say("")


def play(
    draw: Callable[..., NotebookFigure | bytes], *, title: str = "the picture that the controls change", **controls: Any
) -> Play:
    """Make a slider, menu or box for each control, and a picture that follows them.

    The first picture is drawn at once, so that an error in ``draw`` ends the cell as usual; later ones end as a
    line below the picture.

    Args:
        draw: called as ``draw(**values)``, returns a figure, or the bytes of a PNG.
        title: what the picture shows, for a screen reader.
        controls: by name. A ``range`` is a slider of whole numbers; a tuple ``(low, high, step)`` one of fractions;
            a list a menu; True or False a box to tick. A dict ``{"of": ..., "value": ..., "label": ...}`` around
            one of them also says where it starts and what it is called. A widget with a value is taken as it is.

    Raises:
        InputError: a control is not one of these, or has nothing to choose from.

    >>> box = play(lambda n, bold: b"", n=range(3), bold=False)
    >>> [control.value for control in box.controls.values()]
    [0, False]
    """
    return Play(draw, controls, title)


def _control(name: str, given: Any) -> widgets.Widget:
    """The widget of one control; it starts at the first value."""
    settings = given if isinstance(given, dict) else {"of": given}
    of, label = settings.get("of"), settings.get("label", name.replace("_", " "))
    tip = f"choose {label}"
    if isinstance(given, widgets.ValueWidget):
        given.description, given.tooltip = given.description or label, given.tooltip or tip
        return given
    if isinstance(of, bool):
        return labelled(widgets.Checkbox, label, tip, value=settings.get("value", of))
    if isinstance(of, range) and len(of) > 0 and of.step > 0:
        return slider(label, settings.get("value", of[0]), of[0], of[-1], of.step, tip)
    if isinstance(of, tuple) and len(of) == 3 and of[0] < of[1] and of[2] > 0:
        low, high, step = map(float, of)
        return slider(label, settings.get("value", low), low, high, step, tip)
    if isinstance(of, Sequence) and not isinstance(of, (str, range, tuple)) and of:
        return dropdown(label, of, settings.get("value", of[0]), tip)
    raise InputError(
        f"control {name} = {given!r} is not a range, (low, high, step), a list, or True or False, "
        "with something to choose"
    )
