"""Titled pictures side by side as one PNG, in a few milliseconds: what a widget shows.

matplotlib takes a tenth of a second for a figure, all that a click may cost; so this is drawn by
pillow. White ground and dark letters are readable on a light and on a dark page.
"""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fss.viz import Picture

SIDE = 224  # of a picture, in pixels
GAP, MARGIN = 12, 4
HEAD, FOOT = 21, 20
INK, QUIET = "#1a1a1a", "#444444"


class Mark(NamedTuple):
    """A frame around part of a picture, in fractions of its sides, and what to write beside it."""

    top: float
    left: float
    bottom: float
    right: float
    label: str = ""


class Panel(NamedTuple):
    """A picture with a line above it and one below.

    Attributes:
        picture: uint8 [h,w,3].
        title: the line above.
        note: the line below.
        bar: what the two ends of the colours of a heat map stand for; takes the line below.
        key: colours and what they stand for; takes the line below.
        marks: frames, drawn sharp at the size that the picture is shown at.
    """

    picture: Picture
    title: str
    note: str = ""
    bar: tuple[str, str] | None = None
    key: Sequence[tuple[str, str]] = ()
    marks: Sequence[Mark] = ()


def sheet(rows: Sequence[Sequence[Panel]], *, side: int = SIDE, compress: int = 1, steps: int = 256) -> bytes:
    """Lay panels out in rows; the PNG.

    Pictures are scaled so that their longer side has ``side`` pixels, or fewer where a row would
    become wider than four of them. ``compress`` is zlib's level: 1 is quick, 9 is small. ``steps``
    are those of each colour: 32 halve the bytes, and nobody sees it.
    """
    widest = 4 * side + 3 * GAP
    placed, top, right = [], MARGIN, 0
    for row in filter(None, rows):
        fits = min(side, (widest - GAP * (len(row) - 1)) // len(row))
        left, lowest = MARGIN, 0
        for panel in row:
            height, width = panel.picture.shape[:2]
            shown = [max(1, round(n * fits / max(height, width))) for n in (height, width)]
            placed.append((panel, top, left, shown[0], shown[1]))
            left += fits + GAP
            lowest = max(lowest, shown[0])
        right = max(right, left - GAP)
        top += HEAD + lowest + FOOT + GAP
    page = Image.new("RGB", (right + MARGIN, top - GAP + MARGIN), "white")
    draw = ImageDraw.Draw(page)
    for panel, y, x, height, width in placed:
        picture = Image.fromarray(panel.picture)
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        page.paste(picture, (x, y + HEAD))
        draw.text((x, y + 1), panel.title, INK, _fitting(panel.title, width + GAP - 2, bold=True))
        for mark in panel.marks:
            _frame(draw, mark, y + HEAD, x, height, width)
        _foot(draw, panel, y + HEAD + height + 4, x, width)
    pixels = np.asarray(page)
    if steps < 256:
        pixels = np.rint(np.rint(pixels / 255 * (steps - 1)) / (steps - 1) * 255).astype(np.uint8)
    return png(pixels, compress=compress)


def png(picture: Picture, *, compress: int = 1) -> bytes:
    """Encode uint8 [h,w,3] or [h,w] as PNG."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, format="PNG", compress_level=compress)
    return encoded.getvalue()


def _foot(draw: ImageDraw.ImageDraw, panel: Panel, y: int, x: int, width: int) -> None:
    font = _font(12)
    if panel.bar is not None:
        low, high = panel.bar
        before, after = (round(draw.textlength(text, font)) + 5 for text in (low, high))
        colors = matplotlib.colormaps["viridis"](np.linspace(0, 1, max(1, width - before - after)))
        strip = np.repeat((255 * colors[None, :, :3]).astype(np.uint8), 10, axis=0)
        draw._image.paste(Image.fromarray(strip), (x + before, y + 2))
        draw.text((x, y), low, QUIET, font)
        draw.text((x + width - after + 5, y), high, QUIET, font)
    elif panel.key:
        for color, text in panel.key:
            draw.rectangle((x, y + 2, x + 10, y + 12), color, QUIET)
            draw.text((x + 15, y), text, QUIET, font)
            x += 25 + round(draw.textlength(text, font))
    else:
        draw.text((x, y), panel.note, QUIET, _fitting(panel.note, width + GAP - 2))


def _frame(draw: ImageDraw.ImageDraw, mark: Mark, y: int, x: int, height: int, width: int) -> None:
    """A white line between two black ones is seen on every ground."""
    top, bottom = y + mark.top * height, y + mark.bottom * height
    left, right = x + mark.left * width, x + mark.right * width
    for out, color in ((4, "black"), (3, "white"), (2, "white"), (1, "black")):
        draw.rectangle(
            (
                max(x, left - out),
                max(y, top - out),
                min(x + width, right + out) - 1,
                min(y + height, bottom + out) - 1,
            ),
            outline=color,
        )
    if mark.label:
        font = _font(13, bold=True)
        room = draw.textlength(mark.label, font) + 8
        at = right + 5 if right + 5 + room < x + width else left - 5 - room
        level = min(max(y, top - 4), y + height - 18)
        draw.rectangle((at, level, at + room, level + 17), "white", "black")
        draw.text((at + 4, level + 1), mark.label, INK, font)


def _fitting(text: str, width: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The largest letters, of at most 13 pixels, that keep a text within its width."""
    for size in (13, 12, 11, 10):
        if _font(size, bold=bold).getlength(text) <= width:
            break
    return _font(size, bold=bold)


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Letters of matplotlib, which lie in its package."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
