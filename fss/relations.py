"""How a query relates to a labelled support: eight maps of one number a place, whatever the class.

Features of a few dozen training classes are learnt by heart; these maps hold none. Each says how
much a place of the query looks like the object rather than like what surrounds it, by cosines of
the frozen backbone's features, and a decoder that reads them works for a class it never saw.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fss.attention import CHUNK, Tokens, attention_weights
from fss.resize import resize

DEPTHS = (3, 4)  # block2 adds nothing (measured), and would take most of the time
TEMPERATURE = 20.0  # inverse; where the learnt one starts
CONTRAST = 4.0  # brings differences of cosines to the spread of the other maps
STEEPNESS, THRESHOLD = 3.0, 0.7  # of the first guess: how soon it is sure, and from where on
SURE = 0.6  # a place counts fully for the query's own prototypes above it, or below 1 - SURE
UNSURE = 1e-3  # the weight of the other places: they decide only where no place is sure
GROUND = 0.5  # of the support's surroundings beside the query's own: they differ more than objects


class Labelled(NamedTuple):
    """Support features of one depth and the object's share of each place."""

    features: Float[Tensor, "B K C h w"]  # masked nowhere
    mask: Float[Tensor, "B K 1 h w"]


class MaskAttention(nn.Module):
    r"""Every query place takes the labels of the support places that it resembles.

    .. math:: P_i = \sum_j \mathrm{softmax}_j(\tau \cos(q_i, s_j))\, M_j

    Attention whose value is the support mask (DCAMA, Shi et al., ECCV 2022), over the places of all
    shots at once, object or not: a place that resembles the surroundings is told so.

    Args:
        centred: take the mean of the query and of the support from the features first; what all
            places share says nothing of their differences.

    Attributes:
        log_temperature: the logarithm of the factor tau, learnt.
    """

    def __init__(self, *, centred: bool) -> None:
        super().__init__()
        self.centred = centred
        self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))

    def forward(
        self, query: Float[Tensor, "B C h w"], support: Labelled, *, need_map: bool = False
    ) -> tuple[Float[Tensor, "B 1 h w"], Float[Tensor, "B K n n"] | None]:
        """Return the attended mask, 0..1, and the map where asked for, or None.

        The map's rows sum to one over all places of all shots. Without it no n x Kn map is built in
        inference.
        """
        shots = support.features.shape[1]
        tokens = self.tokens(query, support)
        q, s, scale = tokens.query.squeeze(1), tokens.key.squeeze(1), tokens.scale
        labels = support.mask.flatten(1).unsqueeze(-1)  # B,Kn,1
        weights = None
        if need_map:
            weights = attention_weights(q, s, scale=scale)
            attended = weights @ labels
            weights = weights.unflatten(2, (shots, -1)).transpose(1, 2)
        else:
            rows = q.split(CHUNK, dim=1)
            attended = torch.cat([attention_weights(part, s, scale=scale) @ labels for part in rows], dim=1)
        return attended.transpose(1, 2).unflatten(2, query.shape[2:]), weights

    def tokens(self, query: Float[Tensor, "B C h w"], support: Labelled) -> Tokens:
        """Return what the map is made of: query [B,1,n,C] and, of all shots, keys [B,1,Kn,C]."""
        q = query.flatten(2).transpose(1, 2)  # B,n,C
        s = support.features.flatten(3).transpose(2, 3).flatten(1, 2)  # B,Kn,C
        if self.centred:
            mean = (q.mean(1, keepdim=True) + s.mean(1, keepdim=True)) / 2
            q, s = q - mean, s - mean
        q, s = F.normalize(q, dim=-1), F.normalize(s, dim=-1)
        return Tokens(q.unsqueeze(1), s.unsqueeze(1), self.log_temperature.exp(), None)


