"""The three attention modules of DANet, each of which returns ``(out, maps)``, and a place for yours.

Notation: B episodes, K support pictures (shots), C channels, H x W positions, N = H * W,
d = max(1, C / 8) projection channels. In every map the query is on the rows (index i) and the
support on the columns (index j); the softmax runs over j, so each row sums to one.

The support comes in already masked (Eq. 1); no module masks it again. With k shots, every map is
averaged over the shots *after* the softmax, so that a network trained with one shot runs with k.

``register`` names a module of yours, which then takes the place of ``DenseAttention`` in the network.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fss.errors import InputError, nearest

Value = Literal["query", "support"]
Kind = TypeVar("Kind", bound=type[nn.Module])
CHUNK = 256  # query rows of the dense map that exist at any one time when no map is asked for
MODULES: dict[str, type[nn.Module]] = {}  # by the name that ``register`` gave them


def register(name: str) -> Callable[[Kind], Kind]:
    """Name an attention module, so that ``DANetConfig(dense=name)`` builds it for Eq. 5.

    Write it above a class that has the constructor and the forward of ``DenseAttention``::

        @fss.attention.register("cosine")
        class CosineAttention(nn.Module):
            def __init__(self, channels, **options): ...  # value, scaled, mask_background
            def forward(self, query, support, mask, *, need_map=True): ...  # -> out, DenseMaps

    ``out`` has the query's shape; both of the maps may be ``None`` without ``need_map``. A method
    ``tokens`` like that of ``DenseAttention`` is optional. Checkpoints hold the name and never
    import code: import the module that registers it before you load one (on the command line:
    ``--import MODULE``).

    Raises:
        InputError: another class has the name. The same class may come again, as from a notebook
            cell that is run twice, and replaces the old one.
    """

    def keep(kind: Kind) -> Kind:
        known = MODULES.setdefault(name, kind)
        if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
            raise InputError(
                f"attention {name!r} is {known.__module__}.{known.__qualname__} already; register yours by another name"
            )
        MODULES[name] = kind
        return kind

    return keep


def build_attention(name: str, channels: int, **options: Any) -> nn.Module:
    """Build the module that is registered as ``name``, or raise InputError."""
    if name not in MODULES:
        raise InputError(
            f"unknown attention dense={name!r}; {nearest(name, MODULES)}; if it is a module of yours, import the "
            "file that registers it first (on the command line: --import MODULE)"
        )
    return MODULES[name](channels, **options)


class LightMaps(NamedTuple):
    """Row and column maps, as means over the shots and shot by shot."""

    rows: Float[Tensor, "B H H"]
    cols: Float[Tensor, "B W W"]
    rows_by_shot: Float[Tensor, "B K H H"]
    cols_by_shot: Float[Tensor, "B K W W"]


class DenseMaps(NamedTuple):
    """The pixel-to-pixel map, as a mean over the shots and shot by shot; ``None`` if not asked."""

    dense: Float[Tensor, "B N N"] | None
    dense_by_shot: Float[Tensor, "B K N N"] | None


class ChannelMaps(NamedTuple):
    """The weight of every position for every channel; sums to one over the positions."""

    weights: Float[Tensor, "B K C H W"]


def attention_weights(
    query: Float[Tensor, "... I D"],
    key: Float[Tensor, "... J D"],
    *,
    scale: float | Tensor = 1.0,
    keep: Tensor | None = None,
) -> Float[Tensor, "... I J"]:
    r"""Eq. 2: :math:`A_{ij} = \exp(s\,q_i \cdot k_j) / \sum_j \exp(s\,q_i \cdot k_j)`.

    ``keep`` [..., J] marks the keys that may be attended to; the others get minus infinity.
    """
    scores = scale * query @ key.transpose(-1, -2)
    if keep is not None:
        scores = scores.masked_fill(~keep.unsqueeze(-2), -math.inf)
    return scores.softmax(dim=-1)


class Tokens(NamedTuple):
    """What a map is made of before its softmax, so that one row can be had without the whole map.

    Places of shots that share one softmax come one after the other on J, with K = 1.
    """

    query: Float[Tensor, "B 1 I D"]
    key: Float[Tensor, "B K J D"]
    scale: float | Tensor
    keep: Tensor | None  # [B,K,J]: keys that may be attended to

    def map(self) -> Float[Tensor, "B K I J"]:
        """Return the whole map."""
        return attention_weights(self.query, self.key, scale=self.scale, keep=self.keep)

    def row(self, i: int, *, temperature: float = 1.0) -> Float[Tensor, "B K J"]:
        """Return row ``i`` of the map; its scores are divided by ``temperature`` first."""
        one = self._replace(query=self.query[..., i : i + 1, :], scale=self.scale / temperature)
        return one.map().squeeze(-2)


def foreground(mask: Float[Tensor, "... J"]) -> Tensor:
    """Return which of the J keys are foreground (> 0.5); without any foreground, all of them."""
    inside = mask > 0.5
    return inside | ~inside.any(dim=-1, keepdim=True)


def _check_mask(mask: Tensor | None, support: Tensor) -> None:
    expected = (*support.shape[:2], 1, *support.shape[3:])
    if mask is not None and tuple(mask.shape) != expected:
        raise ValueError(f"mask {tuple(mask.shape)} must be [B,K,1,H,W] = {expected}; resize it to the features first")


class _QueryKeyValue(nn.Module):
    """The three 1x1 projections that both spatial attentions share, and their options.

    ``value`` says where the attended value comes from: ``"query"`` as the paper writes it, or
    ``"support"``, which is what "propagate the support cues" asks for. ``scaled`` divides the
    scores by the square root of a token's length. ``mask_background`` takes the support positions
    outside the mask out of the softmax, where as zeros they would still draw e^0 each.
    """

    def __init__(
        self,
        channels: int,
        *,
        value: Value = "query",
        scaled: bool = False,
        mask_background: bool = False,
    ) -> None:
        super().__init__()
        if value not in get_args(Value):
            raise ValueError(f"value must be 'query' or 'support', not {value!r}")
        inner = max(1, channels // 8)
        self.query_proj = nn.Conv2d(channels, inner, 1)
        # A bias of the keys adds the same number to a whole row of scores and cancels.
        self.key_proj = nn.Conv2d(channels, inner, 1, bias=False)
        self.value_proj = nn.Conv2d(channels, channels, 1)
        self.value, self.scaled, self.mask_background = value, scaled, mask_background

    def extra_repr(self) -> str:
        return f"value={self.value!r}, scaled={self.scaled}, mask_background={self.mask_background}"

    def project(self, query: Tensor, support: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the projected query [B,d,H,W] and the keys of every shot [B,K,d,H,W]."""
        channels = self.value_proj.in_channels
        expected = (*support.shape[:1], channels, *support.shape[3:])
        if support.dim() != 5 or support.shape[2] != channels or tuple(query.shape) != expected:
            raise ValueError(
                "expected query [B,C,H,W] and support [B,K,C,H,W], "
                f"got {tuple(query.shape)} and {tuple(support.shape)}; they must share batch, height and width "
                f"and have {channels} channels: resize them first, and for one shot use support.unsqueeze(1)"
            )
        if self.mask_background and mask is None:
            raise ValueError("mask_background=True needs the mask [B,K,1,H,W] of the support")
        _check_mask(mask, support)
        keys = self.key_proj(support.flatten(0, 1)).unflatten(0, support.shape[:2])
        return self.query_proj(query), keys

    def support_value(self, support: Tensor) -> Tensor:
        """Project the support by the query's own ``value_proj``: [B,K,C,H,W]."""
        return self.value_proj(support.flatten(0, 1)).unflatten(0, support.shape[:2])

    def _flat(self, query: Tensor, key: Tensor, mask: Tensor | None, inside: tuple[int, ...]) -> Tokens:
        """Projections [B,I,...] and [B,K,J,...] as tokens; ``inside``: the mask's dimensions within a token."""
        q, k = query.flatten(2).unsqueeze(1), key.flatten(3)  # B,1,I,D and B,K,J,D
        keep = None
        if self.mask_background and mask is not None:
            keep = foreground(mask.amax(inside).flatten(2))  # B,K,J
        return Tokens(q, k, q.shape[-1] ** -0.5 if self.scaled else 1.0, keep)


