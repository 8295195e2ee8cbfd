"""What can be chosen: the network, its arms, its training. Plain data; imports no torch."""

import json
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from fss.errors import InputError, closest, nearest

BackboneName = Literal["efficientnet_lite0", "resnet50", "resnet50_deep", "resnet101", "vgg16_bn", "own"]
Prior = Literal["masked_features", "masked_input", "relations"]
Precision = Literal["float32", "float16", "bfloat16"]


def _choices(hint: Any) -> list[Any]:
    """The types and values that a type hint admits: its unions and literals, taken apart."""
    if get_origin(hint) in (Union, types.UnionType, Literal):
        return [choice for part in get_args(hint) for choice in _choices(part)]
    return [hint]


def _admits(choice: Any, value: Any) -> bool:
    """Whether ``value`` is this choice, or of this type (an int may be a float, a bool no int)."""
    if not isinstance(choice, type):
        return bool(value == choice)
    if isinstance(value, bool):
        return choice is bool
    return isinstance(value, int | float if choice is float else choice)


class Settings:
    """Frozen settings whose values are checked when made and that read and write JSON."""

    LEAST: ClassVar[Mapping[str, float]] = {}  # the smallest number that a setting may have
    MOST: ClassVar[Mapping[str, float]] = {}  # the largest number

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name, value in self.to_json().items():
            setting, choices = f"{type(self).__name__}.{name} = {value!r}", _choices(hints[name])
            if not any(_admits(choice, value) for choice in choices):
                words = ", ".join(choice.__name__ if isinstance(choice, type) else repr(choice) for choice in choices)
                names = [choice for choice in choices if isinstance(choice, str)]
                meant = closest(value, names) if isinstance(value, str) else None
                hint = f"; did you mean {meant!r}?" if meant else ""
                raise InputError(f"{setting}: use {words.replace(', NoneType', ' or None')}{hint}")
            least, most = self.LEAST.get(name), self.MOST.get(name, sys.float_info.max)
            if least is not None and value is not None and not least <= value <= most:  # so written, refuses nan
                raise InputError(f"{setting}: use {least} {f'to {most}' if name in self.MOST else 'or more'}")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dict of JSON values."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Make the settings from what ``to_json`` gave; a name it does not know is an error.

        A setting that is missing is younger than the file, which was made with what is the default
        today: a new setting's default is the old behaviour.
        """
        return cls().override(values)

    def override(self, settings: Mapping[str, Any]) -> Self:
        """Return a copy with some settings replaced; unknown names and bad values are errors."""
        for name in settings:
            if name not in self.to_json():
                raise InputError(f"{type(self).__name__} has no setting {name!r}; {nearest(name, self.to_json())}")
        return replace(self, **settings)  # type: ignore[type-var]


@dataclass(frozen=True)
class DANetConfig(Settings):
    """Everything that defines a network. ``DANetConfig()`` is ``DANetConfig.published()``.

    Attributes:
        backbone: frozen feature extractor; ``"resnet50_deep"`` is PFENet's ResNet-50, ``"own"`` one
            that was passed as ``DANet(config, backbone=...)``.
        channels: C after the reduction of Eq. 4 (256 in the paper).
        lda: light-dense attention; without it the features go straight to the reduction.
        dense: the module of Eq. 5: ``"dense"``, or one of yours; see ``fss.attention.register``.
        pca: prototypical channel attention; without it the prototype is a masked average.
        prior: where PFENet's prior mask comes from: block4 of the support, masked afterwards
            (``"masked_features"``), or block4 run on the masked block3 (``"masked_input"``,
            PFENet's own), or ``None``; or ``"relations"``, eight maps of what the support's labels
            say of each place instead of one (see ``fss.relations``).
        taps: what the reduction of Eq. 4 is given: ``"both"`` blocks, joined as published, or
            ``"block2"`` alone.
        decoder: ``"ppm"``, the pyramid pooling of the paper, or ``"fem"``, PFENet's.
        fem_bins: bins a side of the FEM's finest scale, each further one having half as many;
            60 in PFENet's published networks. ``None``: as many as the features have positions,
            which are 60 at 473 px.
        value: what the attention carries: features of the ``"query"``, as published, or of the
            ``"support"``.
        scaled: divide attention scores by the square root of a token's length.
        mask_background: keep masked-out support positions out of the attention's softmax.
        masked_pool: take Eq. 7's softmax over the object's positions only.
        mask_before_reduce: mask the support before the reduction (Eq. 1, 4), not only when
            averaging (PFENet).
        without_support: set the support's features and mask to zero.
    """

    backbone: BackboneName = "efficientnet_lite0"
    channels: int = 64
    lda: bool = True
    pca: bool = True
    prior: Prior | None = "masked_features"
    taps: Literal["both", "block2"] = "both"
    decoder: Literal["ppm", "fem"] = "ppm"
    fem_bins: int | None = None
    value: Literal["query", "support"] = "query"
    scaled: bool = False
    mask_background: bool = False
    masked_pool: bool = False
    mask_before_reduce: bool = True
    dense: str = "dense"
    without_support: bool = False

    LEAST = {"channels": 1, "fem_bins": 1}

    @classmethod
    def published(cls, **overrides: Any) -> Self:
        """DANet as the paper writes it, its shapes put right; docs/paper.md lists every choice."""
        return cls().override(overrides)

    @classmethod
    def intended(cls, **overrides: Any) -> Self:
        """DANet as its text means it: support values, scaled, the background left out."""
        return cls(value="support", scaled=True, mask_background=True, masked_pool=True).override(overrides)

    @classmethod
    def best(cls, **overrides: Any) -> Self:
        """What pays: attention that carries the support's labels, instead of its features."""
        return cls(lda=False, pca=False, prior="relations").override(overrides)

    @classmethod
    def pfenet(cls, **overrides: Any) -> Self:
        """PFENet (Tian et al., 2020), the baseline of the paper's Table 3."""
        own = dict(decoder="fem", prior="masked_input", mask_before_reduce=False)
        return cls(lda=False, pca=False).override(own | overrides)

    @classmethod
    def blind(cls, **overrides: Any) -> Self:
        """The arm ``base`` without its support: what the query alone gives away, a control."""
        return cls(lda=False, pca=False, without_support=True).override(overrides)


ARMS: Mapping[str, DANetConfig] = {
    "base": DANetConfig.published(lda=False, pca=False),
    "pca": DANetConfig.published(lda=False),
    "lda": DANetConfig.published(pca=False),
    "published": DANetConfig.published(),
    "intended": DANetConfig.intended(),
    "pfenet": DANetConfig.pfenet(),
    "blind": DANetConfig.blind(),
    "best": DANetConfig.best(),
}
"""The rows of an ablation by name. Except for PFENet and best, all share decoder and prior: a difference
between two rows is the module's."""


def arm(name: str) -> DANetConfig:
    """Return the config of a named arm.

    >>> arm("lda").lda, arm("lda").pca
    (True, False)
    """
    if name not in ARMS:
        raise InputError(f"unknown arm {name!r}; {nearest(name, ARMS)}")
    return ARMS[name]


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
        augment: ``"none"`` or ``"paper"`` (scale, rotate, blur, flip and crop, drawn anew).
        cache: read the frozen features from a cache on disk instead of extracting them each step.
        precision: ``"float32"``, or mixed with ``"bfloat16"`` or, on a GPU alone, ``"float16"``.
            Most processors are many times slower so. Scores that nothing scales, as published,
            may leave the range of float16. Validation is in float32 always.
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
    )
    MOST = {"dropout": 0.95}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache and self.augment == "paper":
            raise InputError(
                "TrainConfig.cache = True with augment = 'paper': a cache holds fixed pictures; "
                "set cache=False or augment='none'"
            )


PRESETS: Mapping[str, TrainConfig] = {
    "quick": TrainConfig(),
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


def read_value(text: str) -> Any:
    """Return the value that a user wrote: a number, true, false or none, or else a word."""
    try:
        return json.loads({"none": "null"}.get(text.lower(), text.lower()))
    except ValueError:
        return text
