"""The "shapes" world: an endless set of object classes drawn by code.

A class is an outline, a pattern and a palette. A picture shows one object of the class on a
textured ground among distractors of other classes, sometimes partly hidden. It is a pure
function of (class, sample, size, knobs); size changes the resolution, not the scene.
"""

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.random import Generator

from fss.data.dataset import Reader
from fss.data.shapes.appearance import Outline, Surface, random_outline, random_surface
from fss.data.shapes.drawing import Placed, ground, paint
from fss.data.shapes.layout import coverage, occluder, place
from fss.data.shapes.world import World as World
from fss.errors import InputError, nearest

VERSION = 2  # to be raised with every change of what is drawn or of a knob's default
FOLDS, CLASSES_PER_FOLD, SAMPLES = 4, 100, 10
EXTRA_SAMPLES = 4
# Distractors come from classes that no split ever asks for, so that training never shows a
# test class, not even as background.
_DISTRACTORS = (100_000, 1_000_000)


def class_name(index: int) -> str:
    """The name of class `index`; the four folds hold 0..399, the world goes on beyond."""
    return f"shape-{index:04d}"


def classes_of(split: str, fold: int) -> tuple[str, ...]:
    """Return the classes of a split.

    Fold f tests on 100f..100f+99; of the other 300, every tenth is "val" and the rest "train".
    Raises `InputError` for an unknown split or fold.
    """
    if fold not in range(FOLDS):
        raise InputError(f"fold {fold} of shapes does not exist; choose 0..{FOLDS - 1}")
    test = range(CLASSES_PER_FOLD * fold, CLASSES_PER_FOLD * (fold + 1))
    rest = [n for n in range(FOLDS * CLASSES_PER_FOLD) if n not in test]
    splits = {"train": [n for n in rest if n % 10 != 9], "val": rest[9::10], "test": list(test)}
    if split not in splits:
        raise InputError(f"no split {split!r}; {nearest(split, splits)}")
    return tuple(map(class_name, splits[split]))


def pictures_of(split: str, fold: int, extra: int = 0) -> dict[str, tuple[str, ...]]:
    """Return the classes of a split with the names of their pictures.

    ``extra`` classes from 400 on, which belong to no fold, join the training classes with fewer
    pictures each: variety of classes is what a network that has to generalise is short of.
    """
    images = dict.fromkeys(classes_of(split, fold), tuple(map(str, range(SAMPLES))))
    further = endless(FOLDS * CLASSES_PER_FOLD, extra if split == "train" else 0)
    return images | dict.fromkeys(further, tuple(map(str, range(EXTRA_SAMPLES))))


def endless(first: int, count: int) -> tuple[str, ...]:
    """`count` class names from `first` on; from 400 on they belong to no fold."""
    return tuple(class_name(first + n) for n in range(count))


@dataclass(frozen=True)
class Shapes(Reader):
    """The reader of the world: draws the picture that a class and a sample name."""

    world: World = World()

    def read(self, class_name: str, image_name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture uint8 [size, size, 3] and mask uint8 [size, size] of the visible target."""
        image, instances = self.instances(class_name, image_name, size)
        return image, (instances == 1).astype(np.uint8)

    def instances(self, class_name: str, image_name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture, and instances uint8 [size, size]: 0 ground and occluder, 1 target, 2.. others.

        Raises `InputError` for a name that is not of this world.
        """
        return draw(_index(class_name), _sample(image_name), size, self.world)

    def class_of(self, target: str, image_name: str, label: int) -> str:
        """The class of an instance of a picture of class `target`, by its label in `instances` (1 or more).

        With `share` a distractor has only its outline or only its surface from its class.
        """
        index, sample = _index(target), _sample(image_name)
        return target if label == 1 else class_name(_distractor(index, sample, label - 2)[0])

    def fingerprint(self, class_name: str, image_name: str) -> str:
        """The version of the world, the knobs that differ from their defaults, class and sample.

        So a knob that the world gains later leaves what is cached valid.
        """
        knobs = [
            f"{knob.name}={value} "
            for knob in fields(self.world)
            if knob.repr and (value := getattr(self.world, knob.name)) != knob.default
        ]
        return f"shapes v{VERSION} {''.join(knobs)}{class_name} {image_name}"


def _index(name: str) -> int:
    digits = name.removeprefix("shape-")
    if not (digits.isascii() and digits.isdigit()) or class_name(int(digits)) != name:
        raise InputError(f"no class {name!r} in shapes; names run like 'shape-0042'")
    return int(digits)


def _sample(name: str) -> int:
    if not (name.isascii() and name.isdigit()):
        raise InputError(f"no picture {name!r} in shapes; names are '0', '1', ...")
    return int(name)


@lru_cache(maxsize=2048)
def _look(index: int) -> tuple[Outline, Surface]:
    rng = np.random.default_rng([VERSION, 0, index])
    return random_outline(rng), random_surface(rng)


def draw(index: int, sample: int, size: int, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture: uint8 [size, size, 3] RGB and its instance map uint8 [size, size]."""
    canvas = ground(np.random.default_rng([VERSION, 1, index, sample]), size, world.contrast)
    instances = np.zeros((size, size), np.uint8)
    for thing, label in _scene(index, sample, world):
        box, covers = paint(canvas, thing, size)
        instances[box][covers] = label
    image = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0)), instances


def _scene(index: int, sample: int, world: World) -> list[tuple[Placed, int]]:
    """The objects in the order of painting, each with its label in the instance map.

    The target and every distractor have a generator of their own, so a knob changes what it
    names and leaves the rest of the scene in place.
    """
    own = _look(index)
    rng = np.random.default_rng([VERSION, 2, index, sample])
    area = float(np.exp(rng.uniform(*np.log([world.area_min, world.area_max]))))
    target = place(own, area, [], rng)
    often, many = rng.random(2)  # drawn in every world, so that a knob shifts nothing else
    more = int(many * (world.distractors_max - world.distractors_min + 1))
    visible = whole = coverage(target)
    around, behind, front = [target], [], []
    for n in range(world.distractors_min + more):
        other, rng = _distractor(index, sample, n)
        outline, surface = _look(other)
        outline = own[0] if world.share == "outline" else outline
        surface = own[1] if world.share == "texture" else surface
        like_target = float(np.clip(area * rng.uniform(0.6, 1.5), 0.04, world.area_max))
        thing = place((outline, surface), like_target, around, rng)
        around.append(thing)
        left = visible & ~coverage(thing)
        if rng.random() < 0.5 and left.sum() >= 0.9 * whole.sum():
            front.append((thing, n + 2))
            visible = left
        else:
            behind.append((thing, n + 2))
    scene = [*behind, (target, 1), *front]
    if often < world.occlusion:
        rng = np.random.default_rng([VERSION, 4, index, sample])
        scene.append((occluder(target, visible, int(whole.sum()), rng), 0))
    return scene


def _distractor(index: int, sample: int, n: int) -> tuple[int, Generator]:
    """The class of distractor `n` of a picture, and the generator of all else about it."""
    rng = np.random.default_rng([VERSION, 3, index, sample, n])
    other = int(rng.integers(*_DISTRACTORS))
    return (other if other != index else other + 1), rng
