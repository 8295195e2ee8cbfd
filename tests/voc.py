"""A VOC 2012 tree written by code: small pictures wider than high, and lists of both kinds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fss.data.voc import palette

HEIGHT, WIDTH = 60, 80
Boxes = Mapping[int, tuple[int, int, int, int]]  # label -> top, left, height, width


def labels(boxes: Boxes) -> np.ndarray:
    """A mask of boxes, each with VOC's border of 255 above it."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for label, (top, left, height, width) in boxes.items():
        mask[max(0, top - 2) : top, left : left + width] = 255
        mask[top : top + height, left : left + width] = label
    return mask


def save_mask(mask: np.ndarray, path: Path, mode: str = "P") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "RGB":
        Image.fromarray(palette()[mask]).save(path)
        return
    image = Image.fromarray(mask)
    if mode == "P":
        image.putpalette(palette().tobytes())
    image.save(path)


def add(root: Path, name: str, boxes: Boxes, masks: str = "SegmentationClassAug") -> None:
    """Add a picture and its mask."""
    mask = labels(boxes)
    pixels = palette()[mask] // 2 + 60
    picture = root / "JPEGImages" / f"{name}.jpg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(picture, quality=95)
    save_mask(mask, root / masks / f"{name}.png")


def write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


LARGE, SMALL = (10, 10, 40, 60), (10, 10, 20, 30)  # 2,400 and 600 px
HALVES = (10, 0, 45, 40), (10, 40, 50, 40)  # 1,800 and 2,000 px


def voc(root: Path) -> Path:
    """One large picture of every class for training and two to test; returns the VOC2012.

    `t` pictures are for training, `v` ones for the test; `t-mixed` shows classes 3 and 8 of
    folds 0 and 1, and `v-mixed` 6 and 7 of fold 1.
    """
    tree = root / "VOCdevkit" / "VOC2012"
    sets: dict[str, list[str]] = {"t": [], "v": []}
    for part, count in (("t", 1), ("v", 2)):
        for label in range(1, 21):
            for n in range(count):
                sets[part].append(f"{part}{label:02}-{n}")
                add(tree, sets[part][-1], {label: LARGE})
    add(tree, "t-mixed", {3: HALVES[0], 8: HALVES[1]})
    add(tree, "v-mixed", {6: HALVES[0], 7: HALVES[1]})
    write(tree / "ImageSets" / "Segmentation" / "val.txt", [*sets["v"], "v-mixed"])
    return tree


def pair_lists(tree: Path, folder: str = "fold_lists") -> Path:
    """HSNet's lists of such a tree."""
    for part, count in (("trn", 1), ("val", 2)):
        for fold in range(4):
            lines = [
                f"{part[0]}{label:02}-{n}__{label:02}"
                for label in range(5 * fold + 1, 5 * fold + 6)
                for n in range(count)
            ]
            extra = {
                ("trn", 0): ["t-mixed__03"],
                ("trn", 1): ["t-mixed__08"],
                ("val", 1): ["v-mixed__07", "v-mixed__06"],
            }
            write(tree / folder / f"{part}_fold{fold}.txt", lines + extra.get((part, fold), []))
    return tree / folder
