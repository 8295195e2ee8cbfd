"""Pictures and masks on disk to arrays of one size, and a predicted mask back to a picture's size.

Every reader and the command line come through here, so that a mask means the same everywhere.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.ndimage import binary_erosion

from fss.errors import InputError

IGNORE = 255  # the label of what nobody knows: neither object nor ground, and counted by no loss or metric
PADDING = 127  # grey of empty picture area: about zero once a backbone has normalised it
STEPS = {"L;2": 85, "L;4": 17}  # by which pillow multiplies greys of 2 and 4 bits, so that white is 255
Source = Path | io.BytesIO  # a file, or what it would hold; messages call either by `str`


def read_rgb(path: Source) -> np.ndarray:
    """Read a picture as uint8 [H, W, 3] RGB, whatever it is stored as.

    Turned upright as its EXIF orientation says. Grey and palette pictures become RGB, CMYK is
    converted without a colour profile, 16-bit grey is divided by 257 (full range to full range).
    Transparent areas are shown on white, as a browser shows them: the colours underneath are
    arbitrary.

    Raises `InputError` for a file that is missing, truncated, no picture, or larger than pillow's
    limit of 89 million pixels; for an animation
    (nothing says which frame the mask was drawn on; the preview that phones append to a JPEG is
    no animation); and for floating-point pixels, whose range is unknown.
    """
    image = decode(path)
    if image.mode[0] in "FI":  # one channel of more than 8 bits
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise InputError(
                f"picture {path} has floating-point or 32-bit pixels of unknown range; save it with 8 bits a channel"
            )
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def read_mask(path: Source) -> np.ndarray:
    """Read a mask as uint8 [H, W]: 0 = background, 1 = object, 255 = ignore.

    A palette ("P") mask is read by its indices, never by its colours; transparent areas of any
    other mask count as black. The conventions, tried in this order:

    1. index mask: the values are among 0, 1 and 255, and 1 is there: taken as they are, so that
       255 means ignore. Where 1 makes specks alone and 255 an area, a JPEG may have made the specks:
       refused;
    2. two values, 0 and any other (0/255, 0/15, black/white), or the other alone: the other is
       the object, also where it is 255;
    3. soft-edged grey mask (never a palette), one channel or three alike: more than two values,
       the largest at least 128: the object is what exceeds half of the largest. Where most
       pixels lie in the lowest quarter and none between the quarters, the mask holds class
       numbers and a 255 border instead, and is refused.

    Raises `InputError` for a mask that fits none of them (several class numbers, colours, a
    palette that paints index 0 white and the object black, floating point), for one without an
    object, and for a file that cannot be read.
    """
    image = decode(path)
    palette = image.mode in ("P", "PA")
    values = _indices(image, path) if palette else _grey_values(image, path)
    present, counts = np.unique(values, return_counts=True)
    if present[-1] == 0:
        raise InputError(f"mask {path} marks no object (all 0); mark it with 255, or remove the pair")
    if 1 in present and set(present.tolist()) <= {0, 1, IGNORE}:
        thick = {label: binary_erosion(values == label, np.ones((3, 3))).any() for label in (1, IGNORE)}
        if thick[IGNORE] and not thick[1]:
            raise InputError(
                f"mask {path} holds specks of 1 and areas of 255, as a JPEG makes of a mask of 0 and 255; save it with "
                "0 and 255 alone, or, where 255 means ignore, draw the object thicker than 2 pixels"
            )
        return values.astype(np.uint8)
    if np.count_nonzero(present) == 1:
        return (values > 0).astype(np.uint8)
    if not palette and _soft_edged(present, counts):
        return (2 * values.astype(np.int64) > present[-1]).astype(np.uint8)
    shown = ", ".join(map(str, present[:6])) + (", ..." if len(present) > 6 else "")
    raise InputError(
        f"mask {path} holds the values {shown}, not one object; save it with 0 = background, 1 = object, "
        "255 = ignore, or with 0 and 255 alone; masks of several classes are read by semantic:PATH"
    )


def read_pair(picture: Source, mask: Source) -> tuple[np.ndarray, np.ndarray]:
    """Read a picture, uint8 [H, W, 3], and its mask, uint8 [H, W]; both must be of one size."""
    image, labels = read_rgb(picture), read_mask(mask)
    check_same_size(image, labels, picture, mask)
    return image, labels


def either_case(path: Path) -> Path:
    """Return a file's path, its suffix in capitals where the file is so named, as cameras name theirs."""
    capital = path.with_suffix(path.suffix.upper())
    return capital if capital.is_file() and not path.is_file() else path


def check_same_size(image: np.ndarray, labels: np.ndarray, picture: Source, mask: Source) -> None:
    """Raise `InputError` unless a picture [H, W, 3] and its labels [H, W] are of one size."""
    if image.shape[:2] != labels.shape:
        (height, width), (rows, cols) = image.shape[:2], labels.shape
        turned = (
            " (it lies on its side: the picture has another EXIF orientation)"
            if (height, width) == (cols, rows)
            else ""
        )
        raise InputError(
            f"mask {mask} is {cols} x {rows} pixels, its picture {Path(str(picture)).name} "
            f"{width} x {height}{turned}; save the mask at the picture's size"
        )


def stamp(path: Path) -> str:
    """Size in bytes and time of change of a file, which change whenever it does.

    Raises `InputError` for a file that is no longer there.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path} is gone ({error.strerror}); open the data set again") from error
    return f"{stat.st_size}@{stat.st_mtime_ns}"


def letterbox(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit picture and mask into a square: `letterbox_image` and `letterbox_mask`."""
    return letterbox_image(image, size), letterbox_mask(mask, size)


