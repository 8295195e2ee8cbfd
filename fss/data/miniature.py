"""A small tree in VOC's layout, drawn by code: 20 classes of the shapes world bear VOC's names.

Unlike those of the shapes world, its pictures are wider than high, show objects of several classes,
and their labels have VOC's border of 255. So a test class truly occurs in pictures for training.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion, find_objects

from fss.data.pictures import IGNORE
from fss.data.shapes import Shapes, World, class_name
from fss.data.shapes.drawing import ground
from fss.data.voc import AUG, CLASSES, palette

HEIGHT, WIDTH = 144, 192
_ALONE = Shapes(World(0, 0, occlusion=0, area_min=0.25, area_max=0.35))


def save(tree: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    """Write a picture [H,W,3] and its labels [H,W] as VOC stores them: JPEG, and PNG of palette.

    ``tree`` is the VOC2012 folder; what is missing of it is made.
    """
    for part in ("JPEGImages", AUG):
        (tree / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(tree / "JPEGImages" / f"{name}.jpg", quality=95)
    indices = Image.fromarray(labels)
    indices.putpalette(palette().tobytes())
    indices.save(tree / AUG / f"{name}.png")


def paste(labels: Sequence[int], sample: int, rng: Generator, *, border: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Draw objects of some classes, the last one on top.

    Args:
        labels: of the classes, 1..20.
        sample: which picture of the shapes world each object is cut from.
        rng: of the ground, and of the objects' sizes and places.
        border: pixels beyond an object's edge that are labelled 255, as is the outermost within.

    Returns:
        Picture, uint8 [144, 192, 3], and labels, uint8 [144, 192].
    """
    canvas = (255 * ground(rng, WIDTH, 0.5)[:, :HEIGHT].clip(0, 1)).astype(np.uint8)
    canvas, mask = canvas.transpose(1, 2, 0).copy(), np.zeros((HEIGHT, WIDTH), np.uint8)
    for label in labels:
        image, instances = _ALONE.instances(class_name(label - 1), str(sample), int(rng.integers(40, 170)))
        (around,) = find_objects((instances == 1).astype(np.uint8))
        image, on = image[around][:HEIGHT, :WIDTH], instances[around][:HEIGHT, :WIDTH] == 1
        top, left = rng.integers(HEIGHT - len(on) + 1), rng.integers(WIDTH - on.shape[1] + 1)
        box = slice(top, top + len(on)), slice(left, left + on.shape[1])
        canvas[box][on], mask[box][on] = image[on], label
    objects = [mask == label for label in labels]
    wide = [binary_dilation(on, iterations=border) if border else on for on in objects]
    borders = [outer & ~binary_erosion(on) for outer, on in zip(wide, objects, strict=True)]
    mask[np.any(borders, axis=0)] = IGNORE
    return canvas, mask


def draw_tree(tree: Path, pictures: Mapping[str, int], *, seed: int = 0, border: int = 2) -> None:
    """Write a VOC2012 of drawn pictures, and lists of those for training and those for the test.

    Each picture is drawn for one class, and shows up to two others beneath it, of whatever fold.

    Args:
        tree: the VOC2012 folder to make.
        pictures: how many for each class, in ``"train"`` and in ``"val"``.
        seed: another one draws another tree.
        border: see ``paste``.
    """
    lists = tree / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    every, number = range(1, len(CLASSES) + 1), 0
    for part, listed in (("train", "trainaug.txt"), ("val", "val.txt")):
        names = []
        for label in [*every] * pictures[part]:
            rng = np.random.default_rng([seed, number])
            others = rng.choice([c for c in every if c != label], rng.integers(3), False)
            names.append(f"{part}_{number:04}")
            save(tree, names[-1], *paste([*others.tolist(), label], number, rng, border=border))
            number += 1
        (lists / listed).write_text("\n".join(names))
