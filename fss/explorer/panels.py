"""Titled pictures, and a sheet of them as one PNG: what a widget shows, in a few milliseconds.

The pictures come from ``fss.viz``. matplotlib takes a tenth of a second for a figure, all that a click may
cost; so titles, frames and colour bars are drawn by pillow. White ground and dark letters are readable on a
light and on a dark page.
"""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fss.viz import COLOR_MAP, Picture

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
        key: what is written for each colour; takes the line below.
        marks: frames, drawn sharp at the size that the picture is shown at.
    """

    picture: Picture
    title: str
    note: str = ""
    bar: tuple[str, str] | None = None
    key: dict[str, str] | None = None
    marks: Sequence[Mark] = ()


def sheet(rows: Sequence[Sequence[Panel]], *, side: int = SIDE, compress: int = 1, steps: int = 256) -> bytes:
    """Lay panels out in rows; the PNG.

    Pictures are scaled so that their longer side has ``side`` pixels, or fewer where a row would
    become wider than four of them. ``compress`` is zlib's level: 1 is quick, 9 is small. ``steps``
    are those of each colour: 32 halve the bytes, and nobody sees it.
    """
    widest = 4 * (side + GAP)
    tiles = [[_tile(panel, min(side, widest // len(row) - GAP)) for panel in row] for row in rows if row]
    widths = [sum(tile.width for tile in row) for row in tiles]
    heights = [max(tile.height for tile in row) + GAP for row in tiles]
    page = Image.new("RGB", (max(widths) - GAP + 2 * MARGIN, sum(heights) - GAP + 2 * MARGIN), "white")
    for n, row in enumerate(tiles):
        for m, tile in enumerate(row):
            page.paste(tile, (MARGIN + m * tile.width, MARGIN + sum(heights[:n])))
    pixels = np.asarray(page)
    if steps < 256:
        pixels = np.rint(np.rint(pixels / 255 * (steps - 1)) / (steps - 1) * 255).astype(np.uint8)
    return png(pixels, compress=compress)


def png(picture: Picture, *, compress: int = 1) -> bytes:
    """Encode uint8 [h,w,3] or [h,w] as PNG."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, format="PNG", compress_level=compress)
    return encoded.getvalue()


def percent(share: float) -> str:
    """Write a share 0..1 in per cent; 0 and 100 only where it is that to a tenth."""
    return f"{100 * share:.3g} %" if 0.0005 <= share < 0.9995 else f"{100 * round(share)} %"


def _tile(panel: Panel, side: int) -> Image.Image:
    """Draw one panel, its picture's longer side ``side`` pixels long, and the gap to its right."""
    picture = Image.fromarray(panel.picture)
    width, height = (max(1, round(n * side / max(picture.size))) for n in picture.size)
    tile = Image.new("RGB", (side + GAP, HEAD + height + FOOT), "white")
    tile.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (0, HEAD))
    draw = ImageDraw.Draw(tile)
    draw.text((0, 1), panel.title, INK, _fitting(panel.title, width + GAP - 2, bold=True))
    for mark in panel.marks:
        _frame(draw, mark, height, width)
    x, y, font = 0, HEAD + height + 4, _font(12)
    if panel.bar is not None:
        before, after = (round(draw.textlength(end, font)) + 5 for end in panel.bar)
        colors = COLOR_MAP(np.linspace(0, 1, max(1, width - before - after)), bytes=True)[None, :, :3]
        tile.paste(Image.fromarray(colors.repeat(10, axis=0)), (before, y + 2))
        draw.text((0, y), panel.bar[0], QUIET, font)
        draw.text((width - after + 5, y), panel.bar[1], QUIET, font)
    elif panel.key is not None:
        for text, color in panel.key.items():
            draw.rectangle((x, y + 2, x + 10, y + 12), color, QUIET)
            draw.text((x + 15, y), text, QUIET, font)
            x += 25 + round(draw.textlength(text, font))
    else:
        draw.text((0, y), panel.note, QUIET, _fitting(panel.note, width + GAP - 2))
    return tile


def _frame(draw: ImageDraw.ImageDraw, mark: Mark, height: int, width: int) -> None:
    """A white line between two black ones is seen on every ground."""
    floor = HEAD + height
    top, bottom = HEAD + mark.top * height, HEAD + mark.bottom * height
    left, right = mark.left * width, mark.right * width
    for out, color in ((4, "black"), (3, "white"), (2, "white"), (1, "black")):
        corner = max(0, left - out), max(HEAD, top - out)
        draw.rectangle((*corner, min(width, right + out) - 1, min(floor, bottom + out) - 1), outline=color)
    if mark.label:
        font = _font(13, bold=True)
        room = draw.textlength(mark.label, font) + 8
        x = right + 5 if right + 5 + room < width else left - 5 - room
        y = min(max(HEAD, top - 4), floor - 18)
        draw.rectangle((x, y, x + room, y + 17), "white", "black")
        draw.text((x + 4, y + 1), mark.label, INK, font)


def _fitting(text: str, width: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The largest letters, of at most 13 pixels, that keep a text within its width."""
    fonts = [_font(size, bold=bold) for size in (13, 12, 11, 10)]
    return next((font for font in fonts if font.getlength(text) <= width), fonts[-1])


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Letters of matplotlib, which lie in its package."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
