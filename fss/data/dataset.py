"""A set of labelled pictures grouped by class, read one at a time and never held whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fss.errors import InputError, closest, nearest

if TYPE_CHECKING:  # opening and checking a data set need not wait for torch
    import torch


class Reader(Protocol):
    """Reads or draws one labelled picture; picklable, so that loader workers can hold it."""

    @property
    def knows_absence(self) -> bool:
        """Whether `shows` can say that a class is not there, at least of some pictures."""
        return False

    def read(self, class_name: str, image_name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture, uint8 [size, size, 3] RGB, and mask, uint8 [size, size] in {0, 1, 255}."""

    def fingerprint(self, class_name: str, image_name: str) -> str:
        """Everything that the two arrays depend on besides `size`, as a key for caches."""

    def own_mask(self, class_name: str, image_name: str) -> np.ndarray:
        """Mask, uint8 [H, W] in {0, 1, 255}, at the picture's own size.

        Raises `InputError` for pictures that have no size of their own, being drawn at any.
        """
        raise InputError("these pictures have no size of their own; score at the network's size")

    def picture(self, class_name: str, image_name: str) -> str:
        """A name of the picture that is the same whatever class it is listed under."""
        return f"{class_name}/{image_name}"

    def shows(self, class_name: str, image_name: str, other: str) -> bool | None:
        """Whether a picture that is listed under one class shows another, by a single pixel; None: nobody knows."""
        return True if other == class_name else None

    def read_other(self, class_name: str, image_name: str, other: str, size: int) -> np.ndarray:
        """Mask of another class in a picture, uint8 [size, size] in {0, 1, 255}.

        Raises `InputError` where the picture's label says nothing of other classes.
        """
        raise InputError(f"picture {image_name!r} of {class_name!r} has no label of {other!r}")


@dataclass(frozen=True)
class Dataset:
    """The classes of one split (and fold), each a sequence of labelled pictures.

    `images` maps a class name to the names of its pictures; `size` is the side of the square
    that every picture is read at, in pixels. `notes` say what a reader of its scores should know.
    `all_classes` are those of the split where `images` holds only some that were asked for.
    """

    spec: str
    split: str
    fold: int | None
    size: int
    images: Mapping[str, tuple[str, ...]]
    reader: Reader
    notes: tuple[str, ...] = ()
    all_classes: tuple[str, ...] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of `images`."""
        return tuple(self.images)

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.images)

    def __getitem__(self, class_name: str) -> ClassImages:
        """The pictures of one class; raises `InputError` for a class that is not in this split."""
        if class_name not in self.images:
            raise InputError(
                f"no class {class_name!r} in the {self.split} split of {self.spec}; "
                + nearest(str(class_name), self.classes)
            )
        return ClassImages(self, class_name)

    def read(self, class_name: str, picture_name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Read one picture by the names of its class and of itself.

        Returns (image, mask): float32 [3, size, size] RGB in 0..1, and uint8 [size, size] with
        0 = background, 1 = the class, 255 = ignored. Raises `InputError` for names that this split
        does not have.
        """
        import torch

        names = self[class_name].names
        if picture_name not in names:
            match = closest(str(picture_name), names)
            hint = f"did you mean {match!r}?" if match else f"dataset[{class_name!r}].names lists its pictures"
            raise InputError(f"no picture {picture_name!r} in class {class_name!r} of {self.spec}; {hint}")
        image, mask = self.reader.read(class_name, picture_name, self.size)
        return to_tensor(image), torch.from_numpy(np.ascontiguousarray(mask))

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the size and of every sample's fingerprint in order.

        A file's is its name, size and time of change, so that a folder which has moved keeps its
        cached features (``mv``, ``cp -a`` and ``rsync -a`` keep the times).
        """
        lines = [
            f"{class_name}\t{name}\t{self.reader.fingerprint(class_name, name)}\n"
            for class_name, images in self.images.items()
            for name in images
        ]
        return hashlib.sha256(f"size={self.size}\n{''.join(lines)}".encode()).hexdigest()


@dataclass(frozen=True)
class ClassImages(Sequence["tuple[torch.Tensor, torch.Tensor]"]):
    """The pictures of one class; item `n` is what `Dataset.read` returns for the `n`-th name."""

    dataset: Dataset
    class_name: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the pictures, in order."""
        return self.dataset.images[self.class_name]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        """Read picture `index`, or the list of a slice (an `IndexError` beyond the end)."""
        if isinstance(index, slice):
            return [self[n] for n in range(len(self))[index]]
        return self.dataset.read(self.class_name, self.names[index])


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Return a picture uint8 [H, W, 3] as a network takes it: float32 [3, H, W], RGB in 0..1."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def narrowed(names: Sequence[str], wanted: str | None, where: str) -> list[str]:
    """Keep the wanted names, given with commas between them, in the order of `names`; None is all.

    Raises `InputError` for a name that is not among them; `where` says whose they are.
    """
    if wanted is None:
        return list(names)
    chosen = {name.strip() for name in wanted.split(",") if name.strip()}
    for name in sorted(chosen - set(names)) or ([] if chosen else [wanted]):
        raise InputError(f"no class {name!r} in {where}; {nearest(name, names)}")
    return [name for name in names if name in chosen]
