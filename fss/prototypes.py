"""What stands for a labelled support: one mean, several of them, every place, or softly every place.

The functions that gather take ``features`` [B,K,C,h,w] and ``mask`` [B,K,1,h,w], for each place of the
K shots the share 0..1 of it that is object (or that is ground; ``fss.resize.share_of``). The places of
all shots count together. Nothing is trained and nothing is drawn by chance: the same places give the
same prototypes, and their order does not matter except to ``superpixels``, which use positions.

A mask without any place has prototypes of zeros with weight 0, as ``pool`` gives zeros. Falling back to
all places instead would let the ground speak for the object.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fss.attention import CHUNK
from fss.errors import InputError

# Chosen on validation classes of the drawn world and, after the bar, of real scenes: mIoU of 400 episodes
# of one shot with lite0, in a trial whose seeds differed a little.
ITERATIONS = 10  # as in PPNet and RPMM
KAPPA = 10.0  # em, how narrow a part is; 4 parts: 42.2 | 22.9, at RPMM's 20 40.2 | 22.4, at 40 39.4 | 21.9
COMPACT = 0.25  # superpixels, a picture's side in lengths of a feature; 4 parts: 38.5 | 22.0, at 1 34.8 | 21.4
TEMPERATURE = 80.0  # attended, inverse: 44.9 | 21.9, at 40 40.7 | 22.8, at 20 33.3 | 21.1; not centred 41.8 | 21.5
NEVER = -1e4  # added to cosines that must not count: minus infinity, but finite

Prototypes = tuple[Float[Tensor, "B P C"], Float[Tensor, "B P"]]


def pool(features: Float[Tensor, "B K C h w"], weight: Float[Tensor, "B K 1 h w"]) -> Float[Tensor, "B C"]:
    """Weighted mean over the places of all shots together; zeros where no place has weight."""
    return (features * weight).sum((1, 3, 4)) / weight.sum((1, 3, 4)).clamp_min(1e-6)


def cosine(query: Float[Tensor, "B C h w"], prototype: Float[Tensor, "B C"]) -> Float[Tensor, "B 1 h w"]:
    """Cosine of each place with a prototype; 0 for one of zeros."""
    return F.cosine_similarity(query, prototype[..., None, None], dim=1).unsqueeze(1)


def similarity(query: Float[Tensor, "B C h w"], prototypes: Float[Tensor, "B P C"]) -> Float[Tensor, "B P h w"]:
    """Cosine of each place with each prototype, -1..1; 0 for one of zeros."""
    return torch.cat([cosine(query, prototype) for prototype in prototypes.unbind(1)], dim=1)


def average(features: Float[Tensor, "B K C h w"], mask: Float[Tensor, "B K 1 h w"]) -> Prototypes:
    """One prototype, the masked average (PANet, Wang et al., ICCV 2019), and its weight."""
    return pool(features, mask).unsqueeze(1), mask.sum((1, 3, 4))


def kmeans(features: Float[Tensor, "B K C h w"], mask: Float[Tensor, "B K 1 h w"], count: int) -> Prototypes:
    """Means of ``count`` parts by Lloyd's algorithm, as in PPNet (Liu et al., ECCV 2020).

    PPNet starts from places drawn by chance and adds the mean of the whole to each part's; here the
    seeds are the places that lie farthest from the mean and from each other, and a part is its mean
    alone. One part is the masked average.

    Returns:
        The prototypes [B,P,C] and the weight of the places of each [B,P]; with fewer places than
        prototypes, some have weight 0 and are zeros.

    Raises:
        InputError: ``count`` is below 1.
    """
    x, weight = _places(features, mask)
    return _lloyd(x, weight, _at(x, _spread(x, weight, count)))


def em(
    features: Float[Tensor, "B K C h w"], mask: Float[Tensor, "B K 1 h w"], count: int, *, iterations: int = ITERATIONS
) -> Prototypes:
    r"""Mean directions of a mixture on the sphere, by EM, as in RPMM (Yang et al., ECCV 2020).

    A place x, taken at length 1, belongs to part k by the share
    :math:`z_k = \mathrm{softmax}_k(\kappa\,\mu_k \cdot x)`, all parts being as likely, and
    :math:`\mu_k` is the direction of the sum of z x. The likelihood of the places,
    :math:`\sum_x \log \sum_k \exp(\kappa\,\mu_k \cdot x)`, never falls. Seeds as for ``kmeans``.

    Returns:
        The prototypes [B,P,C], of length 1, and the weight of the places of each [B,P]; with fewer
        places than prototypes, some are equal.

    Raises:
        InputError: ``count`` is below 1.
    """
    x, weight = _places(F.normalize(features, dim=2), mask)
    means = _at(x, _spread(x, weight, count))
    for _ in range(iterations):
        share = weight.unsqueeze(2) * (KAPPA * x @ means.mT).softmax(dim=2)  # B,N,P
        means = F.normalize(share.mT @ x, dim=2)
    return means, share.sum(1)


def superpixels(features: Float[Tensor, "B K C h w"], mask: Float[Tensor, "B K 1 h w"], count: int) -> Prototypes:
    """Means of ``count`` parts that hang together, as in ASGNet (Li et al., CVPR 2021).

    k-means over features that are joined with the place's position, from seeds that are spread over
    the mask by position alone. ASGNet clusters each shot separately, weighs places softly and makes fewer
    parts of a smaller object; here all shots are clustered at once, laid on top of each other, and
    ``count`` stands. Returns and raises as ``kmeans``.
    """
    shots, channels, height, width = features.shape[1:]
    axes = (torch.arange(n, device=features.device, dtype=features.dtype) / max(height, width) for n in (height, width))
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # 2,h,w
    length = pool(features.norm(dim=2, keepdim=True), mask)[..., None, None, None]
    place = (COMPACT * length * position).expand(-1, shots, -1, -1, -1)  # B,K,2,h,w
    x, weight = _places(torch.cat([features, place], dim=2), mask)
    prototypes, mass = _lloyd(x, weight, _at(x, _spread(x[..., channels:], weight, count)))
    return prototypes[..., :channels], mass


def best_of(
    gather: Callable[[Tensor, Tensor], Prototypes],
    query: Float[Tensor, "B C h w"],
    features: Float[Tensor, "B K C h w"],
    masks: Float[Tensor, "B K M h w"],
) -> Float[Tensor, "B M h w"]:
    """Cosine of each query place with the most similar prototype of each of M masks.

    ``gather`` makes the prototypes of one mask; one without weight counts as the opposite direction, -1,
    and so never wins.
    """
    found = []
    for mask in masks.split(1, dim=2):
        prototypes, weight = gather(features, mask)
        likeness = similarity(query, prototypes).masked_fill(weight[..., None, None] == 0, -1.0)
        found.append(likeness.amax(1))
    return torch.stack(found, dim=1)


def allocate(
    query: Float[Tensor, "B C h w"], prototypes: Float[Tensor, "B P C"], weight: Float[Tensor, "B P"]
) -> Float[Tensor, "B C h w"]:
    """Give each query place the most similar prototype that has a weight (ASGNet's guided allocation)."""
    likeness = similarity(query, prototypes).masked_fill(weight[..., None, None] == 0, -torch.inf)
    chosen = likeness.argmax(1).flatten(1)  # B,n
    return _at(prototypes, chosen).mT.unflatten(2, query.shape[2:])


def nearest(
    query: Float[Tensor, "B C h w"], features: Float[Tensor, "B K C h w"], masks: Float[Tensor, "B K M h w"]
) -> Float[Tensor, "B M h w"]:
    """Cosine of each query place with the most similar support place of each of M masks.

    Features are centred (see ``directions``). Places belong to a mask from half of its largest share on.
    A mask that has none is less similar than any, by ``NEVER``.
    """
    outside = ~_inside(masks.transpose(1, 2).flatten(2))
    return _every_place(query, features, NEVER * outside.to(query.dtype), partial(torch.amax, dim=-1))


def attended(
    query: Float[Tensor, "B C h w"],
    features: Float[Tensor, "B K C h w"],
    masks: Float[Tensor, "B K M h w"],
    *,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, "B M h w"]:
    r"""How much each query place resembles each of M masks, all of whose places have a say.

    .. math:: S_m = \frac{1}{\tau} \log \sum_j w_{mj}\, e^{\tau \cos(q, s_j)}, \qquad \sum_j w_{mj} = 1

    For object and ground, :math:`\mathrm{sigmoid}(\tau (S_1 - S_0))` is attention whose value is the
    label (DCAMA, Shi et al., ECCV 2022), *balanced*: its softmax over all support places weighs each
    by its share of the object or of the ground, so that each of the two counts as much, however many places it has.
    Without those weights a threshold of 0.5 favours the ground, which mostly has more of them. A high
    temperature tau (it is the inverse) comes near to ``nearest``. Features are centred (see ``directions``).
    """
    share = masks.transpose(1, 2).flatten(2)  # B,M,N
    share = share / share.sum(2, keepdim=True).clamp_min(1e-6)
    bias = (share.log() / temperature).clamp_min(NEVER)
    return _every_place(query, features, bias, lambda score: (temperature * score).logsumexp(-1) / temperature)


def directions(
    query: Float[Tensor, "B C h w"], features: Float[Tensor, "B K C h w"], *, centred: bool
) -> tuple[Float[Tensor, "B n C"], Float[Tensor, "B N C"]]:
    """Return the places of the query and those of all shots, each at length 1.

    ``centred`` takes the mean of the query and of the support from the features first; what all
    places share says nothing of their differences.
    """
    q = query.flatten(2).transpose(1, 2)  # B,n,C
    s = features.flatten(3).transpose(2, 3).flatten(1, 2)  # B,Kn,C
    if centred:
        mean = (q.mean(1, keepdim=True) + s.mean(1, keepdim=True)) / 2
        q, s = q - mean, s - mean
    return F.normalize(q, dim=-1), F.normalize(s, dim=-1)


def _every_place(
    query: Tensor, features: Tensor, bias: Float[Tensor, "B M N"], reduce: Callable[[Tensor], Tensor]
) -> Float[Tensor, "B M h w"]:
    """Reduce the cosines of each query place with all support places plus the bias of each of M masks."""
    q, s = directions(query, features, centred=True)
    found = []
    for rows in q.split(CHUNK, dim=1):  # never the whole n x N map
        cosines = rows @ s.mT
        found.append(torch.stack([reduce(cosines + each.unsqueeze(1)) for each in bias.unbind(1)], dim=1))
    return torch.cat(found, dim=2).unflatten(2, query.shape[2:])


def _inside(weight: Float[Tensor, "... N"]) -> Bool[Tensor, "... N"]:
    """Which places belong to a mask: those with at least half of its largest share."""
    return weight >= (weight.amax(-1, keepdim=True) / 2).clamp_min(1e-6)


def _at(x: Float[Tensor, "B N C"], places: Int[Tensor, "B P"]) -> Float[Tensor, "B P C"]:
    return x.gather(1, places.unsqueeze(2).expand(-1, -1, x.shape[2]))


def _places(features: Tensor, mask: Tensor) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N"]]:
    """Return the places of all shots and their weights, in an order that only their features decide."""
    x = features.flatten(3).transpose(2, 3).flatten(1, 2)
    order = (x @ torch.arange(1, x.shape[2] + 1, device=x.device).sin().to(x.dtype)).argsort(dim=1)
    return _at(x, order), mask.flatten(1).gather(1, order)


def _spread(x: Float[Tensor, "B N C"], weight: Float[Tensor, "B N"], count: int) -> Int[Tensor, "B P"]:
    """Return ``count`` places inside the mask, each the farthest from the mean and from those before it.

    Of places that are as far to a ten-thousandth, as the corners of a box, the order decides: rounding,
    which differs between processors, must not.
    """
    if count < 1:
        raise InputError(f"{count} prototypes: use 1 or more")
    centre, _ = _means(x, weight.unsqueeze(2))
    distance, outside, seeds = torch.full_like(weight, torch.inf), ~_inside(weight), []
    for _ in range(count):
        distance = torch.minimum(distance, (x - centre).norm(dim=2)).masked_fill(outside, -1.0)
        farthest = distance.amax(1, keepdim=True).clamp_min(1e-12)
        seeds.append((distance / farthest * 10_000).round().argmax(1, keepdim=True))
        centre = _at(x, seeds[-1])
    return torch.cat(seeds, dim=1)


def _means(x: Float[Tensor, "B N C"], share: Float[Tensor, "B N P"]) -> Prototypes:
    """Return the mean of each part, given how much of each place is in it, and its weight; zeros for no place."""
    mass = share.sum(1)
    return share.mT @ x / mass.unsqueeze(2).clamp_min(1e-6), mass


def _lloyd(x: Float[Tensor, "B N C"], weight: Float[Tensor, "B N"], centres: Float[Tensor, "B P C"]) -> Prototypes:
    """k-means from given centres; a part that loses its last place keeps its centre, which may win places again."""
    for _ in range(ITERATIONS):
        part = F.one_hot(torch.cdist(x, centres).argmin(2), centres.shape[1])  # B,N,P
        means, mass = _means(x, part * weight.unsqueeze(2))
        centres = torch.where(mass.unsqueeze(2) > 0, means, centres)
    return means, mass
