"""Networks that are slow to build, built once for all tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

from torch import nn
from torch.nn.modules.conv import _ConvNd

from fss.backbones import Backbone, load_backbone

KAIMING = nn.init.kaiming_normal_


@contextmanager
def quick_init() -> Iterator[None]:
    """Skip the initial weights that torchvision overwrites, and those of classifiers."""
    with (
        patch.object(nn.Linear, "reset_parameters", lambda self: None),
        patch.object(_ConvNd, "reset_parameters", lambda self: None),
        patch.object(nn.init, "normal_", lambda tensor, *args: tensor),
        patch.object(nn.init, "kaiming_normal_", KAIMING),  # also within `no_init`, which leaves memory as it is
    ):
        yield


@contextmanager
def no_init() -> Iterator[None]:
    """Skip all the initial weights of a network that gets its own afterwards."""
    with (
        quick_init(),
        patch.object(nn.init, "kaiming_normal_", lambda tensor, *args, **options: tensor),
    ):
        yield


@cache
def frozen(name: str) -> Backbone:
    """A backbone of random weights; the EfficientNet-Lites with their own."""
    with quick_init():
        return load_backbone(name, name.startswith("efficientnet_lite"))