class Relations(nn.Module):
    """Eight maps of the query by what the support's labels say of it.

    Of block3 and of block4 each: the attended mask (``MaskAttention``), as it is and centred; the
    cosine to the object's prototype minus that to the background's; and the same once more with
    prototypes that take in the query's own places of which the first maps are sure (self-support;
    Fan et al., ECCV 2022): the query resembles itself most.

    Args:
        aligned: how the backbone's pictures are resized; see ``fss.resize``.
    """

    CHANNELS = 8

    def __init__(self, *, aligned: bool) -> None:
        super().__init__()
        self.attend = nn.ModuleList(
            nn.ModuleList(MaskAttention(centred=centred) for centred in (False, True)) for _ in DEPTHS
        )
        self.aligned = aligned

    def forward(
        self,
        query: Sequence[Float[Tensor, "B C h w"]],
        support: Sequence[Labelled],
        size: tuple[int, int],
        *,
        need_maps: bool = False,
    ) -> tuple[Float[Tensor, "B 8 H W"], dict[str, Tensor]]:
        """Compare a query's block3 and block4 with the labelled support's.

        Returns:
            The maps at ``size``: attended masks of block3 and block4, each as it is and centred,
            then four contrasts; and, where asked for, the centred attention on its own grid,
            ``match3_by_shot`` [B,K,n,n] and ``match4_by_shot``.
        """
        attended, maps = [], {}
        for depth, pair, q, labelled in zip(DEPTHS, self.attend, query, support, strict=True):
            for attend in pair:  # type: ignore[attr-defined]
                mask, weights = attend(q, labelled, need_map=need_maps and attend.centred)
                attended.append(self._resize(mask, size))
                if weights is not None:
                    maps[f"match{depth}_by_shot"] = weights
        pooled = [
            (q, pool(features, mask), pool(features, 1 - mask))
            for q, (features, mask) in zip(query, support, strict=True)
        ]
        contrasts = [self._resize(cosine(q, o) - cosine(q, g), size) for q, o, g in pooled]
        centred = attended[1] + attended[3]
        guess = centred - THRESHOLD + torch.stack(contrasts).sum(0)
        sure = (STEEPNESS * guess).sigmoid().detach()
        again = [self._resize(contrast, size) for contrast in self._self_support(pooled, sure)]
        scaled = [CONTRAST * contrast for contrast in contrasts + again]
        return torch.cat(attended + scaled, dim=1), maps

    def tokens(self, query: Sequence[Tensor], support: Sequence[Labelled]) -> dict[str, Tokens]:
        """Return what the two maps are made of, by depth: ``match3`` and ``match4``."""
        return {
            f"match{depth}": pair[1].tokens(q, labelled)  # type: ignore[index]
            for depth, pair, q, labelled in zip(DEPTHS, self.attend, query, support, strict=True)
        }

    def _resize(self, map_: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(map_, size, aligned=self.aligned)

    @staticmethod
    def _self_support(
        pooled: Sequence[tuple[Tensor, Tensor, Tensor]], guess: Float[Tensor, "B 1 H W"]
    ) -> Iterator[Tensor]:
        for q, object_, ground in pooled:
            share = F.adaptive_avg_pool2d(guess, (q.shape[-2], q.shape[-1])).unsqueeze(1)
            own = q.unsqueeze(1)
            own_object = pool(own, share * (share > SURE) + UNSURE * share)
            own_ground = pool(own, (1 - share) * (share < 1 - SURE) + UNSURE * (1 - share))
            yield cosine(q, F.normalize(object_) + F.normalize(own_object)) - cosine(
                q, GROUND * F.normalize(ground) + F.normalize(own_ground)
            )


def pool(features: Float[Tensor, "B K C h w"], weight: Float[Tensor, "B K 1 h w"]) -> Float[Tensor, "B C"]:
    """Weighted mean over the places of all shots together; zeros where no place has weight."""
    return (features * weight).sum((1, 3, 4)) / weight.sum((1, 3, 4)).clamp_min(1e-6)


def cosine(query: Float[Tensor, "B C h w"], prototype: Float[Tensor, "B C"]) -> Float[Tensor, "B 1 h w"]:
    """Cosine of each place with a prototype; 0 for one of zeros."""
    return F.cosine_similarity(query, prototype[..., None, None], dim=1).unsqueeze(1)