def letterbox_image(image: np.ndarray, size: int) -> np.ndarray:
    """Fit uint8 [H, W, 3] into [size, size, 3]: the long side fills it, grey beside the short.

    The aspect is kept and the picture lies in the middle; bilinear, antialiased where it shrinks.
    """
    rows, cols = _content(image.shape[0], image.shape[1], size)
    square = np.full((size, size, 3), PADDING, dtype=np.uint8)
    shape = (cols.stop - cols.start, rows.stop - rows.start)
    square[rows, cols] = np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR))
    return square


def letterbox_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Fit labels uint8 [H, W] into [size, size] as `letterbox_image` does; 255 on the padding."""
    rows, cols = _content(mask.shape[0], mask.shape[1], size)
    square = np.full((size, size), IGNORE, dtype=np.uint8)
    square[rows, cols] = resize_labels(mask, rows.stop - rows.start, cols.stop - cols.start)
    return square


def unletterbox(mask: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
    """Bring labels [size, size] of a letterboxed picture back to its own (H, W)."""
    height, width = original_size
    rows, cols = _content(height, width, mask.shape[0])
    return resize_labels(mask[rows, cols], height, width)


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize labels uint8 [H, W]; every pixel takes the label that covers most of it.

    The coverage is computed by the same antialiased filter that resizes the picture, so that the
    edge of the mask stays on the object's; nearest sampling moves it by up to half a source pixel
    and breaks thin parts. An object (label 1) too small to win a pixel keeps the one that it
    covers most of.
    """
    present = np.unique(labels)
    shares = [
        np.asarray(
            Image.fromarray((labels == label).astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        )
        for label in present[1:]
    ]
    # The shares of a pixel add up to one, so that the first label's need not be computed.
    covered = np.stack([np.ones((height, width), np.float32) - sum(shares), *shares])
    resized = present[covered.argmax(axis=0)]
    if 1 in present and not (resized == 1).any():
        resized.flat[covered[present == 1].argmax()] = 1
    return resized


def _content(height: int, width: int, size: int) -> tuple[slice, slice]:
    """Rows and columns of the square that an H x W picture takes."""
    rows, cols = (max(1, round(side * size / max(height, width))) for side in (height, width))
    top, left = (size - rows) // 2, (size - cols) // 2
    return slice(top, top + rows), slice(left, left + cols)


def decode(path: Source) -> Image.Image:
    """Decode a file and turn it upright by its EXIF orientation. `info["step"]` is what its values were multiplied by.

    Raises `InputError` for a file that is missing, truncated, no picture, an animation or too
    large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                animated = getattr(image, "is_animated", False) and image.format != "MPO"
                stored = image.tile[0].args if image.tile else None
                image.load()
                loaded = ImageOps.exif_transpose(image)
                loaded.info["step"] = STEPS.get(str(stored), 1)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{path} has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels; make it smaller") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is no picture; convert it to JPEG or PNG") from None
    except Exception as error:  # pillow's decoders raise almost any type on broken files
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path} cannot be read ({reason}); correct the path, or save the file again") from error
    if animated:
        raise InputError(f"{path} holds several frames; save the one that is meant on its own")
    return loaded


def _indices(image: Image.Image, path: Source) -> np.ndarray:
    """Palette indices [H, W]; refuses a palette that shows the opposite of them."""
    values = np.atleast_3d(np.asarray(image))[:, :, 0]  # "PA" has opacities beside them
    colours = np.reshape(image.getpalette("RGB") or [], (-1, 3)).astype(np.int64)
    top = int(values.max())
    inverse = top < len(colours) and colours[0, 0] > colours[top, 0]
    if inverse and not np.ptp(colours[[0, top]], axis=1).any():  # both of them grey
        raise InputError(
            f"mask {path} paints index 0 lighter than index {top}, so that its indices and "
            "its colours disagree on what the object is; save it as grey, 0 and 255"
        )
    return values


def _grey_values(image: Image.Image, path: Source) -> np.ndarray:
    """Integer values [H, W] of a mask without a palette."""
    if image.has_transparency_data and image.mode[0] != "I":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0:
        raise InputError(f"mask {path} has floating-point or negative values; save it as grey")
    if values.ndim == 2:
        return values.astype(np.uint8) if values.dtype == bool else values
    lit = values[values.any(axis=2)]
    if image.mode == "RGB" and len(lit) and (lit == lit[0]).all():  # black and one colour, as CVAT draws one label
        return np.asarray(values.any(axis=2), np.uint8)
    if image.mode != "RGB" or np.ptp(values, axis=2).max() > 16:
        raise InputError(
            f"mask {path} is coloured ({image.mode}), and colours are not read as labels; save it as grey: "
            "0 = background, 255 = object; masks of several classes are read by semantic:PATH"
        )
    return values.max(axis=2)


def _soft_edged(present: np.ndarray, counts: np.ndarray) -> bool:
    """Whether grey values can be one white object with a soft edge, and hardly class numbers."""
    level, top = 4 * present.astype(np.int64), int(present[-1])
    dim = counts[(level > 0) & (level <= top)].sum()
    ramp = counts[(level > top) & (level < 3 * top)].sum()
    bright = counts[level >= 3 * top].sum()
    return bool(top >= 128 and (ramp > 0 or bright >= dim))
