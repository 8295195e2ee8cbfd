"""Pictures from arrays: outlines, attention overlays, error maps, episode panels, a table.

Pictures come in as float RGB [3,H,W] in 0..1 or as uint8 [H,W,3], tensors or arrays, and go out as
uint8 [H,W,3]; label maps [H,W] hold 0, 1 and 255 = ignored. Nothing is shown or saved here. The colours
and the colour map of notebooks, explorer and reports are those of this file.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from scipy.ndimage import binary_erosion
from skimage.util import montage

from fss.data.pictures import IGNORE
from fss.errors import InputError

Array = torch.Tensor | npt.NDArray[Any]
Picture = npt.NDArray[np.uint8]

# Of all triples of the Okabe-Ito palette, this one stays farthest apart for protanopes,
# deuteranopes and tritanopes. A missed pixel has the colour of the true outline, a false alarm that
# of the predicted one.
HIT, MISS, FALSE_ALARM = "#0072B2", "#F0E442", "#D55E00"
OUTCOMES = {"hit": HIT, "miss": MISS, "false alarm": FALSE_ALARM}
COLOR_MAP = matplotlib.colormaps["viridis"]  # perceptually even, and safe for colour-blind readers
IGNORED_STRIPES = (0.45, 0.75)
STRENGTH = 0.75
CELL = 1.7  # inches
SHOWN_SHOTS = 5


class NotebookFigure(Figure):
    """A Figure that Jupyter draws even where no cell has imported pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def rgb(image: Array) -> Picture:
    """Return a picture, float [3,H,W] in 0..1 or uint8 [H,W,3], as uint8 [H,W,3]."""
    array = _numpy(image)
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
        return array
    if array.dtype.kind != "f" or array.ndim != 3 or array.shape[0] != 3:
        raise InputError(f"picture is {array.dtype} {list(array.shape)}: pass float [3,H,W] or uint8 [H,W,3]")
    if not (array.min() >= -0.01 and array.max() <= 1.01):
        raise InputError(f"picture spans {array.min():.2f}..{array.max():.2f}: pass RGB in 0..1, not normalised")
    return _bytes(array.transpose(1, 2, 0))


