"""A training step beside its head alone, and the head beside the least it can take."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch

from fss.config import DANetConfig, preset
from fss.data import open_dataset
from fss.episodes import EpisodeStream
from fss.features import CachedFeatures, LiveFeatures, extract
from fss.lab.bench.timing import Rows, timed
from fss.lab.cost import count
from fss.model import DANet
from fss.train import make_optimizer, train_step


@dataclass(frozen=True)
class Workload:
    """A training step to be timed, each part for some seconds: random weights, drawn pictures, one shot."""

    name: str
    config: DANetConfig
    size: int
    batch: int
    seconds: float


WORKLOADS = (
    Workload("lite0, 224 px, C = 64", DANetConfig.published(), 224, 8, 4),
    Workload(
        "ResNet-50, 473 px, C = 256", DANetConfig.published(backbone="resnet50", channels=256), 473, 2, seconds=15
    ),
)


@contextmanager
def _training(work: Workload) -> Iterator[Mapping[str, Callable[[], object]]]:
    """A training step and its parts, with a small cache that is gone afterwards."""
    torch.manual_seed(0)
    schedule = preset("quick")
    model = DANet(work.config, pretrained=False, dropout=schedule.dropout).train()
    optimizer = make_optimizer(model, schedule)
    drawn = open_dataset("shapes", split="train", fold=0, size=work.size)
    few = replace(drawn, images={name: ("0", "1") for name in drawn.classes[: work.batch]})
    stream = EpisodeStream(few, 1, 0, 100_000)  # more than any machine takes
    images = torch.rand(2 * work.batch, 3, work.size, work.size)
    masks = torch.zeros(2 * work.batch, work.size, work.size, dtype=torch.uint8)
    with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=folder):
        cached = CachedFeatures(model, few).batches(stream, work.batch)
        live = LiveFeatures(model, few).batches(stream, work.batch)
        held = next(cached)
        yield {
            "backbone": lambda: extract(model, images, masks),
            "head": lambda: train_step(model, optimizer, held, schedule.aux_weight),
            "cached_step": lambda: train_step(model, optimizer, next(cached), schedule.aux_weight),
            "live_step": lambda: train_step(model, optimizer, next(live), schedule.aux_weight),
        }


def steps(workloads: Sequence[Workload] = WORKLOADS) -> Rows:
    """Time a training step and its parts.

    ``head``: a step on a batch in memory. ``cached_step``: the same, read from the cache on disk.
    ``live_step``: the same, drawn and sent through the backbone in this process. ``backbone``: the
    features of that many pictures in memory.
    """
    rows = []
    for work in workloads:
        with _training(work) as parts:
            row = timed(work.seconds, **parts)
        ratio = row["cached_step_ms"] / row["head_ms"]
        rows.append({"name": work.name, "batch": work.batch, "cached_step_over_head": ratio, **row})
    return rows


def floor(workloads: Sequence[Workload] = WORKLOADS, side: int = 2048) -> Rows:
    """Set the head's time beside the least that its multiply-adds can take.

    They are those of a whole step, forward and backward, divided by the rate of a float32 matrix
    product of ``side`` x ``side`` on the same threads.
    """
    a, b = torch.rand(side, side), torch.rand(side, side)
    rows = []
    for work in workloads:
        with _training(work) as parts:
            row = timed(work.seconds, product=lambda: a @ b, head=parts["head"])
        adds = count(work.config, preset("quick").override({"size": work.size, "batch": work.batch}), ()).head
        least = row.pop("product_ms") * adds / side**3
        rows.append(
            {
                "name": work.name,
                "batch": work.batch,
                "giga_multiply_adds": adds / 1e9,
                "giga_a_second": adds / 1e6 / least,
                "floor_ms": least,
                "head_over_floor": row["head_ms"] / least,
                **row,
            }
        )
    return rows
