"""Resizing of maps and labels, in the two geometries that backbones have.

Aligned: position i of a map lies at pixel ``stride * i``, and the corners of all maps coincide
(symmetric padding and odd sides, as 473 px -> 60 in PFENet). Otherwise position i lies in the
middle of its cell, ``stride * (i + 1/2)`` (even sides). Taking one for the other fails silently: it
moves masks and predictions by up to half a cell at the rim.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Size = tuple[int, int] | torch.Size


def resize(x: Float[Tensor, "... h w"], size: Size, *, aligned: bool) -> Float[Tensor, "... H W"]:
    """Resize bilinearly; leading dimensions are kept.

    >>> ramp = torch.tensor([[0.0, 3.0]])
    >>> resize(ramp, (1, 4), aligned=True)  # the corners coincide
    tensor([[0., 1., 2., 3.]])
    >>> resize(ramp, (1, 4), aligned=False)  # the cells do
    tensor([[0.0000, 0.7500, 2.2500, 3.0000]])
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    flat = x.reshape(-1, 1, *x.shape[-2:]) if x.dim() != 4 else x
    return F.interpolate(flat, size=size, mode="bilinear", align_corners=aligned).reshape(*x.shape[:-2], *size)


def share_of(
    labels: Tensor, label: int, like: Float[Tensor, "... C H W"], *, aligned: bool
) -> Float[Tensor, "... 1 H W"]:
    """How much of each position of a map has a label: labels [...,h,w] to 0..1 on the map's grid.

    Aligned, the labels are sampled bilinearly at the positions, as in PFENet; otherwise they are
    averaged over each cell, so that no object falls between the positions of a coarse map.

    >>> labels = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0]]])
    >>> share_of(labels, 1, like=torch.zeros(1, 1, 2), aligned=False)
    tensor([[[[1.0000, 0.2500]]]])
    """
    mask = (labels == label).to(like.dtype)
    if aligned:
        return resize(mask, like.shape[-2:], aligned=True).unsqueeze(-3)
    return F.adaptive_avg_pool2d(mask, (like.shape[-2], like.shape[-1])).unsqueeze(-3)