class LightAttention(_QueryKeyValue):
    r"""Light attention (Eq. 2, 3): whole rows attend to whole rows, whole columns to whole columns.

    .. math:: F_{light} = \alpha F_{v1} A_{hor}^T + \beta F_{v2} A_{ver}^T + F_v

    Eq. 3 in print pairs :math:`F_{v1}` (WC x H) with :math:`A_{ver}` (W x W), which cannot be
    multiplied; the maps are exchanged here. Cost: H^2 + W^2 scores instead of N^2.

    Args:
        channels: C of the query and the support.
        value: ``"query"`` (as published) or ``"support"`` (mean over the shots of what each gives).
        scaled: divide the scores by sqrt(d*W) for rows and sqrt(d*H) for columns.
        mask_background: rows and columns of the support without foreground are not attended to;
            a mask without any foreground hides nothing.
    """

    def __init__(
        self,
        channels: int,
        *,
        value: Value = "query",
        scaled: bool = False,
        mask_background: bool = False,
    ) -> None:
        super().__init__(channels, value=value, scaled=scaled, mask_background=mask_background)
        self.alpha = nn.Parameter(torch.zeros(()))
        self.beta = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        query: Float[Tensor, "B C H W"],
        support: Float[Tensor, "B K C H W"],
        mask: Float[Tensor, "B K 1 H W"] | None = None,
    ) -> tuple[Float[Tensor, "B C H W"], LightMaps]:
        """Return the attended query features and the maps.

        ``support`` is masked already; ``mask`` (0..1) is only used by ``mask_background``.
        Raises ValueError where the shapes do not fit together.
        """
        rows, cols = (tokens.map() for tokens in self.tokens(query, support, mask))  # B,K,H,H and B,K,W,W
        maps = LightMaps(rows.mean(1), cols.mean(1), rows, cols)
        v = self.value_proj(query)
        if self.value == "query":
            row_term = torch.einsum("bij,bcjw->bciw", maps.rows, v)
            col_term = torch.einsum("bij,bchj->bchi", maps.cols, v)
        else:
            s = self.support_value(support)
            shots = s.shape[1]
            row_term = torch.einsum("bkij,bkcjw->bciw", rows, s) / shots
            col_term = torch.einsum("bkij,bkchj->bchi", cols, s) / shots
        return self.alpha * row_term + self.beta * col_term + v, maps

    def tokens(self, query: Tensor, support: Tensor, mask: Tensor | None) -> tuple[Tokens, Tokens]:
        """Return what the maps of rows and of columns are made of; arguments as of ``forward``."""
        q, k = self.project(query, support, mask)
        # A token is a whole row: permute first, a bare view would mix rows and columns.
        rows = q.permute(0, 2, 1, 3), k.permute(0, 1, 3, 2, 4)  # B,H,d,W and B,K,H,d,W
        cols = q.permute(0, 3, 1, 2), k.permute(0, 1, 4, 2, 3)  # B,W,d,H and B,K,W,d,H
        return self._flat(*rows, mask, inside=(2, 4)), self._flat(*cols, mask, inside=(2, 3))


