"""The whole network as one drawing, with the box of today's lesson lit."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from fss.errors import InputError, nearest
from fss.viz import NotebookFigure

LIT, PLAIN, INK = "#ffd166", "#f4f4f4", "#222222"
HEIGHT = 0.9


class Box(NamedTuple):
    """A box of the drawing: its text, its centre and its width, in units of the drawing."""

    text: str
    x: float
    y: float
    width: float = 1.5


# Above what happens to the query, below what happens to the support; the prior passes over both.
BOXES = {
    "query": Box("query\npicture", 0.8, 3),
    "support": Box("support\nand label", 0.8, 1),
    "backbone": Box("frozen\nbackbone", 2.9, 2),
    "mask": Box("mask: only\nthe object", 5.0, 1, 1.6),
    "light": Box("light\nattention", 5.0, 3, 1.6),
    "reduce": Box("join block2\nand block3", 7.2, 2, 1.6),
    "dense": Box("dense\nattention", 9.4, 3, 1.6),
    "prototype": Box("channel attention:\nprototype", 9.5, 1, 2.6),
    "prior": Box("prior,\nfrom block4", 2.9, 4.1),
    "decoder": Box("decoder", 11.8, 2),
    "prediction": Box("object or\nground?", 13.9, 2),
}
ARROWS = (
    ("query", "backbone"), ("support", "backbone"), ("backbone", "light"), ("backbone", "mask"), ("support", "mask"),
    ("mask", "light"),
    ("light", "reduce"), ("mask", "reduce"), ("reduce", "dense"), ("reduce", "prototype"), ("backbone", "prior"),
    ("prior", "decoder"), ("dense", "decoder"), ("prototype", "decoder"), ("decoder", "prediction"),
)  # fmt: skip


def network_map(*lit: str) -> NotebookFigure:
    """Draw DANet from the pictures to the prediction, and light the boxes with these names.

    Args:
        lit: names of ``BOXES``: ``network_map("dense")``.

    Raises:
        InputError: there is no box with such a name.
    """
    if unknown := [name for name in lit if name not in BOXES]:
        raise InputError(f"the map has no box {unknown[0]!r}; {nearest(unknown[0], BOXES)}")
    figure = NotebookFigure(figsize=(9, 3.1), dpi=75)
    axis = figure.add_axes((0, 0, 1, 1), xlim=(-0.1, 14.8), ylim=(0.2, 4.8))
    axis.axis("off")
    for start, end in ARROWS:
        _connect(axis, BOXES[start], BOXES[end])
    for name, box in BOXES.items():
        _draw(axis, box, lit=name in lit)
    return figure


def _draw(axis: Axes, box: Box, *, lit: bool) -> None:
    corner = (box.x - box.width / 2, box.y - HEIGHT / 2)
    shape = FancyBboxPatch(corner, box.width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.15", edgecolor=INK)
    shape.set(facecolor=LIT if lit else PLAIN, linewidth=2.2 if lit else 0.8)
    axis.add_patch(shape)
    axis.text(box.x, box.y, box.text, ha="center", va="center", fontsize=10, weight="bold" if lit else "normal")


def _connect(axis: Axes, start: Box, end: Box) -> None:
    """An arrow from the right rim of a box to the left rim of another; straight up, or along the top and down."""
    style = {"arrowstyle": "-|>", "color": INK, "linewidth": 1, "connectionstyle": "arc3"}
    tail, head = (start.x + start.width / 2, start.y), (end.x - end.width / 2, end.y)
    if start.x == end.x:
        tail, head = (start.x, start.y + HEIGHT / 2), (end.x, end.y - HEIGHT / 2)
    elif start == BOXES["prior"]:
        head, style["connectionstyle"] = (end.x, end.y + HEIGHT / 2), "angle,angleA=0,angleB=90"
    axis.annotate("", head, tail, arrowprops=style)
