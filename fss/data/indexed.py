"""Pictures whose masks hold the labels of several classes, wherever a layout keeps the two."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from fss.data.dataset import Reader
from fss.data.pictures import IGNORE, check_same_size, decode, letterbox, read_rgb, stamp
from fss.errors import InputError


class Indexed(Reader):
    """Reads a picture and one class of its mask; a layout says where both lie and what the labels mean.

    A layout is hashable, so that what was seen in a mask can be remembered.
    """

    @property
    @abstractmethod
    def key(self) -> str:
        """All that the labels of the masks depend on besides the masks' files."""

    @abstractmethod
    def path(self, name: str) -> Path:
        """Return where a picture lies."""

    @abstractmethod
    def mask(self, name: str) -> Path:
        """Return where a picture's mask lies, or would lie if there were one."""

    @abstractmethod
    def label(self, class_name: str) -> int:
        """Return the label of a class."""

    @abstractmethod
    def labels(self, name: str) -> np.ndarray:
        """Read a mask as uint8 [H, W] of labels: 0 = background, 255 = ignore, others a class each."""

    def complete(self, name: str, class_name: str) -> bool:
        """Whether every object of a class is labelled in a picture."""
        return True

    def read(self, class_name: str, image_name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture, uint8 [size, size, 3] RGB, and mask, uint8 [size, size] in {0, 1, 255}.

        Both are letterboxed. Pixels of other classes are background. Raises `InputError` that
        names the file for a broken one, and for a mask without the class.
        """
        image, mask = read_rgb(self.path(image_name)), self.own_mask(class_name, image_name)
        check_same_size(image, mask, self.path(image_name), self.mask(image_name))
        return letterbox(image, mask, size)

    def own_mask(self, class_name: str, image_name: str) -> np.ndarray:
        """Mask of one class at its own size, uint8 [H, W] in {0, 1, 255}."""
        labels, label = self.labels(image_name), self.label(class_name)
        mask = (labels == label).astype(np.uint8)
        if not mask.any():
            raise InputError(
                f"mask {self.mask(image_name)} has no pixel of {class_name} ({label}), for which "
                "it is listed; correct the list"
            )
        mask[labels == IGNORE] = IGNORE
        return mask

    def fingerprint(self, class_name: str, image_name: str) -> str:
        """Class, and size in bytes and time of change of picture and mask; reads neither."""
        return " ".join([class_name, image_name, stamp(self.path(image_name)), stamp(self.mask(image_name))])

    def shows(self, class_name: str, image_name: str, other: str) -> bool | None:
        """Whether a picture shows a class, if only by a pixel; None where its labels are not complete for it."""
        if self.label(other) in _shown(self, image_name, stamp(self.mask(image_name))):
            return True
        return False if self.complete(image_name, other) else None

    def read_other(self, class_name: str, image_name: str, other: str, size: int) -> np.ndarray:
        """Mask of another class that the picture shows, uint8 [size, size] in {0, 1, 255}."""
        return self.read(other, image_name, size)[1]

    def picture(self, class_name: str, image_name: str) -> str:
        """Return the name of the picture, whatever class it is listed under."""
        return image_name


@lru_cache(maxsize=100_000)
def _shown(reader: Indexed, name: str, changed: str) -> frozenset[int]:
    """The labels in a mask; read anew once its file has changed."""
    return frozenset(np.unique(reader.labels(name)).tolist())


def read_indices(
    path: Path, colours: Iterable[tuple[int, Sequence[int] | np.ndarray]], *, painted: bool = False
) -> np.ndarray:
    """Read a mask's labels, [H, W]: its values, or those that its colours stand for.

    `colours` are labels, each with a colour (red, green, blue; 0..255). An RGB mask is read by them,
    and, where the masks are `painted`, one with a palette too. Raises `InputError` for another colour.
    """
    image = decode(path)
    if image.mode not in ("RGB", "RGBA", *(["P"] if painted else [])):
        values = np.asarray(image)
        return values // np.uint8(image.info["step"]) if image.mode == "L" else values
    pixels = np.asarray(image.convert("RGB"))
    base = [1 << 16, 1 << 8, 1]  # one number a colour
    known = {int(np.dot(colour, base)): label for label, colour in colours}
    numbers, asked = np.array(sorted(known)), pixels @ base
    places = np.searchsorted(numbers, asked).clip(max=len(numbers) - 1)
    unknown = pixels[numbers[places] != asked]
    if len(unknown):
        raise InputError(
            f"mask {path} is {image.mode} with the colour {tuple(unknown[0].tolist())}, which stands for no label; "
            "save it as a palette or grey PNG of labels, or correct its colour"
        )
    return np.array([known[number] for number in sorted(known)], np.uint8)[places]


def check_labels(labels: np.ndarray, known: Collection[int], path: Path, hint: str) -> np.ndarray:
    """Return labels [H, W] that are of 8 bits and known, or 0, or 255; `InputError`, with the hint, for others."""
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise InputError(f"mask {path} holds no labels of 8 bits; save it as a palette or grey PNG")
    odd = set(np.flatnonzero(np.bincount(labels.ravel())).tolist()) - {0, IGNORE, *known}
    if odd:
        raise InputError(f"mask {path} holds the label {min(odd)}; {hint}")
    return labels