@register("dense")
class DenseAttention(_QueryKeyValue):
    r"""Dense attention (Eq. 5): every query pixel attends to every support pixel (non-local block).

    .. math:: F_{dense} = \theta F_{v1} A_{dense}^T + F_v

    Args:
        channels: C of the query and the support.
        value: ``"query"`` (as published) or ``"support"``.
        scaled: divide the scores by sqrt(d).
        mask_background: support pixels outside the mask are not attended to; a mask without any
            foreground hides nothing.
    """

    def __init__(
        self,
        channels: int,
        *,
        value: Value = "query",
        scaled: bool = False,
        mask_background: bool = False,
    ) -> None:
        super().__init__(channels, value=value, scaled=scaled, mask_background=mask_background)
        self.theta = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        query: Float[Tensor, "B C H W"],
        support: Float[Tensor, "B K C H W"],
        mask: Float[Tensor, "B K 1 H W"] | None = None,
        *,
        need_map: bool = True,
    ) -> tuple[Float[Tensor, "B C H W"], DenseMaps]:
        """Return the attended query features and the map.

        ``need_map=False`` never holds more than ``CHUNK`` rows of the N x N map (in inference) and
        gives the same output. Raises ValueError where the shapes do not fit together.
        """
        tokens, v = self.tokens(query, support, mask), self.value_proj(query)
        values = v.unsqueeze(1) if self.value == "query" else self.support_value(support)
        values = values.flatten(3).transpose(2, 3)  # B,1,N,C or B,K,N,C
        if need_map:
            dense = tokens.map()  # B,K,N,N
            maps = DenseMaps(dense.mean(1), dense)
            attended = (dense @ values).mean(1)
        else:
            maps = DenseMaps(None, None)
            parts = (tokens._replace(query=rows).map() @ values for rows in tokens.query.split(CHUNK, dim=2))
            attended = torch.cat([part.mean(1) for part in parts], dim=1)
        attended = attended.transpose(1, 2).unflatten(2, v.shape[2:])  # B,N,C -> B,C,H,W
        return self.theta * attended + v, maps

    def tokens(self, query: Tensor, support: Tensor, mask: Tensor | None) -> Tokens:
        """Return what the map is made of; arguments as of ``forward``."""
        q, k = self.project(query, support, mask)
        places = q.flatten(2).transpose(1, 2), k.flatten(3).transpose(2, 3)  # B,N,d and B,K,N,d
        return self._flat(*places, mask, inside=(2,))


