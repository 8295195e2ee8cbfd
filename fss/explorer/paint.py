"""Painting a mask over a picture: strokes in, labels out, with undo. No browser is needed.

A widget's script sends strokes and shows the PNG that comes back; all rules are here.
"""

import io
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fss.data.folder import save_pair, save_picture
from fss.data.layout import SUFFIXES
from fss.data.pictures import IGNORE, either_case, read_mask, read_rgb, resize_labels
from fss.data.splits import in_order
from fss.errors import InputError, nearest
from fss.explorer.panels import png
from fss.files import names_in
from fss.viz import HIT, Picture, outline, tinted

TOOLS = ("brush", "eraser", "box", "polygon")
LARGEST = 1024  # pixels of the longer side that is painted on and saved; larger pictures are shrunk
SMALLEST = 16  # of the shorter side: less holds no object to point at
TINT = 0.45
UNDOS = 100  # steps that can be taken back


class Upload(io.BytesIO):
    """The content of a picture file that has no path; messages call it by its name."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name = name

    def __str__(self) -> str:
        return self.name


Source = Path | Upload


@dataclass(frozen=True)
class Stroke:
    """One use of a tool.

    Attributes:
        tool: one of ``TOOLS``.
        points: (row, column) in pixels of the picture, also outside it: where the brush went, two
            corners of a box (the first and the last count), or the corners of a polygon.
        radius: of brush and eraser, in pixels.
    """

    tool: str
    points: Sequence[tuple[float, float]]
    radius: float = 8

    def __post_init__(self) -> None:
        """Raises `InputError` for what cannot be drawn."""
        if self.tool not in TOOLS:
            raise InputError(f"no tool {self.tool!r}; {nearest(self.tool, TOOLS)}")
        flat = [*(n for point in self.points for n in point), self.radius]
        if any(len(point) != 2 for point in self.points) or not all(map(math.isfinite, flat)):
            raise InputError("a stroke is made of finite (row, column) points")
        least = {"box": 2, "polygon": 3}.get(self.tool, 1)
        if len(self.points) < least:
            raise InputError(f"a {self.tool} needs at least {least} points; nothing was painted")
        if not 0 <= self.radius <= LARGEST:
            raise InputError(f"radius {self.radius:g} is not in 0..{LARGEST}")


class Canvas:
    """A picture and the mask that is painted over it.

    Args:
        image: uint8 [H,W,3], at least 16 pixels a side; shrunk to 1,024 on its longer side.
        name: what messages call it.

    Attributes:
        image: as it is painted on, uint8 [h,w,3].
        original: (H, W) of the picture as it came.
        mask: uint8 [h,w], 1 = object.
        home: the picture's file, where it was read from a folder or saved to one.
        kept: the mask that lies beside that file, if one does.

    Raises:
        InputError: a picture too small to hold an object.
    """

    def __init__(self, image: np.ndarray, name: str = "the picture") -> None:
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST:
            raise InputError(f"{name} is {width} x {height} pixels; take a picture of at least {SMALLEST} x {SMALLEST}")
        self.name, self.original = name, (height, width)
        scale = min(1.0, LARGEST / max(height, width))
        shape = (max(1, round(width * scale)), max(1, round(height * scale)))
        shrunk = Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR, reducing_gap=3)
        self.image = np.asarray(shrunk) if scale < 1 else image
        self.mask: np.ndarray = np.zeros(self.image.shape[:2], np.uint8)
        self._before: deque[np.ndarray] = deque(maxlen=UNDOS)  # the masks that it was, the last one last
        self.home: Path | None = None
        self.kept: np.ndarray | None = None

    @classmethod
    def read(cls, source: Source) -> "Canvas":
        """Read a picture of any kind (see ``read_rgb``); raises `InputError` for no picture."""
        return cls(read_rgb(source), source.name)

    def paint(self, stroke: Stroke) -> None:
        """Add a stroke.

        Raises:
            InputError: all of it lies outside the picture.
        """
        drawn = _drawn(stroke, self.mask.shape)
        if not drawn.any():
            raise InputError("that lies outside the picture; nothing was painted")
        self._take(self.mask * (1 - drawn) if stroke.tool == "eraser" else self.mask | drawn)

    def load(self, source: Source) -> None:
        """Take a mask file (see ``read_mask``) of the picture's own size in place of what is there.

        Raises:
            InputError: no mask, or one of another size.
        """
        self.set(read_mask(source), f"mask {source.name}")

    def set(self, labels: np.ndarray, name: str = "the mask") -> None:
        """Take labels [H,W] of the picture's own size, 1 = object, in place of what is there.

        Raises:
            InputError: of another size, or of 0 and 255.
        """
        if labels.shape != self.original:
            (height, width), (rows, cols) = self.original, labels.shape
            raise InputError(
                f"{name} is {cols} x {rows} pixels, its picture {self.name} {width} x {height}; "
                "take a mask of the picture's size"
            )
        if (labels == IGNORE).any() and not (labels == 1).any():
            raise InputError(f"{name} holds 255 and no 1, its object; pass (mask > 127)")
        height, width = self.mask.shape
        self._take(resize_labels((labels == 1).astype(np.uint8), height, width))

    def undo(self) -> None:
        """Take the last step back, of up to 100; raises `InputError` where no step was taken."""
        if not self._before:
            raise InputError("there is nothing to undo")
        self.mask = self._before.pop()

    def clear(self) -> None:
        """Wipe the mask; this can be undone."""
        self._take(np.zeros_like(self.mask))

    def _take(self, mask: np.ndarray) -> None:
        self._before.append(self.mask)
        self.mask = mask

    def check(self) -> None:
        """Raise `InputError` for a mask that says nothing: an empty or a full one."""
        if not self.mask.any():
            raise InputError(f"the mask of {self.name} is empty; paint over its object first")
        if self.mask.all():
            raise InputError(
                f"the mask of {self.name} covers all of it, so that nothing is background; erase what is not the object"
            )

    def render(self) -> bytes:
        """Draw the picture with the mask as a blue tint within a yellow line: PNG."""
        return png(self.shown())

    def shown(self) -> Picture:
        """What ``render`` encodes, uint8 [h,w,3]."""
        return outline(tinted(self.image, self.mask == 1, HIT, TINT), self.mask)


def _drawn(stroke: Stroke, shape: tuple[int, ...]) -> np.ndarray:
    """Where a stroke goes: uint8 [h,w], 1 there."""
    page = Image.fromarray(np.zeros(shape, np.uint8))
    draw = ImageDraw.Draw(page)
    points = [(x, y) for y, x in stroke.points]
    if stroke.tool == "box":
        (left, top), (right, bottom) = np.sort([points[0], points[-1]], axis=0)
        draw.rectangle((left, top, right, bottom), fill=1)
    elif stroke.tool == "polygon":
        draw.polygon(points, fill=1)
    else:
        draw.line(points, fill=1, width=max(1, round(2 * stroke.radius)))
        r = stroke.radius
        for x, y in points:  # round ends and joints
            draw.ellipse((x - r, y - r, x + r, y + r), fill=1)
    return np.array(page)


def canvases_in(folder: Path) -> list[Canvas]:
    """Read the pictures of a folder in order of their names, each with ``<name>.png`` as its mask.

    Raises:
        InputError: no folder, no pictures in it, or a bad file.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; give the path of one that holds pictures")
    names = [Path(name) for name in names_in(folder) if name.lower().endswith(SUFFIXES)]
    found = [folder / name for stem in in_order({name.stem for name in names}) for name in names if name.stem == stem]
    if not found:
        raise InputError(f"no pictures in {folder}; they end in {', '.join(SUFFIXES)}")
    canvases = []
    for path in found:
        canvas = Canvas.read(path)
        canvas.home, mask = path, either_case(path.with_suffix(".png"))
        if mask.is_file():
            canvas.load(mask)
            canvas.kept = canvas.mask
        canvases.append(canvas)
    return canvases


