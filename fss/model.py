"""DANet: features, two attentions, a prototype and a decoder; PFENet and every arm by config.

``forward`` is ``segment(query, encode_support(support, mask))``: a support set is encoded once and
serves any number of queries, with any number of shots. The methods ending in ``_features`` do the
same from backbone features, which training keeps in a cache.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fss.attention import (
    DenseAttention,
    LightAttention,
    PrototypicalChannelAttention,
    Tokens,
    build_attention,
    masked_average,
)
from fss.backbones import Backbone, Features, load_backbone
from fss.config import DANetConfig
from fss.data.pictures import IGNORE
from fss.decoder import FeatureEnrichment, PyramidPooling
from fss.errors import InputError
from fss.prototypes import Prototypes, allocate, superpixels
from fss.relations import Labelled, Relations, prior_mask
from fss.resize import Size, resize, share_of

SQUEEZED = 16  # channels between the two convolutions of Eq. 6, as in the paper; roughly as many for any C

__all__ = ["DANet", "DANetConfig", "Prediction", "SupportCode", "prior_mask"]


@dataclass(frozen=True)
class Prediction:
    """What the network says of a query.

    Attributes:
        logits: [B,2,H,W] at the size of the pictures: background, foreground.
        attention: the maps that exist, by name: ``rows`` [B,H,H], ``cols`` [B,W,W], ``dense``
            [B,N,N] (means over the shots) and each with ``_by_shot`` [B,K,..]; ``weights``
            [B,K,C,H,W]; ``prior`` [B,1,H,W]. With ``prior="relations"`` also ``relations``
            [B,10,H,W], ``match3_by_shot`` and ``match4_by_shot`` (see ``fss.relations``); the
            prior is then the mean of the attended masks. Empty unless asked for.
        aux: logits of the decoder's inner losses, each at its own size.
    """

    logits: Float[Tensor, "B 2 H W"]
    attention: dict[str, Tensor] = field(default_factory=dict)
    aux: list[Tensor] = field(default_factory=list)

    def mask(self) -> Tensor:
        """Return the predicted labels [B,H,W]: 1 foreground, 0 background."""
        background, object_ = self.logits.unbind(dim=1)
        return (object_ > background).long()  # argmax over two channels, many times as fast


class SupportCode(NamedTuple):
    """An encoded support set: all that a query needs of it."""

    block2: Float[Tensor, "B K C2 H W"]  # L_s, masked
    reduced: Float[Tensor, "B K C H W"]  # D_s
    mask: Float[Tensor, "B K 1 H W"]
    prototype: Float[Tensor, "B C"]
    weights: Float[Tensor, "B K C H W"] | None
    block4: Float[Tensor, "B K C4 H4 W4"] | None  # masked; for PFENet's prior
    labelled: tuple[Labelled, ...] = ()  # block3 and block4; for the relations
    parts: Prototypes | None = None  # several prototypes [B,P,C] and their weights [B,P]


class DANet(nn.Module):
    """The Dual-Attention Network for few-shot segmentation (Chen et al.), and its arms.

    Args:
        config: which parts, and how they are read; see ``DANetConfig``.
        pretrained: ImageNet weights for the frozen backbone: ``True``, ``False`` or a file; see
            ``fss.backbones.load_backbone``, which also says what it raises.
        backbone: one of yours, in place of the one that ``config`` names. A checkpoint does not hold
            it: pass it to ``fss.load`` again.
        dropout: of the reduced channels while training (PFENet: 0.5), and of the decoder's
            classifiers, there at most 0.1.

    Attributes:
        trained: what the checkpoint says of its training (data, size, steps ...); empty for a new
            network.
    """

    def __init__(
        self,
        config: DANetConfig,
        *,
        pretrained: bool | str | Path = True,
        backbone: Backbone | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.trained: dict[str, Any] = {}
        named = "own" if backbone else config.backbone
        if named == "own" and backbone is None:
            raise InputError("this network has a backbone of yours: pass it, as DANet or fss.load(..., backbone=...)")
        whole = backbone.block4 is None if backbone else named.startswith("timm:")  # cannot run block4 by itself
        if config.prior == "masked_input" and whole:
            raise InputError(f"prior = masked_input runs block4 by itself, which {named} cannot; take another prior")
        self.backbone = backbone or load_backbone(named, pretrained)
        # A file of weights can make a resnet50 a resnet50_deep.
        self.config = config = config.override({"backbone": self.backbone.name or named})
        c2, c3, _ = self.backbone.channels
        channels = config.channels
        self.light = self.dense = self.channel = None
        if config.lda:
            options: Any = dict(value=config.value, scaled=config.scaled, mask_background=config.mask_background)
            self.light = LightAttention(c2, **options)
            self.dense = build_attention(config.dense, channels, **options)
        if config.pca:
            reduction = max(1, channels // SQUEEZED)
            self.channel = PrototypicalChannelAttention(channels, reduction=reduction, masked=config.masked_pool)
        joined = c2 + c3 if config.taps == "both" else c2
        self.reduce_query = _reduction(joined, channels, dropout)
        self.reduce_support = _reduction(joined, channels, dropout)
        self.relations = Relations(aligned=self.backbone.aligned) if config.prior == "relations" else None
        maps = 0 if config.prior is None else Relations.CHANNELS if self.relations else 1
        self.decoder: nn.Module = PyramidPooling(channels, prior=maps, dropout=min(dropout, 0.1))
        if config.decoder == "fem":
            self.decoder = FeatureEnrichment(channels, prior=maps, bins=config.fem_bins, dropout=min(dropout, 0.1))
        self._start_by_comparing()

    @torch.no_grad()
    def _start_by_comparing(self) -> None:
        """Let a new network compare query and prototype from its first step on.

        Query and support are reduced alike, the attentions hand on what they get, and the decoder
        begins with the difference (see ``fss.decoder``). Through the channel attention's bottleneck
        only as many channels get as it is wide, the first ones; the other channels of the prototype
        start at 0. Each of these is where training starts, not a constraint: all weights are free.
        """
        self.reduce_support.load_state_dict(self.reduce_query.state_dict())
        spatial = (self.light, self.dense)
        convs = [part.value_proj for part in spatial if isinstance(part, LightAttention | DenseAttention)]
        if self.channel is not None:
            convs += [self.channel.squeeze, self.channel.expand]
        for conv in convs:
            nn.init.dirac_(conv.weight)
            nn.init.zeros_(conv.get_parameter("bias"))

    def forward(
        self,
        query: Float[Tensor, "B 3 h w"],
        support: Float[Tensor, "B K 3 h w"],
        mask: Tensor,
        *,
        need_maps: bool = False,
    ) -> Prediction:
        """Segment the query by the labelled support.

        Args:
            query: RGB in 0..1.
            support: RGB in 0..1.
            mask: [B,K,h,w], 1 = object; everything else (0, 255) is not.
            need_maps: fill ``Prediction.attention``; without it no N x N map is built.

        Raises:
            ValueError: shapes that do not fit together; the message says what to change.
        """
        return self.segment(query, self.encode_support(support, mask), need_maps=need_maps)

    def encode_support(self, support: Float[Tensor, "B K 3 h w"], mask: Tensor) -> SupportCode:
        """Encode a support set once, for any number of calls of ``segment``."""
        if support.dim() != 5 or support.shape[1] < 1:
            raise ValueError(
                f"expected support pictures [B,K,3,H,W], K >= 1, got {tuple(support.shape)}; "
                "for one shot use support.unsqueeze(1)"
            )
        if mask.shape != support.shape[:2] + support.shape[3:]:
            raise ValueError(
                f"mask {tuple(mask.shape)} does not fit support {tuple(support.shape)}: expected "
                "[B,K,H,W] with one label a pixel"
            )
        labels = mask.flatten(1)
        # As files store them, 0 and 255, or by a class number; 255 alone says that nothing is known.
        stored = (labels != 0).any(1) & ~((labels == 1).any(1) | (labels == IGNORE).all(1))
        if not (mask.is_meta or torch.compiler.is_compiling()) and stored.any():
            raise ValueError(
                f"the mask holds {labels[stored].amax().item():g} and no 1, which is the object's label (255 means "
                "unknown): nothing would be object; pass (mask > 0), or (mask == LABEL)"
            )
        return self.encode_features(self.support_features(support, mask), mask)

    def segment(self, query: Float[Tensor, "B 3 h w"], code: SupportCode, *, need_maps: bool = False) -> Prediction:
        """Segment a query by an encoded support set; the same logits as ``forward``."""
        return self.segment_features(self.backbone(query), code, query.shape[-2:], need_maps=need_maps)

    def support_features(self, support: Float[Tensor, "B K 3 h w"], mask: Tensor) -> Features:
        """Backbone features of a support set, each [B,K,C,H,W].

        With ``prior="masked_input"``, block4 is run on the masked block3.
        """
        features = self.backbone(support.flatten(0, 1))
        if self.config.prior == "masked_input":
            features = features._replace(block4=self.masked_block4(features.block3, mask.flatten(0, 1)))
        return Features(*(map_.unflatten(0, support.shape[:2]) for map_ in features))

    def masked_block4(self, block3: Float[Tensor, "B C H W"], mask: Tensor) -> Tensor:
        """Run block4 on block3 features masked by labels [B,h,w] (PFENet's order)."""
        assert self.backbone.block4 is not None  # as this network was built
        return self.backbone.block4(block3 * self._share(mask, block3))

    def encode_features(self, support: Features, mask: Tensor) -> SupportCode:
        """``encode_support`` from features [B,K,C,H,W] (masked nowhere) and labels [B,K,h,w]."""
        config = self.config
        if config.without_support:
            support, mask = Features(*(torch.zeros_like(map_) for map_ in support)), torch.zeros_like(mask)
        small = self._share(mask, support.block2)  # B,K,1,H,W
        block2, block3 = self._middle(support)
        masked2 = block2 * small  # Eq. 1
        if config.mask_before_reduce:
            block2, block3 = masked2, block3 * small
        joined = self._join(block2, block3)
        reduced = self.reduce_support(joined.flatten(0, 1)).unflatten(0, joined.shape[:2])  # D_s, Eq. 4
        weights = block4 = None
        labelled: tuple[Labelled, ...] = ()
        if self.channel is None:
            prototype = masked_average(reduced, small)
        else:
            prototype, (weights,) = self.channel(reduced, small)  # Eq. 6, 7
        if self.relations is not None:
            labelled = tuple(
                Labelled(map_, self._share(mask, map_), self._share(mask, map_, 0)) for map_ in support[1:]
            )
        elif config.prior is not None:
            block4 = support.block4 * self._share(mask, support.block4)
        parts = superpixels(reduced, small, config.prototypes) if config.prototypes > 1 else None
        return SupportCode(masked2, reduced, small, prototype, weights, block4, labelled, parts)

    def segment_features(
        self, query: Features, code: SupportCode, size: Size, *, need_maps: bool = False
    ) -> Prediction:
        """``segment`` from features of the query; ``size`` is that of the logits."""
        if query.block2.shape[0] != code.block2.shape[0]:
            raise ValueError(
                f"{query.block2.shape[0]} queries for {code.block2.shape[0]} support sets; "
                "repeat the support code, or pass one support set a query"
            )
        maps: dict[str, Tensor | None] = {"weights": code.weights}
        block2, block3 = self._middle(query)  # B,C2,H,W and B,C3,H,W
        if self.light is not None:
            block2, light = self.light(block2, code.block2, code.mask)  # F_light, Eq. 2, 3
            maps |= light._asdict()
        attended = self.reduce_query(self._join(block2, block3))  # D_q, Eq. 4: B,C,H,W
        if self.dense is not None:
            attended, dense = self.dense(attended, code.reduced, code.mask, need_map=need_maps)  # F_dense, Eq. 5
            maps |= {"dense": dense.dense, "dense_by_shot": dense.dense_by_shot}
        prior, found = self.prior(query, code, need_maps=need_maps)  # B,P,H,W
        prototype = code.prototype if code.parts is None else allocate(attended, *code.parts)
        logits, inner = self.decoder(attended, prototype, prior)  # B,2,H,W
        shown = {name: map_ for name, map_ in (maps | found).items() if map_ is not None}
        return Prediction(self._resize(logits, size), shown if need_maps else {}, inner)

    def prior(
        self, query: Features, code: SupportCode, *, need_maps: bool = False
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return the prior that the decoder gets, at the size of block2, and the maps to show of it.

        The maps are ``prior`` (none with ``prior=None``) and, with ``prior="relations"``, the others that
        ``Prediction`` lists; the attention over labels is among them only with ``need_maps``.
        """
        size = query.block2.shape[-2:]
        if code.block4 is not None:
            prior = self._resize(prior_mask(query.block4, code.block4), size)
            return prior, {"prior": prior}
        if self.relations is not None:
            maps, found = self.relations(query[1:], code.labelled, size, need_maps=need_maps)
            return maps, {"relations": maps, "prior": maps[:, :4].mean(1, keepdim=True)} | found
        return None, {}

    def tokens(self, query: Features, code: SupportCode) -> dict[str, Tokens]:
        """What the attention maps are made of, so that one row can be had without the whole map.

        Under the name of each: ``rows``, ``cols`` and ``dense``, or ``match3`` and ``match4`` (one
        softmax over the places of all shots); with the batch and the shots as of ``_by_shot``. A
        dense module of yours is among them if it has a method ``tokens``.
        """
        found: dict[str, Tokens] = {}
        block2, block3 = self._middle(query)
        if self.light is not None:
            found["rows"], found["cols"] = self.light.tokens(block2, code.block2, code.mask)
            block2, _ = self.light(block2, code.block2, code.mask)
        if tokens := getattr(self.dense, "tokens", None):
            found["dense"] = tokens(self.reduce_query(self._join(block2, block3)), code.reduced, code.mask)
        if self.relations is not None:
            found |= self.relations.tokens(query[1:], code.labelled)
        return found

    def _middle(self, features: Features) -> tuple[Tensor, Tensor]:
        """Block2 and block3 at the size of block2, brought to a spread of about one."""
        block2, block3 = features.block2, features.block3
        scale = 1 / self.backbone.spread
        return scale * block2, self._resize(scale * block3, block2.shape[-2:])

    def _join(self, block2: Tensor, block3: Tensor) -> Tensor:
        """Eq. 4's concatenation of the channels [...,C,H,W], or block2 alone; see ``taps``."""
        return torch.cat([block2, block3], dim=-3) if self.config.taps == "both" else block2

    def _resize(self, maps: Tensor, size: Size) -> Tensor:
        return resize(maps, size, aligned=self.backbone.aligned)

    def _share(self, mask: Tensor, like: Tensor, label: int = 1) -> Tensor:
        """Labels [...,h,w] -> object = 1 (or ground = 0; 255 is neither) on the grid of ``like``: [...,1,H,W]."""
        return share_of(mask, label, like, aligned=self.backbone.aligned)

    def head_state(self) -> dict[str, Tensor]:
        """Return all weights except the frozen backbone's: what training changes."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("backbone.")}


def _reduction(inputs: int, channels: int, dropout: float) -> nn.Sequential:
    """Eq. 4's 1x1 convolution, with PFENet's ReLU and dropout."""
    conv = nn.Conv2d(inputs, channels, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.ReLU(), nn.Dropout2d(dropout))
