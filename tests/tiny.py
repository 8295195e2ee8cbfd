"""Data and networks so small that a training takes a second: coloured boxes, random features."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import nn

from fss.backbones import Backbone
from fss.config import DANetConfig
from fss.data.dataset import Dataset, Reader
from fss.features import extract
from fss.metrics import EpisodeTally
from fss.model import DANet


@dataclass(frozen=True)
class Boxes(Reader):
    """A box on grey noise, with an ignored rim above; the class is its colour."""

    salt: str = ""

    def read(self, class_name: str, image_name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
        colour = np.random.default_rng(list(class_name.encode())).integers(0, 256, 3)
        rng = np.random.default_rng(list(self.fingerprint(class_name, image_name).encode()))
        image = rng.integers(90, 160, (size, size, 3), dtype=np.uint8)
        mask = np.zeros((size, size), np.uint8)
        top, left = rng.integers(4, size // 2, 2)
        mask[top : top + size // 3, left : left + size // 2] = 1
        image[mask == 1] = colour
        mask[:3] = 255
        return image, mask

    def fingerprint(self, class_name: str, image_name: str) -> str:
        return f"{self.salt}{class_name}/{image_name}"


def boxes(classes: int = 4, pictures: int = 5, *, size: int = 64, split: str = "test", salt: str = "") -> Dataset:
    names = tuple(map(str, range(pictures)))
    images = {f"{split} {n}": names for n in range(classes)}
    return Dataset("boxes", split, None, size, images, Boxes(salt))


def write_boxes(root: Path, classes: int, pictures: int, *, height: int = 60, width: int = 80) -> Path:
    """Write boxes as a folder of classes; pictures are wider than high."""
    for n in range(classes):
        folder = root / f"it's class {n}"
        folder.mkdir(parents=True)
        for name in map(str, range(1, pictures + 1)):
            image, mask = Boxes().read(folder.name, name, max(height, width))
            Image.fromarray(image[:height, :width]).save(folder / f"{name}.jpg")
            Image.fromarray(mask[:height, :width]).save(folder / f"{name}.png")
    return root


def backbone(seed: int = 0) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Backbone(
            nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.ReLU()),
            nn.Sequential(nn.Conv2d(6, 10, 3, stride=2, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(10, 12, 3, stride=2, padding=1), nn.ReLU()),
            channels=(6, 10, 12),
            strides=(8, 16, 32),
            normalisation=((0.5,) * 3, (0.25,) * 3),
        )


def load_tiny(name: str, pretrained: Any) -> Backbone:
    """In place of ``fss.model.load_backbone``, in a process too."""
    return backbone()


def slow_extract(*args: Any) -> Any:
    """In place of ``fss.features.extract``: time enough to be interrupted."""
    time.sleep(60)
    return extract(*args)


@contextmanager
def tiny_backbones(seed: int = 0) -> Iterator[None]:
    """Every network that is built gets the tiny backbone, whatever its config says."""
    with patch("fss.model.load_backbone", lambda name, pretrained: backbone(seed)):
        yield


def network(seed: int = 0, **settings: Any) -> DANet:
    """An untrained network in eval mode; ``seed`` is of its backbone."""
    with tiny_backbones(seed), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DANet(DANetConfig.published(**{"channels": 8, **settings})).eval()


def tally(*counts):
    """Episodes of these (intersection, union) and of as much background."""
    columns = {
        "class": [0 for _ in counts],
        "fg_intersection": [i for i, _ in counts],
        "fg_union": [u for _, u in counts],
        "bg_intersection": [50 for _ in counts],
        "bg_union": [50 + u - i for i, u in counts],
    }
    return EpisodeTally.from_json(columns)
