"""The "shapes" world: an endless set of object classes drawn by code.

A class is an outline, a pattern and a palette. A picture shows objects of several classes on a
textured ground, sometimes partly hidden; one of them is of the class that is asked for. All of them
are drawn by one procedure and *then* a lot decides which one that is, so nothing but its looks gives
it away. A picture is a pure function of (class, sample, size, knobs); size changes the resolution,
not the scene.
"""

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from fss.data.dataset import Reader
from fss.data.shapes.appearance import random_outline, random_surface
from fss.data.shapes.drawing import Placed, ground, paint
from fss.data.shapes.layout import Arrangement, Look, arrange, occluder
from fss.data.shapes.world import World as World
from fss.errors import InputError

VERSION = 3  # to be raised with every change of what is drawn or of a knob's default
FOLDS, CLASSES_PER_FOLD, SAMPLES = 4, 100, 10
EXTRA_SAMPLES = 4
TRIES = 60  # arrangements after which the best one so far is taken


def class_name(index: int) -> str:
    """The name of class `index`; the four folds hold 0..399, the world goes on beyond."""
    return f"shape-{index:04d}"


def classes_of(split: str, fold: int) -> tuple[str, ...]:
    """Return the classes of a split.

    Fold f tests on 100f..100f+99; of the other 300, every tenth is "val" and the rest "train".
    Raises `InputError` for an unknown fold.
    """
    if fold not in range(FOLDS):
        raise InputError(f"fold {fold} of shapes does not exist; choose 0..{FOLDS - 1}")
    test = range(CLASSES_PER_FOLD * fold, CLASSES_PER_FOLD * (fold + 1))
    rest = [n for n in range(FOLDS * CLASSES_PER_FOLD) if n not in test]
    splits = {"train": [n for n in rest if n % 10 != 9], "val": rest[9::10], "test": test}
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

    knows_absence = True  # the world knows what it drew

    def read(self, class_name: str, image_name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture uint8 [size, size, 3] and mask uint8 [size, size] of the visible target."""
        image, instances = self.instances(class_name, image_name, size)
        return image, (instances == 1).astype(np.uint8)

    def instances(self, class_name: str, image_name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture, and instances uint8 [size, size]: 0 ground and occluder, 1 target, 2.. others.

        Raises `InputError` for a name that is not of this world.
        """
        return draw(_index(class_name), _sample(image_name), size, self.world)

    def shows(self, class_name: str, image_name: str, other: str) -> bool:
        """Whether an object of the class `other` is in a picture."""
        return _index(other) in _shown(_index(class_name), _sample(image_name), self.world)

    def read_other(self, class_name: str, image_name: str, other: str, size: int) -> np.ndarray:
        """Mask uint8 [size, size] of the object of another class, all 0 where the picture lacks it.

        Raises `InputError` in a world whose objects share their looks, and so belong to no other class.
        """
        if self.world.share != "none":
            raise InputError(f"with share={self.world.share} the other objects are of no class; ask for the own one")
        shown = _shown(_index(class_name), _sample(image_name), self.world)
        label = shown.index(_index(other)) + 1 if _index(other) in shown else len(shown) + 1
        return (self.instances(class_name, image_name, size)[1] == label).astype(np.uint8)

    def class_of(self, target: str, image_name: str, label: int) -> str:
        """The class of an instance of a picture of class `target`, by its label in `instances` (1 or more).

        With `share` a distractor has only its outline or only its surface from its class.
        """
        return class_name(_shown(_index(target), _sample(image_name), self.world)[label - 1])

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
def _look(index: int) -> Look:
    rng = np.random.default_rng([VERSION, 0, index])
    return random_outline(rng), random_surface(rng)


def draw(index: int, sample: int, size: int, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture: uint8 [size, size, 3] RGB and its instance map uint8 [size, size]."""
    canvas = ground(np.random.default_rng([VERSION, 1, index, sample]), size, world.contrast)
    instances = np.zeros((size, size), np.uint8)
    for thing, label in _scene(index, sample, world):
        box, covers = paint(canvas, thing, size)
        instances[box][covers] = label
    planes = [(np.clip(plane, 0, 1) * 255 + 0.5).astype(np.uint8) for plane in canvas]
    return np.stack(planes, axis=-1), instances


def _scene(index: int, sample: int, world: World) -> list[tuple[Placed, int]]:
    """The objects in the order of painting, each with its label in the instance map.

    Which of the objects is the target is drawn apart from where they lie, how large they are and
    what covers what. Every draw is made in every world, so that a knob changes what it names alone, as
    far as it can: other outlines, and more objects, are placed anew until enough of each is visible.
    """
    own, *others = map(_look, _shown(index, sample, world))
    often, _, lot = _lots(index, sample)
    if world.share == "outline":
        others = [(own[0], surface) for _, surface in others]
    if world.share == "texture":
        others = [(outline, own[1]) for outline, _ in others]
    labels = list(range(2, len(others) + 2))
    labels.insert(int(lot * (len(others) + 1)), 1)
    looks = [own if label == 1 else others[label - 2] for label in labels]
    found = _arrangement(looks, (world.area_min, world.area_max), index, sample)
    scene = [(found.things[n], labels[n]) for n in found.order]
    lump = occluder(found, np.random.default_rng([VERSION, 4, index, sample])) if often < world.occlusion else None
    return scene if lump is None else [*scene, (lump, 0)]


def _arrangement(looks: list[Look], areas: tuple[float, float], index: int, sample: int) -> Arrangement:
    """The first arrangement in which every object shows at least half of itself, or else the best one."""
    tried = []
    for attempt in range(TRIES):
        tried.append(arrange(looks, areas, np.random.default_rng([VERSION, 3, index, sample, attempt])))
        if tried[-1].shown >= 0.5:
            return tried[-1]
    return max(tried, key=lambda arrangement: arrangement.shown)


def _lots(index: int, sample: int) -> np.ndarray:
    """Three draws in 0..1 of a picture: whether something is in front, how many objects, which is the target."""
    return np.random.default_rng([VERSION, 2, index, sample]).random(3)


def _shown(index: int, sample: int, world: World) -> list[int]:
    """The classes of a picture's objects, the target first, in the order of their labels.

    The others are of the target's hundred and of its kind, "val" or not (see `classes_of`), so that no
    split shows a class of another one.
    """
    many = int(_lots(index, sample)[1] * (world.distractors_max - world.distractors_min + 1))
    hundred = index - index % CLASSES_PER_FOLD
    alike = [n for n in range(hundred, hundred + CLASSES_PER_FOLD) if (n % 10 == 9) == (index % 10 == 9) and n != index]
    order = np.random.default_rng([VERSION, 5, index, sample]).permutation(len(alike))
    return [index, *(alike[n] for n in order[: world.distractors_min + many])]