def outline(image: Array, mask: Array, color: str = MISS, *, width: int | None = None) -> Picture:
    """Return the picture with the border of ``mask == 1`` drawn in ``color``.

    The line lies inside the object and is closed along the frame; ``width`` is in pixels, by
    default a 75th of the shorter side. A thin dark rim within keeps it visible on every ground.
    """
    picture = rgb(image).copy()
    inner = _labels(mask, picture, "mask") == 1
    width = width or max(1, round(min(inner.shape) / 75))
    for paint in [to_rgb(color)] * width + [(0.0, 0.0, 0.0)] * max(1, width // 3):
        eroded = binary_erosion(inner)
        picture[inner & ~eroded] = _bytes(np.array(paint))
        inner = eroded
    return picture


def overlay(image: Array, heat: Array, *, alpha: float = 0.65, limits: tuple[float, float] | None = None) -> Picture:
    """Return ``heat`` [h,w] of any resolution in viridis over the picture in grey.

    The heat is stretched from ``limits``, by default its own minimum and maximum, to the map's ends
    (a flat one takes the low end) and brought to the picture bilinearly. ``alpha`` is the share of
    the colour, 0..1.
    """
    picture = rgb(image)
    values = _numpy(heat).astype(np.float32)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise InputError(f"heat {list(values.shape)} must be a finite map [h,w]: pick one map")
    low, high = limits or (float(values.min()), float(values.max()))
    stretched = (values - low) / ((high - low) or 1.0)
    height, width = picture.shape[:2]
    resized = np.asarray(Image.fromarray(stretched).resize((width, height), Image.Resampling.BILINEAR))
    colors = COLOR_MAP(resized.clip(0, 1))[..., :3]
    return _bytes(alpha * colors + (1 - alpha) * _grey(picture))


def heated(image: Array, mask: Array, heat: Array, *, top: float | None = None, alpha: float = 0.65) -> Picture:
    """Return a picture under ``heat`` [h,w], from 0 to ``top`` or to its largest, its mask outlined in white."""
    limits = (0, float(heat.max()) if top is None else top)
    return outline(overlay(image, heat, alpha=alpha, limits=limits), mask, "white")


def tinted(picture: Picture, where: npt.NDArray[np.bool_], color: str, share: float) -> Picture:
    """Return the picture with that share, 0..1, of a colour where ``where`` [h,w] is true."""
    drawn = picture.copy()
    drawn[where] = _bytes(share * np.array(to_rgb(color)) + (1 - share) * picture[where] / 255)
    return drawn


def error_map(image: Array, prediction: Array, target: Array) -> Picture:
    """Return the grey picture with hits blue, misses yellow, false alarms vermilion.

    Pixels ignored by the target (255) are striped in greys. ``error_legend`` names the colours.
    """
    picture = rgb(image)
    labels = _labels(target, picture, "target")
    found = _labels(prediction, picture, "prediction") == 1
    errors = _bytes(0.6 * _grey(picture)).repeat(3, axis=2)
    kinds = (found & (labels == 1), ~found & (labels == 1), found & (labels == 0))
    for where, color in zip(kinds, OUTCOMES.values(), strict=True):
        errors = tinted(errors, where, color, STRENGTH)
    stripe = np.indices(labels.shape).sum(0) // max(1, min(labels.shape) // 40) % 2
    ignored = labels == IGNORE
    errors[ignored] = _bytes(np.array(IGNORED_STRIPES)[stripe[ignored], None])
    return errors


def error_legend() -> list[Patch]:
    """Return legend handles for ``error_map``: hit, miss, false alarm, ignored."""
    dark, light = (str(grey) for grey in IGNORED_STRIPES)
    ignored = Patch(facecolor=light, edgecolor=dark, linewidth=0, hatch="/////", label="ignored")
    return [*(Patch(facecolor=color, label=outcome) for outcome, color in OUTCOMES.items()), ignored]


def add_error_legend(figure: Figure, targets: npt.NDArray[Any]) -> None:
    """Name the colours of error maps below a figure, the stripes only where a pixel is ignored."""
    figure.legend(
        handles=error_legend()[: 4 if (targets == IGNORE).any() else 3],
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
    )


def strip(pictures: Mapping[str, Picture], *, width: float = 9.0, rows: int = 1) -> tuple[Figure, npt.NDArray[Any]]:
    """Draw pictures in rows, each below its title; return the figure and its axes, in order.

    ``width`` is in inches. Raises `InputError` for a number of pictures that fills no ``rows``.
    """
    if not pictures or len(pictures) % rows:
        raise InputError(f"{len(pictures)} pictures do not fill {rows} rows")
    height = width * rows / len(pictures) + 0.3
    figure, axes = picture_grid([*pictures.values()], rows, (width, rows * height), dpi=72)
    for axis, title in zip(axes.ravel(), pictures, strict=True):
        axis.set_title(title, fontsize=9)
    return figure, axes.ravel()


def picture_grid(
    pictures: Sequence[Picture],
    rows: int,
    size: tuple[float, float],
    *,
    ratios: Sequence[float] | None = None,
    dpi: float | None = None,
) -> tuple[Figure, npt.NDArray[Any]]:
    """Draw pictures in rows without ticks or frames; return the figure and its axes [rows, columns].

    ``size`` is the figure's, in inches; ``ratios`` are those of the columns' widths, by default equal.
    """
    figure = NotebookFigure(size, dpi=dpi, layout="constrained")
    axes = figure.subplots(rows, len(pictures) // rows, squeeze=False, width_ratios=ratios)
    for axis, picture in zip(axes.ravel(), pictures, strict=True):
        axis.imshow(picture)
        axis.set(xticks=[], yticks=[], anchor="N")
        axis.spines[:].set_visible(False)
    return figure, axes


def cross(axis: Axes, place: tuple[int, int], grid: tuple[int, int]) -> None:
    """Draw a white cross with a black rim at a place of a grid that covers the axis's picture."""
    left, right, bottom, top = axis.get_images()[0].get_extent()
    y = top + (place[0] + 0.5) / grid[0] * (bottom - top)
    x = left + (place[1] + 0.5) / grid[1] * (right - left)
    for color, width in (("black", 5), ("white", 2)):
        axis.plot(x, y, "+", color=color, markersize=13, markeredgewidth=width)


def episode_panel(
    support: Array,
    support_mask: Array,
    query: Array,
    target: Array,
    prediction: Array,
    *,
    title: str | None = None,
) -> Figure:
    """Draw a row an episode: supports with their masks, query, truth, prediction, errors.

    One episode: support [K,3,H,W], masks [K,H,W], query [3,H,W], target and prediction [H,W];
    several: the same with a leading axis B. Of more than five supports the first five are drawn.
    """
    arrays = [_numpy(array) for array in (support, support_mask, query, target, prediction)]
    if arrays[2].ndim == 3:
        arrays = [array[None] for array in arrays]
    if [array.ndim for array in arrays] != [5, 4, 4, 3, 3] or len({len(a) for a in arrays}) > 1:
        raise InputError(
            "an episode panel takes support [K,3,H,W], masks [K,H,W], query [3,H,W], target and "
            "prediction [H,W], or all with a leading axis B; "
            f"got {', '.join(str(list(array.shape)) for array in arrays)}"
        )
    shots, (height, width) = arrays[0].shape[1], arrays[3].shape[1:]
    shown = min(shots, SHOWN_SHOTS)
    line = None if shown == 1 else max(2, round(min(height, width) / 40))
    gap, layout = max(1, width // 25), (1, shown) if shown <= 2 else (2, -(-shown // 2))
    pictures: list[Picture] = []
    for supports, masks, asked, truth, found in zip(*arrays, strict=True):
        labelled = [outline(*pair, width=line) for pair in zip(supports[:shown], masks[:shown], strict=True)]
        side_by_side = montage(labelled, fill=(255,) * 3, padding_width=gap, grid_shape=layout, channel_axis=-1)
        pictures += [
            side_by_side[gap:-gap, gap:-gap],
            rgb(asked),
            outline(asked, truth),
            outline(asked, found, FALSE_ALARM),
            error_map(asked, found, truth),
        ]
    rows, ratios = len(arrays[0]), [1.5 if shown == SHOWN_SHOTS else 1, 1, 1, 1, 1]
    size = CELL * sum(ratios) + 0.2, CELL * height / width * rows + (0.75 if title else 0.5)
    figure, axes = picture_grid(pictures, rows, size, ratios=ratios)
    number = f"{shots}" if shots == shown else f"{shown} of {shots}"
    heads = ("support" if shots == 1 else f"{number} supports", "query", "truth", "prediction", "errors")
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head, fontsize=10)
    add_error_legend(figure, arrays[3])
    if title is not None:
        figure.suptitle(title, fontsize=11)
    return figure


def _numpy(values: Array) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _labels(values: Array, picture: Picture, name: str) -> npt.NDArray[Any]:
    labels = _numpy(values)
    if labels.shape != picture.shape[:2] or labels.dtype.kind not in "biu":
        raise InputError(
            f"{name} is {labels.dtype} {list(labels.shape)}: pass an integer label map "
            f"{list(picture.shape[:2])}, as large as the picture"
        )
    return labels


def _grey(picture: Picture) -> npt.NDArray[np.float64]:
    """Return the luma [H,W,1] in 0..1 (ITU-R BT.601)."""
    return (picture @ np.array([0.299, 0.587, 0.114]) / 255)[..., None]


def _bytes(fractions: npt.NDArray[np.floating[Any]]) -> Picture:
    return np.rint(255 * fractions.clip(0, 1)).astype(np.uint8)
