"""PASCAL VOC 2012 as people have it on disk: where its parts lie, and its masks as labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fss.data.indexed import Indexed, check_labels, read_indices
from fss.data.layout import recognised
from fss.data.pictures import either_case
from fss.errors import InputError
from fss.files import expanded, names_in

CLASSES = (  # of the labels 1 to 20
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

SOURCE = (
    "VOC 2012 is at http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and SBD at "
    "http://home.bharathh.info/pubs/codes/SBD/; `fss download` fetches both"
)
AUG, OWN = "SegmentationClassAug", "SegmentationClass"
MASKS = (".png", ".mat")
SBD = ("cls", "sbd/cls", "SBD/cls", "dataset/cls", "benchmark_RELEASE/dataset/cls")


@dataclass(frozen=True)
class Voc(Indexed):
    """A VOC 2012 tree; reads a picture and one class of its mask.

    Masks are looked for in the folders `masks` in order. So the merge of VOC and SBD need not be
    written anywhere: VOC's own mask goes before SBD's, which has no border of 255.
    """

    root: Path
    masks: tuple[Path, ...]

    knows_absence = True  # every object of VOC's classes is labelled

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
            kind, layout = recognised(path)
            hint = layout if kind != "pascal5i" and layout else SOURCE
            raise InputError(f"{root} is {whole}, without {' and '.join(missing)}; {hint}")
        return cls(root, masks)

    @property
    def key(self) -> str:
        """The folders of the masks."""
        return "\n".join(str(folder.resolve()) for folder in self.masks)

    def path(self, name: str) -> Path:
        """Return where a picture lies."""
        return either_case(self.root / "JPEGImages" / f"{name}.jpg")

    def mask(self, name: str) -> Path:
        """Return where a picture's mask lies, or would lie if there were one."""
        paths = [either_case(folder / f"{name}{suffix}") for folder in self.masks for suffix in MASKS]
        return next((path for path in paths if path.is_file()), paths[0])

    def pictures(self) -> set[str]:
        """Return the names of all pictures."""
        return _stems(self.root / "JPEGImages", (".jpg",))

    def labelled(self) -> set[str]:
        """Return the names of all pictures that have a mask."""
        return set[str]().union(*(_stems(folder, MASKS) for folder in self.masks))

    def label(self, class_name: str) -> int:
        """Return the label of a class, 1 to 20."""
        return CLASSES.index(class_name) + 1

    def labels(self, name: str) -> np.ndarray:
        """Read a mask as uint8 [H, W] of labels 0..20 and 255; see `read_labels`."""
        return read_labels(self.mask(name))


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
        labels = read_indices(path, enumerate(palette()))
    return check_labels(labels, range(len(CLASSES) + 1), path, "VOC's are 0 to 20, and 255 for ignored pixels")


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


def _stems(folder: Path, suffixes: tuple[str, ...]) -> set[str]:
    """Names without suffix of the files in a folder, but for hidden ones."""
    return {os.path.splitext(name)[0] for name in names_in(folder) if name.lower().endswith(suffixes)}
