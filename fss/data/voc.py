"""PASCAL VOC 2012 as people have it on disk: where its parts lie, and its masks as labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fss.data.dataset import Reader
from fss.data.opening import names_in
from fss.data.pictures import IGNORE, check_same_size, decode, letterbox, read_rgb, stamp
from fss.errors import InputError
from fss.files import expanded

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The names of the labels 1 to 20."""

SOURCE = (
    "VOC 2012 is at http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and SBD at "
    "http://home.bharathh.info/pubs/codes/SBD/; `fss download` fetches both"
)
AUG, OWN = "SegmentationClassAug", "SegmentationClass"
MASKS = (".png", ".mat")
SBD = ("cls", "sbd/cls", "SBD/cls", "dataset/cls", "benchmark_RELEASE/dataset/cls")


@dataclass(frozen=True)
class Voc(Reader):
    """A VOC 2012 tree; reads a picture and one class of its mask.

    Masks are looked for in the folders `masks` in order. So the merge of VOC and SBD need not be
    written anywhere: VOC's own mask goes before SBD's, which has no border of 255.
    """

    root: Path
    masks: tuple[Path, ...]

    @classmethod
    def find(cls, path: Path) -> Voc:
        """Find the tree at `path`: VOC2012 itself, or one of the two folders around it.

        Masks lie in `SegmentationClassAug`, or in `SegmentationClass` and in SBD's `cls`, which
        may lie in the tree, beside it, or in `sbd` or `benchmark_RELEASE/dataset` there, as its
        archive unpacks; a folder without masks counts as missing. Raises `InputError` that names
        what is missing, and where to get it.
        """
        path = expanded(path)
        if not path.is_dir():
            raise InputError(f"no folder {path}; give the path of VOCdevkit or VOC2012")
        places = (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012")
        parts = ("JPEGImages", AUG, OWN)
        root = next((p for p in places if any((p / part).is_dir() for part in parts)), path)
        around = [path, root, root.parent]
        if root.parent.name == "VOCdevkit":
            around.append(root.parent.parent)
        folders = dict.fromkeys([root / AUG, root / OWN, *(p / name for p in around for name in SBD)])
        masks = tuple(folder for folder in folders if folder.is_dir() and _stems(folder, MASKS))
        wanted = {"JPEGImages": (root / "JPEGImages").is_dir(), f"masks ({AUG}, or {OWN} and SBD's cls)": bool(masks)}
        missing = [part for part, there in wanted.items() if not there]
        if missing:
            whole = "no VOC tree" if len(missing) == 2 else "only part of a VOC tree"
            raise InputError(f"{root} is {whole}, without {' and '.join(missing)}; {SOURCE}")
        return cls(root, masks)

    def picture(self, class_name: str, image_name: str) -> str:
        """A name of the picture that is the same whatever class it is listed under."""
        return image_name

    def path(self, name: str) -> Path:
        """Return where a picture lies."""
        return self.root / "JPEGImages" / f"{name}.jpg"

    def mask(self, name: str) -> Path:
        """Return where a picture's mask lies, or would lie if there were one."""
        paths = [folder / f"{name}{suffix}" for folder in self.masks for suffix in MASKS]
        return next((path for path in paths if path.is_file()), paths[0])

    def pictures(self) -> set[str]:
        """Return the names of all pictures."""
        return _stems(self.root / "JPEGImages", (".jpg",))

    def labelled(self) -> set[str]:
        """Return the names of all pictures that have a mask."""
        return set[str]().union(*(_stems(folder, MASKS) for folder in self.masks))

    def labels(self, name: str) -> np.ndarray:
        """Read a mask as uint8 [H, W] of labels 0..20 and 255; see `read_labels`."""
        return read_labels(self.mask(name))

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
        labels, label = self.labels(image_name), CLASSES.index(class_name) + 1
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
        files = self.path(image_name), self.mask(image_name)
        return " ".join([class_name, image_name, *map(stamp, files)])


def read_labels(path: Path) -> np.ndarray:
    """Read a VOC mask as uint8 [H, W]: 0 = background, 1..20 = a class, 255 = ignore.

    Palette and grey masks hold the labels themselves; one saved as RGB is read by the colours of
    VOC's palette; a `.mat` is SBD's. Raises `InputError` for other labels or colours, and for a
    file that cannot be read.
    """
    if path.suffix == ".mat":
        from scipy.io import loadmat  # a quarter of a second, and only SBD needs it

        try:
            labels = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
        except Exception as error:  # scipy raises almost any type on broken files
            raise InputError(
                f"mask {path} is no mask of SBD ({type(error).__name__}: {error}); get SBD anew"
            ) from error
    else:
        image = decode(path, upright=False)
        labels = np.asarray(image) if image.mode not in ("RGB", "RGBA") else _by_colour(image.convert("RGB"), path)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise InputError(f"mask {path} holds no labels of 8 bits; save it as a palette or grey PNG")
    odd = [n for n in np.flatnonzero(np.bincount(labels.ravel())) if n > 20 and n != IGNORE]
    if odd:
        raise InputError(f"mask {path} holds the label {odd[0]}; VOC's are 0 to 20, and 255 for ignored pixels")
    return labels


def palette() -> np.ndarray:
    """Return VOC's colours of the labels 0..255, uint8 [256, 3].

    The bits of a label are dealt to red, green and blue in turn, from the highest bit of each
    colour down (VOC's own development kit, `VOClabelcolormap`).
    """
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((labels >> bit & 1) << 7 - bit // 3).astype(np.uint8)
    return colours


def _by_colour(image: Image.Image, path: Path) -> np.ndarray:
    """Labels [H, W] of an RGB picture's colours."""
    known = [*range(len(CLASSES) + 1), IGNORE]
    pixels = np.asarray(image)
    same = (pixels[:, :, None] == palette()[known]).all(3)  # [H, W, labels]
    unknown = pixels[~same.any(2)]
    if len(unknown):
        raise InputError(
            f"mask {path} is RGB with the colour {tuple(unknown[0].tolist())}, which VOC's palette does not "
            "give to any label; save it as a palette PNG of labels"
        )
    return np.array(known, np.uint8)[same.argmax(2)]


def _stems(folder: Path, suffixes: tuple[str, ...]) -> set[str]:
    """Names without suffix of the files in a folder, but for hidden ones."""
    return {os.path.splitext(name)[0] for name in names_in(folder) if name.endswith(suffixes)}
