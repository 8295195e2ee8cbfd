"""How a query relates to a labelled support: PFENet's prior, or ten maps with one number per place.

A network learns the features of a few dozen training classes by heart; these maps hold no features.
Eight of them say how much a place of the query resembles the object rather than what surrounds it, by
cosines of the frozen backbone's features; two say whether the query holds such an object at all. A
decoder that reads them works for a class it never saw.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fss.attention import CHUNK, Tokens, foreground
from fss.prototypes import cosine, directions, pool
from fss.resize import resize

DEPTHS = (3, 4)  # block2 would take most of the time
TEMPERATURE = 20.0  # inverse; where the learnt one starts
CONTRAST = 4.0  # brings differences of cosines to the spread of the other maps
STEEPNESS, THRESHOLD = 3.0, 0.7  # of the first guess: how soon it is sure, and from where on
SURE = 0.6  # a place counts fully for the query's own prototypes above it, or below 1 - SURE
UNSURE = 1e-3  # the weight of the other places: they decide only where no place is sure
GROUND = 0.5  # of the support's surroundings beside the query's own: they differ more than objects


class Labelled(NamedTuple):
    """Support features of one depth, and how much of each place is object and how much ground.

    What the label leaves open is neither. Without ``ground``, all that is not object is ground.
    """

    features: Float[Tensor, "B K C h w"]  # masked nowhere
    mask: Float[Tensor, "B K 1 h w"]
    ground: Float[Tensor, "B K 1 h w"] | None = None

    def prototypes(self) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
        """Return the means of the features over the object and over the ground."""
        ground = 1 - self.mask if self.ground is None else self.ground
        return pool(self.features, self.mask), pool(self.features, ground)


def prior_mask(query: Float[Tensor, "B C h w"], support: Float[Tensor, "B K C h w"]) -> Float[Tensor, "B 1 h w"]:
    """PFENet's prior (Tian et al., 2020): how much a query position resembles the object.

    The largest cosine similarity with any position of the masked block4 features ``support``,
    stretched to 0..1 over each picture; mean over the shots.
    """
    q = query.flatten(2)  # B,C,n
    s = support.flatten(3)  # B,K,C,n
    s_norm = s.norm(dim=2)[:, :, None, :]  # B,K,1,n
    best = []
    for part in q.split(CHUNK, dim=2):  # never the whole n x n map
        norms = part.norm(dim=1)[:, None, :, None] * s_norm
        best.append((torch.einsum("bci,bkcj->bkij", part, s) / (norms + 1e-7)).amax(dim=-1))
    similarity = torch.cat(best, dim=-1)  # B,K,n
    low, high = similarity.aminmax(dim=-1, keepdim=True)
    stretched = (similarity - low) / (high - low + 1e-7)
    return stretched.mean(1).unflatten(-1, query.shape[2:]).unsqueeze(1)


class MaskAttention(nn.Module):
    r"""Every query place takes the labels of the support places that it resembles.

    .. math:: P_i = \sum_j \mathrm{softmax}_j(\tau \cos(q_i, s_j))\, M_j

    Attention whose value is the support mask (DCAMA, Shi et al., ECCV 2022), over the places of all
    shots at once, object or ground: a place that resembles the ground takes its 0. Places that are
    neither have no label to give.

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

        The map's rows sum to one over all places of all shots. Without ``need_map``, no n x Kn map is
        built in inference.
        """
        tokens = self.tokens(query, support)
        labels = support.mask.flatten(1)[:, None, :, None]  # B,1,Kn,1
        weights = None
        if need_map:
            weights = tokens.map()  # B,1,n,Kn
            attended = weights @ labels
            weights = weights.squeeze(1).unflatten(2, (support.mask.shape[1], -1)).transpose(1, 2)  # B,K,n,n
        else:
            parts = (tokens._replace(query=rows).map() @ labels for rows in tokens.query.split(CHUNK, dim=2))
            attended = torch.cat([*parts], dim=2)
        return attended.squeeze(-1).unflatten(2, query.shape[2:]), weights  # B,1,n -> B,1,h,w

    def tokens(self, query: Float[Tensor, "B C h w"], support: Labelled) -> Tokens:
        """Return what the map is made of: query [B,1,n,C] and, of all shots, keys [B,1,Kn,C]."""
        q, s = directions(query, support.features, centred=self.centred)
        keep = None if support.ground is None else foreground((support.mask + support.ground).flatten(1)).unsqueeze(1)
        return Tokens(q.unsqueeze(1), s.unsqueeze(1), self.log_temperature.exp(), keep)


class Relations(nn.Module):
    """Ten maps of the query by what the support's labels say of it.

    Of block3 and of block4 each: the attended mask (``MaskAttention``), as it is and centred; the
    cosine to the object's prototype minus that to the ground's; the same once more with prototypes
    that take in the query's own places of which the first maps are sure (self-support; Fan et al.,
    ECCV 2022): the query resembles itself most. All these compare object with ground, and something
    always comes out nearer to the object. So the fifth is the cosine of the query's own object with
    the support's, the same at every place: small where the query does not show what is asked for.

    Args:
        aligned: how the backbone's pictures are resized; see ``fss.resize``.
    """

    CHANNELS = 10

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
    ) -> tuple[Float[Tensor, "B 10 H W"], dict[str, Tensor]]:
        """Compare a query's block3 and block4 with the labelled support's.

        Returns:
            The maps at ``size``: attended masks of block3 and block4, each as it is and centred,
            then four contrasts and two likenesses; and, where asked for, the centred attention on its own grid,
            ``match3_by_shot`` [B,K,n,n] and ``match4_by_shot``.
        """
        fit = partial(resize, size=size, aligned=self.aligned)
        attended, maps = [], {}
        for depth, pair, q, labelled in zip(DEPTHS, self.attend, query, support, strict=True):
            for attend in pair:  # type: ignore[attr-defined]
                mask, weights = attend(q, labelled, need_map=need_maps and attend.centred)
                attended.append(fit(mask))
                if weights is not None:
                    maps[f"match{depth}_by_shot"] = weights
        prototypes = [labelled.prototypes() for labelled in support]
        contrasts = [fit(cosine(q, o) - cosine(q, g)) for q, (o, g) in zip(query, prototypes, strict=True)]
        guess = attended[1] + attended[3] - THRESHOLD + torch.stack(contrasts).sum(0)
        sure = (STEEPNESS * guess).sigmoid().detach()
        found = [_self_support(q, o, g, sure) for q, (o, g) in zip(query, prototypes, strict=True)]
        again, alike = zip(*found, strict=True)
        scaled = [CONTRAST * map_ for map_ in [*contrasts, *map(fit, again), *map(fit, alike)]]
        return torch.cat(attended + scaled, dim=1), maps

    def tokens(self, query: Sequence[Tensor], support: Sequence[Labelled]) -> dict[str, Tokens]:
        """Return what the two maps are made of, by depth: ``match3`` and ``match4``."""
        return {
            f"match{depth}": pair[1].tokens(q, labelled)  # type: ignore[index]
            for depth, pair, q, labelled in zip(DEPTHS, self.attend, query, support, strict=True)
        }


def _self_support(
    query: Tensor, object_: Tensor, ground: Tensor, guess: Float[Tensor, "B 1 H W"]
) -> tuple[Tensor, Tensor]:
    """The contrast once more, with prototypes that take in what the query itself is sure of.

    And a map of the cosine between the query's own object and the support's.
    """
    share = F.adaptive_avg_pool2d(guess, (query.shape[-2], query.shape[-1])).unsqueeze(1)
    own = query.unsqueeze(1)
    own_object = pool(own, share * (share > SURE) + UNSURE * share)
    own_ground = pool(own, (1 - share) * (share < 1 - SURE) + UNSURE * (1 - share))
    like_object = cosine(query, F.normalize(object_) + F.normalize(own_object))
    like_ground = cosine(query, GROUND * F.normalize(ground) + F.normalize(own_ground))
    alike = F.cosine_similarity(own_object, object_)[:, None, None, None]
    return like_object - like_ground, alike.expand_as(like_object)
