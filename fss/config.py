"""What can be chosen beside the network (see ``fss.arms``): data, scoring, training. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fss.arms import ARMS as ARMS, DANetConfig as DANetConfig, arm as arm
from fss.errors import InputError, nearest
from fss.settings import Settings, read_value

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class DataConfig(Settings):
    """Which pictures and classes of a data set are used: what differs between codebases.

    Attributes:
        lists: folder of lists: for fss1000, folder and semantic the classes of each split, for
            pascal5i HSNet's or PFENet's lists, or "scan" for the masks themselves; default: the
            lists that lie with the data, else none.
        classes: only these classes, separated by commas.
        allow_missing: go on without what a list names and the disk lacks, and say how much is left.
        novel: training pictures of pascal5i and semantic that also show a class of the test: keep
            them, those pixels as background (PFENet, HSNet), or drop them (BAM).
        min_pixels: pascal5i and semantic: a picture counts for a class from so many pixels of its
            mask on; default: for pascal5i 2048, as in PFENet, or as HSNet's lists have it, for
            semantic 1024.
    """

    lists: str | None = None
    classes: str | None = None
    allow_missing: bool = False
    novel: Literal["background", "drop"] = "background"
    min_pixels: int | None = None

    LEAST = {"min_pixels": 1}


@dataclass(frozen=True)
class Scoring(Settings):
    """What a prediction is compared with: another choice that codebases make differently.

    Attributes:
        at: compare at the "network"'s size, where picture and label are fitted into a square, or
            at the "label"'s own, to which the predicted mask is brought back (PFENet).
        void: "ignore" the pixels that a label leaves open (255), or count them as "background";
            the padding of the square never counts.
    """

    at: Literal["network", "label"] = "network"
    void: Literal["ignore", "background"] = "ignore"


@dataclass(frozen=True)
class TrainConfig(Settings):
    """How a network is trained. Everything that the result depends on besides data and network.

    Attributes:
        steps: optimiser steps, or ``None`` for what ``epochs`` make.
        epochs: passes over the training pictures, one episode a picture; used if no steps are set.
        batch: episodes a step.
        shots: support pictures an episode.
        size: side of the square pictures in pixels.
        optimizer: ``"adamw"`` (betas 0.9 and 0.98) or ``"sgd"`` (momentum 0.9).
        lr: peak learning rate, decayed by (1 - step / steps) ** 0.9.
        warmup: steps of linear warm-up.
        lr_multiplier: factor on the head's rate; PFENet's released code uses 10.
        weight_decay: of the optimiser.
        dropout: share of the reduced channels (Eq. 4) that are dropped; PFENet: 0.5. 0 drops
            nothing anywhere.
        aux_weight: factor on the mean of the decoder's inner losses.
        iou_weight: factor on the soft IoU loss beside the cross-entropy, which alone says too
            little object for a measure by IoU.
        absent: share of the training episodes whose support is of a class that the query does not
            show, so that nothing is to be found.
        augment: ``"none"`` or ``"paper"`` (scale, rotate, blur, flip and crop, drawn anew).
        cache: read the frozen features from a cache on disk instead of extracting them each step.
        precision: ``"float32"``, or mixed with ``"bfloat16"`` or, on a GPU alone, ``"float16"``.
            Most CPUs are many times slower in these formats. Attention scores without a scale,
            as published, may leave the range of float16. Validation is always in float32.
        seed: of initial weights, episodes, augmentation and dropout.
        val_every: steps between two validations; the last step always validates.
        val_episodes: episodes of the fixed validation list.
    """

    steps: int | None = 2800
    epochs: int = 200
    batch: int = 4
    shots: int = 1
    size: int = 224
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 4e-3
    warmup: int = 100
    lr_multiplier: float = 1.0
    weight_decay: float = 1e-4
    dropout: float = 0.1
    aux_weight: float = 1.0
    iou_weight: float = 0.0
    absent: float = 0.0
    augment: Literal["none", "paper"] = "none"
    cache: bool = True
    precision: Precision = "float32"
    seed: int = 0
    val_every: int = 700
    val_episodes: int = 200

    LEAST = dict(
        steps=1,
        epochs=1,
        batch=1,
        shots=1,
        size=32,
        lr=0,
        warmup=0,
        lr_multiplier=0,
        weight_decay=0,
        dropout=0,
        aux_weight=0,
        iou_weight=0,
        seed=0,
        val_every=1,
        val_episodes=1,
        absent=0,
    )
    MOST = {"dropout": 0.95, "absent": 0.9}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache and self.augment == "paper":
            raise InputError(
                "TrainConfig.cache = True with augment = 'paper': a cache holds fixed pictures; "
                "set cache=False or augment='none'"
            )


PRESETS: Mapping[str, TrainConfig] = {
    "quick": TrainConfig(steps=1800, lr=2e-3, iou_weight=1.0, val_every=900),
    "paper": TrainConfig(
        steps=None,
        epochs=200,
        batch=4,
        size=473,
        optimizer="sgd",
        lr=2.5e-3,
        warmup=0,
        weight_decay=1e-4,
        dropout=0.5,
        augment="paper",
        cache=False,
        val_every=5000,
        val_episodes=1000,
    ),
}
"""``quick``: minutes on two CPU cores. ``paper``: the schedule of the paper and of PFENet, whose
network is set apart from it: ``backbone=resnet50 channels=256``, as ``fss reproduce`` does."""


def preset(name: str) -> TrainConfig:
    """Return a named training preset."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; {nearest(name, PRESETS)}")
    return PRESETS[name]


def with_settings(
    config: DANetConfig, schedule: TrainConfig, settings: Sequence[str]
) -> tuple[DANetConfig, TrainConfig]:
    """Apply NAME=VALUE settings to the one of the two that has the name, or raise InputError.

    >>> config, schedule = with_settings(arm("lda"), preset("quick"), ["scaled=true", "steps=500"])
    >>> config.scaled, schedule.steps
    (True, 500)
    """
    known = [*config.to_json(), *schedule.to_json()]
    chosen: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: write NAME=VALUE")
        if name not in known:
            raise InputError(f"--set {setting}: no setting {name!r}; {nearest(name, known)}")
        chosen[name] = read_value(text)
    network = {name: value for name, value in chosen.items() if name in config.to_json()}
    return config.override(network), schedule.override({n: v for n, v in chosen.items() if n not in network})