def save_canvases(root: Path, class_name: str, canvases: Sequence[Canvas]) -> list[Path]:
    """Write pictures and masks as ``root/class_name/<n>.jpg`` and ``.png``, after what is there.

    That is FSS-1000's layout, as ``--data folder:ROOT`` reads it. Of a picture that lies there
    already, only the mask is written, where it has changed: a picture that is there twice could be
    query and support of one episode.

    Returns:
        The pictures' paths.

    Raises:
        InputError: nothing to save, a mask that is empty or full, a class name that is no plain
            folder name, or a folder that cannot be written.
    """
    if not class_name.strip() or class_name != Path(class_name).name or class_name[0] == ".":
        raise InputError(f"class name {class_name!r}: use a plain word, such as 'cup'")
    if not canvases:
        raise InputError("there is no labelled picture to save; add one and paint over its object")
    for canvas in canvases:
        canvas.check()
    folder = root / class_name
    taken = [int(path.stem) for path in folder.glob("*") if path.stem.isdecimal()]
    numbers = count(max(taken, default=0) + 1)
    saved = []
    for canvas in canvases:
        home = canvas.home
        if home is None or home.parent.resolve() != folder.resolve() or not home.is_file():
            home = folder / f"{next(numbers)}.jpg"
            save_pair(home.with_suffix(""), canvas.image, canvas.mask)
        elif canvas.mask is not canvas.kept:
            save_picture(either_case(home.with_suffix(".png")), resize_labels(canvas.mask, *canvas.original))
        canvas.home, canvas.kept = home, canvas.mask
        saved.append(home)
    return saved
