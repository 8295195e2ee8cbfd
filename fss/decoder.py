"""From merged features to logits: the pyramid pooling module and PFENet's enrichment module.

Both take the attended query [B,C,H,W], one prototype [B,C] or one a place [B,C,H,W], and, where the
network has one, the prior [B,P,H,W]. They return ``(logits [B,2,H,W], inner)``, where ``inner`` holds
the logits of the inner losses (empty for the PPM). Neither has a BatchNorm: batches of one and several
processes must work. The PPM has GroupNorm where PSPNet has BatchNorm; the FEM has no norm, as in PFENet.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fss.resize import resize

DecoderOutput = tuple[Float[Tensor, "B 2 H W"], list[Tensor]]


def _conv(inputs: int, outputs: int, kernel: int = 1, *, norm: bool = False) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    norms = [nn.GroupNorm(math.gcd(8, outputs), outputs)] if norm else []
    return nn.Sequential(conv, *norms, nn.ReLU())


def _comparison(channels: int, prior: int, *, norm: bool = False) -> nn.Sequential:
    """The convolution over query, prototype and prior; it starts with query minus prototype.

    Where both are features of one kind, the difference tells an unseen class as well as a seen one,
    and the training need not find that out first.
    """
    layers = _conv(2 * channels + prior, channels, norm=norm)
    weight = layers[0].get_parameter("weight")
    with torch.no_grad():
        weight[:, channels : 2 * channels] = -weight[:, :channels]
    return layers


class _Refine(nn.Sequential):
    """Two 3x3 convolutions, whose output is added to the input."""

    def __init__(self, channels: int, *, norm: bool = False) -> None:
        super().__init__(*(_conv(channels, channels, 3, norm=norm) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


def _classifier(channels: int, dropout: float, *, norm: bool = False) -> nn.Sequential:
    return nn.Sequential(_conv(channels, channels, 3, norm=norm), nn.Dropout2d(dropout), nn.Conv2d(channels, 2, 1))


def _merge(query: Tensor, prototype: Tensor, prior: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Concatenate the query and its places' prototypes, pooled to ``size``, and the resized prior."""
    if prototype.dim() == 2:
        prototype = prototype[:, :, None, None].expand(-1, -1, *size)
    parts = [
        map_ if tuple(map_.shape[-2:]) == size else F.adaptive_avg_pool2d(map_, size) for map_ in (query, prototype)
    ]
    if prior is not None:
        parts.append(resize(prior, size, aligned=True))
    return torch.cat(parts, dim=1)


class PyramidPooling(nn.Module):
    """Pyramid pooling decoder (PSPNet, Zhao et al., 2017): averages over 1, 2, 3 and 6 bins a side.

    Args:
        channels: C.
        prior: channels of the prior that ``forward`` gets; 0: none.
        dropout: of the classifier's channels.
    """

    bins = (1, 2, 3, 6)  # cells a side of each pooled map

    def __init__(self, channels: int, *, prior: int, dropout: float = 0.1) -> None:
        super().__init__()
        branch = max(1, channels // len(self.bins))
        self.merge = _comparison(channels, prior, norm=True)
        # No norm in the branches: a map of one cell has nothing to be normalised over.
        self.branches = nn.ModuleList(_conv(channels, branch) for _ in self.bins)
        self.fuse = _conv(channels + branch * len(self.bins), channels, 3, norm=True)
        self.refine = _Refine(channels, norm=True)
        self.classify = _classifier(channels, dropout, norm=True)

    def forward(
        self,
        query: Float[Tensor, "B C H W"],
        prototype: Float[Tensor, "B C"] | Float[Tensor, "B C H W"],
        prior: Float[Tensor, "B P H W"] | None,
    ) -> DecoderOutput:
        """Return the logits at the size of the features, and no inner logits."""
        size = (query.shape[2], query.shape[3])
        x = self.merge(_merge(query, prototype, prior, size))
        pyramid = [
            resize(branch(F.adaptive_avg_pool2d(x, bins)), size, aligned=False)
            for bins, branch in zip(self.bins, self.branches, strict=True)
        ]
        x = self.fuse(torch.cat([x, *pyramid], dim=1))
        return self.classify(self.refine(x)), []


class FeatureEnrichment(nn.Module):
    """PFENet's feature enrichment module (Tian et al., 2020): four scales, coarser from finer.

    A scale i has 1/2^i of the features' height and width, rounded up: 60, 30, 15 and 8 at 473 px,
    the bins of the published code, which has them at every size (``bins=60``).

    Args:
        channels: C.
        prior: channels of the prior that ``forward`` gets; 0: none.
        bins: height and width of the finest scale; ``None``: the features' own.
        dropout: of the classifiers' channels.
    """

    scales = 4

    def __init__(self, channels: int, *, prior: int, bins: int | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        self.bins = bins
        self.merges = nn.ModuleList(_comparison(channels, prior) for _ in range(self.scales))
        self.interact = nn.ModuleList(_conv(2 * channels, channels) for _ in range(self.scales - 1))
        self.refines = nn.ModuleList(_Refine(channels) for _ in range(self.scales))
        self.inner = nn.ModuleList(_classifier(channels, dropout) for _ in range(self.scales))
        self.fuse = _conv(self.scales * channels, channels)
        self.refine = _Refine(channels)
        self.classify = _classifier(channels, dropout)

    def forward(
        self,
        query: Float[Tensor, "B C H W"],
        prototype: Float[Tensor, "B C"] | Float[Tensor, "B C H W"],
        prior: Float[Tensor, "B P H W"] | None,
    ) -> DecoderOutput:
        """Return the logits at the size of the features, and those of every scale's inner loss."""
        full = (query.shape[2], query.shape[3])
        finest = full if self.bins is None else (self.bins, self.bins)
        pyramid: list[Tensor] = []
        inner = []
        for i, (merge, refine, classify) in enumerate(zip(self.merges, self.refines, self.inner, strict=True)):
            size = (math.ceil(finest[0] / 2**i), math.ceil(finest[1] / 2**i))
            x = merge(_merge(query, prototype, prior, size))
            if i > 0:
                finer = resize(pyramid[-1], size, aligned=True)
                x = self.interact[i - 1](torch.cat([x, finer], dim=1)) + x
            x = refine(x)
            inner.append(classify(x))
            pyramid.append(resize(x, full, aligned=True))
        x = self.fuse(torch.cat(pyramid, dim=1))
        return self.classify(self.refine(x)), inner
