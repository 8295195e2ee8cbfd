"""A training step beside its head alone, and the head beside the least it can take."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from fss.config import DANetConfig, TrainConfig
from fss.data import open_dataset
from fss.episodes import EpisodeStream
from fss.features import CachedFeatures, FeatureBatch, LiveFeatures, extract
from fss.lab.bench.timing import Rows, in_turn, medians
from fss.model import DANet
from fss.train import make_optimizer, train_step


@dataclass(frozen=True)
class Workload:
    """A training step to be timed: a network of random weights on drawn pictures, one shot."""

    name: str
    config: DANetConfig
    size: int
    batch: int
    repeats: int


WORKLOADS = (
    Workload("lite0, 224 px, C = 64", DANetConfig.published(), 224, 8, 20),
    Workload(
        "ResNet-50, 473 px, C = 256",
        DANetConfig.published(backbone="resnet50", channels=256),
        473,
        2,
        3,
    ),
)


class _Training(NamedTuple):
    model: DANet
    step: Callable[[FeatureBatch], float]
    cached: Iterator[FeatureBatch]
    live: Iterator[FeatureBatch]


@contextmanager
def _training(work: Workload) -> Iterator[_Training]:
    """All that a training has, with a small cache that is gone afterwards."""
    torch.manual_seed(0)
    schedule = TrainConfig()
    model = DANet(work.config, pretrained=False, dropout=schedule.dropout).train()
    optimizer = make_optimizer(model, schedule)
    drawn = open_dataset("shapes", split="train", fold=0, size=work.size)
    few = replace(drawn, images={name: ("0", "1") for name in drawn.classes[: work.batch]})
    stream = EpisodeStream(few, 1, 0, (work.repeats + 2) * work.batch)
    with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=folder):
        yield _Training(
            model,
            lambda batch: train_step(model, optimizer, batch, schedule.aux_weight),
            CachedFeatures(model, few).batches(stream, work.batch),
            LiveFeatures(model, few).batches(stream, work.batch),
        )


def steps(workloads: Sequence[Workload] = WORKLOADS) -> Rows:
    """Time a training step and its parts.

    ``head``: a step on a batch in memory. ``cached_step``: the same, read from the cache on disk.
    ``live_step``: the same, drawn and sent through the backbone in this process. ``backbone``: the
    features of that many pictures in memory. The ratio is the median of the turns' own ratios.
    """
    return [_step(work) for work in workloads]


def _step(work: Workload) -> dict[str, Any]:
    images = torch.rand(2 * work.batch, 3, work.size, work.size)
    masks = torch.zeros(2 * work.batch, work.size, work.size, dtype=torch.uint8)
    with _training(work) as (model, step, cached, live):
        held = next(cached)
        functions = {
            "backbone_ms": lambda: extract(model, images, masks),
            "head_ms": lambda: step(held),
            "cached_step_ms": lambda: step(next(cached)),
            "live_step_ms": lambda: step(next(live)),
        }
        ms = in_turn([*functions.values()], work.repeats)
    return {
        "name": work.name,
        "batch": work.batch,
        **dict(zip(functions, medians(ms), strict=True)),
        "cached_step_over_head": float(np.median(ms[2] / ms[1])),
        "repeats": work.repeats,
    }


def floor(workloads: Sequence[Workload] = WORKLOADS, side: int = 2048) -> Rows:
    """Set the head's time beside the least that its multiply-adds can take.

    They are counted over a whole step, forward and backward, and divided by the rate of a float32
    matrix product of ``side`` x ``side`` on the same threads. The ratio is the median of the turns'
    own ratios.
    """
    return [_floor(work, side) for work in workloads]


def _floor(work: Workload, side: int) -> dict[str, Any]:
    a, b = torch.rand(side, side), torch.rand(side, side)
    with _training(work) as (_, step, cached, _):
        held = next(cached)
        with FlopCounterMode(display=False) as counter:
            step(held)
        product, head = in_turn([lambda: a @ b, lambda: step(held)], work.repeats)
    adds = counter.get_total_flops() / 2  # a multiply and an add are two of its operations
    least = product * adds / side**3
    return {
        "name": work.name,
        "batch": work.batch,
        "giga_multiply_adds": adds / 1e9,
        "giga_a_second": float(np.median(side**3 / 1e6 / product)),
        "floor_ms": float(np.median(least)),
        "head_ms": float(np.median(head)),
        "head_over_floor": float(np.median(head / least)),
        "repeats": work.repeats,
    }
