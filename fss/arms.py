"""What defines a network, and the arms: networks by name, the rows of an ablation. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from fss.errors import InputError, nearest
from fss.settings import Settings

BackboneName = Literal[
    "efficientnet_lite0", "efficientnet_lite1", "resnet50", "resnet50_deep", "resnet101", "vgg16_bn", "timm:", "own"
]


@dataclass(frozen=True)
class DANetConfig(Settings):
    """Everything that defines a network. ``DANetConfig()`` is ``DANetConfig.published()``.

    Attributes:
        backbone: frozen feature extractor; ``"resnet50_deep"`` is PFENet's ResNet-50, ``"timm:NAME"`` one of
            timm, ``"own"`` one that was passed as ``DANet(config, backbone=...)``.
        channels: C after the reduction of Eq. 4 (256 in the paper).
        lda: light-dense attention; without it the features go straight to the reduction.
        dense: the module of Eq. 5: ``"dense"``, or one of yours; see ``fss.attention.register``.
        pca: prototypical channel attention; without it the prototype is a masked average.
        prior: where PFENet's prior mask comes from: block4 of the support, masked afterwards
            (``"masked_features"``), or block4 run on the masked block3 (``"masked_input"``,
            PFENet's own), or ``None``; or ``"relations"``, ten maps instead of one, of what the
            support's labels say about each place (see ``fss.relations``).
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
        prototypes: how many the object's features are gathered into, as superpixels, of which each place of
            the query is given the most similar one (ASGNet, Li et al., CVPR 2021). 1: one for all places.
    """

    backbone: BackboneName = "efficientnet_lite0"
    channels: int = 64
    lda: bool = True
    pca: bool = True
    prior: Literal["masked_features", "masked_input", "relations"] | None = "masked_features"
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
    prototypes: int = 1

    LEAST = {"channels": 1, "fem_bins": 1, "prototypes": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pca and self.prototypes > 1:
            raise InputError(
                f"DANetConfig.prototypes = {self.prototypes} with pca = True: channel attention makes one prototype; "
                "set pca=False or prototypes=1"
            )

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
        """Attention that carries the support's labels, instead of its features."""
        return cls(lda=False, pca=False, prior="relations").override(overrides)

    @classmethod
    def pfenet(cls, **overrides: Any) -> Self:
        """PFENet (Tian et al., 2020), the baseline of the paper's Table 3."""
        return cls(lda=False, pca=False, prior="masked_input", decoder="fem", mask_before_reduce=False).override(
            overrides
        )

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
    "prototypes-5": DANetConfig.published(lda=False, pca=False, prototypes=5),
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
