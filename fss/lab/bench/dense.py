"""Dense attention three ways: the whole map, some rows at a time, and torch's fused kernel."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fss.attention import DenseAttention
from fss.lab.bench.timing import Rows, in_new_process, peak_mb, timed


def full(attention: DenseAttention, query: Tensor, support: Tensor) -> Tensor:
    """Eq. 5 with the whole N x N map."""
    return attention(query, support)[0]


def chunked(attention: DenseAttention, query: Tensor, support: Tensor) -> Tensor:
    """Eq. 5 with some rows of the map at a time."""
    return attention(query, support, need_map=False)[0]


def fused(attention: DenseAttention, query: Tensor, support: Tensor) -> Tensor:
    """Eq. 5 by torch's kernel, with its inputs made such that it takes the fused one.

    That wants query, key and value of one width, to which zeros are added, and contiguous.
    """
    (q, k), v = attention.project(query, support, None), attention.value_proj(query)
    q, k, values = (x.flatten(-2).mT.contiguous() for x in (q.unsqueeze(1), k, v.unsqueeze(1)))
    q, k = (F.pad(x, (0, values.shape[-1] - x.shape[-1])) for x in (q, k))
    attended = F.scaled_dot_product_attention(q, k, values, scale=1.0)
    return attention.theta * attended.squeeze(1).mT.unflatten(2, v.shape[2:]) + v


WAYS = {"full": full, "chunked": chunked, "sdpa": fused}


@torch.inference_mode()
def attention(sides: Sequence[int] = (14, 28, 40, 60), channels: int = 64, seconds: float = 2) -> Rows:
    """Time dense attention three ways, with the memory that each takes at its peak.

    The memory is that of a fresh process, above the most that its start took: 0 where it stays
    below that.

    Raises:
        AssertionError: they do not agree.
    """
    peaks = {f"{way}_peak_mb": in_new_process(peaks_of, way, sides, channels) for way in WAYS}
    rows = []
    for n, side in enumerate(sides):
        given = inputs(side, channels)
        expected = full(*given)
        for way in (chunked, fused):
            torch.testing.assert_close(way(*given), expected, atol=1e-5, rtol=1e-5)
        times = timed(seconds, **{name: partial(way, *given) for name, way in WAYS.items()})
        rows.append({"n": side * side, **{key: mb[n] for key, mb in peaks.items()}, **times})
    return rows


@torch.inference_mode()
def peaks_of(way: str, sides: Sequence[int], channels: int) -> list[float]:
    """Return the peak memory in MB above that of now; ``sides`` must grow, since a peak does."""
    WAYS[way](*inputs(2, channels))  # what torch loads at the first call is not the map's
    before = peak_mb()
    peaks = []
    for side in sides:
        WAYS[way](*inputs(side, channels))
        peaks.append(peak_mb() - before)
    return peaks


def inputs(side: int, channels: int) -> tuple[DenseAttention, Tensor, Tensor]:
    """Return a module, a query and one support picture of ``side`` x ``side`` positions."""
    torch.manual_seed(0)
    module = DenseAttention(channels)
    nn.init.ones_(module.theta)  # it starts at 0, where every attention gives the same
    return module, torch.randn(1, channels, side, side), torch.randn(1, 1, channels, side, side)