class PrototypicalChannelAttention(nn.Module):
    r"""Prototypical channel attention (Eq. 6, 7): a prototype whose channels weigh their places.

    .. math::
        F'_s = \mathrm{expand}(\mathrm{ReLU}(\mathrm{squeeze}(D_s))), \qquad
        F_{pro} = \sum_i \mathrm{softmax}_i(F'_s)\, F'_s(i)

    The sum is SoftPool (Stergiou et al., 2021) over the whole map, channel by channel.

    Args:
        channels: C of the support features.
        reduction: the squeeze ratio; at least one channel is kept.
        masked: take the softmax over the object's positions (mask > 0.5) only; a mask without
            foreground leaves all positions in.
    """

    def __init__(self, channels: int, *, reduction: int = 16, masked: bool = False) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, inner, 1)
        self.expand = nn.Conv2d(inner, channels, 1)
        self.masked = masked

    def forward(
        self, support: Float[Tensor, "B K C H W"], mask: Float[Tensor, "B K 1 H W"] | None
    ) -> tuple[Float[Tensor, "B C"], ChannelMaps]:
        """Return the prototype, a mean over the shots, and the weights of all positions.

        ``mask`` (0..1) is only used with ``masked=True``. Raises ValueError if it is missing then,
        and where the shapes do not fit together.
        """
        channels = self.squeeze.in_channels
        if support.dim() != 5 or support.shape[2] != channels:
            raise ValueError(
                f"expected support [B,K,{channels},H,W], got {tuple(support.shape)}; "
                "for one shot use support.unsqueeze(1)"
            )
        _check_mask(mask, support)
        batch, shots = support.shape[:2]
        activated = self.expand(F.relu(self.squeeze(support.flatten(0, 1))))
        activated = activated.unflatten(0, (batch, shots)).flatten(3)  # B,K,C,N
        scores = activated
        if self.masked:
            if mask is None:
                raise ValueError("masked=True needs the mask [B,K,1,H,W] of the support")
            scores = activated.masked_fill(~foreground(mask.flatten(3)), -math.inf)
        weights = scores.softmax(dim=-1)  # subtracts the maximum, so it cannot overflow
        prototype = (weights * activated).sum(-1).mean(1)
        return prototype, ChannelMaps(weights.unflatten(-1, support.shape[3:]))


def masked_average(support: Float[Tensor, "B K C H W"], mask: Float[Tensor, "B K 1 H W"]) -> Float[Tensor, "B C"]:
    """Masked average pooling, the prototype of the arms without channel attention.

    sum(features * mask) / (area + 5e-4), as in PFENet (Tian et al., 2020); mean over the shots. A
    mask without foreground gives zeros.
    """
    area = mask.sum(dim=(3, 4)) + 5e-4
    return ((support * mask).sum(dim=(3, 4)) / area).mean(1)
