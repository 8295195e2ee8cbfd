"""A step of the paper's training at full size: its parts, its memory, and its resumption."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from fss.arms import BackboneName
from fss.config import DANetConfig, preset
from fss.data import open_dataset
from fss.data.transforms import PaperAugmentation
from fss.engine import start
from fss.episodes import EpisodeStream
from fss.features import LiveFeatures
from fss.lab.bench.timing import Rows, T, in_new_process, peak_mb
from fss.model import DANet
from fss.run import LAST, RunFolder
from fss.train import make_optimizer, take_step


def full_size(
    backbones: Sequence[BackboneName] = ("resnet50", "resnet101", "vgg16_bn"),
    channels: int = 256,
    size: int = 473,
) -> Rows:
    """Take two steps of preset ``paper`` with one episode each, the second in a resumed run.

    Each backbone runs in a new process, whose memory at its peak is given after either step.
    """
    return [in_new_process(two_steps, name, channels, size) for name in backbones]


def two_steps(backbone: BackboneName, channels: int, size: int) -> dict[str, Any]:
    """Return times and memory of one backbone's two steps, on drawn pictures.

    ``backbone`` is the frozen part with the drawing and augmenting of two pictures; ``head`` the
    rest of the step, forward, backward and the optimiser.
    """
    schedule = preset("paper").override({"size": size, "batch": 1, "steps": 2})
    drawn = open_dataset("shapes", split="train", fold=0, size=size)
    few = replace(drawn, images={name: ("0", "1") for name in drawn.classes[:2]})
    stream = EpisodeStream(few, schedule.shots, schedule.seed, 2)
    accelerator = start()
    row: dict[str, Any] = {"name": f"{backbone}, {size} px, C = {channels}", "batch": 1}
    with TemporaryDirectory() as folder:
        for step in range(2):
            torch.manual_seed(0)
            config = DANetConfig.published(backbone=backbone, channels=channels)
            model = DANet(config, pretrained=False, dropout=schedule.dropout)
            for layer, module in model.backbone.named_modules():
                if layer.endswith("bn3"):  # else random residuals outgrow half precision
                    nn.init.zeros_(module.weight)
            optimizer = accelerator.prepare(make_optimizer(model, schedule))
            run = RunFolder(Path(folder), model, optimizer, {"train": schedule.to_json()}, accelerator)
            resumed, _ = _timed(run.begin, resume=True)
            source = LiveFeatures(model, few, augment=PaperAugmentation(size), seed=schedule.seed)
            features, batch = _timed(next, source.batches(stream, 1, start=step))
            head, _ = _timed(take_step, model, optimizer, batch, schedule, step, 2, accelerator)
            run.step = step + 1
            saved, _ = _timed(run.save)
            if step == 0:
                row |= {"backbone_ms": features, "head_ms": head, "save_ms": saved}
                row |= {"file_mb": (Path(folder) / LAST).stat().st_size / 1e6, "peak_mb": peak_mb()}
            else:
                row |= {"resume_ms": resumed, "resumed_peak_mb": peak_mb(), "repeats": 1}
    return row


def _timed(do: Callable[..., T], *given: Any, **named: Any) -> tuple[float, T]:
    """Milliseconds of a call, and what it returned."""
    begin = time.perf_counter()
    done = do(*given, **named)
    return 1e3 * (time.perf_counter() - begin), done
