"""The training loss: cross-entropy, soft IoU, and the same for the decoder's inner predictions.

Every term is a sum over a batch divided by what the *whole* batch holds. So a batch may be computed
in parts, in turn or by several processes: the parts' losses, and their gradients, add up.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fss.data.pictures import IGNORE
from fss.model import Prediction
from fss.resize import resize


class Whole(NamedTuple):
    """What the loss of a whole batch is a mean over, needed to compute a part of it."""

    pixels: Tensor  # labelled ones
    episodes: int


def episode_loss(
    prediction: Prediction,
    target: Tensor,
    aux_weight: float,
    iou_weight: float = 0.0,
    whole: Whole | None = None,
) -> Tensor:
    """Return the loss of a batch, or a part's share of it.

    The decoder's inner predictions (PFENet, Tian et al. 2020) have the same loss as the last one,
    and the mean of theirs is added to it. Logits are resized to the target.

    Args:
        prediction: logits [B,2,H,W], and the inner ones in ``aux``.
        target: labels [B,h,w], 1 = object, 0 = background, 255 = ignored.
        aux_weight: factor on the mean of the inner losses.
        iou_weight: factor on ``soft_iou_loss`` beside the cross-entropy, a mean over labelled pixels.
        whole: the batch that this is a part of; by default it is the whole batch.
    """
    target = target.long()
    known = target != IGNORE
    pixels, episodes = whole or Whole(known.sum(), len(target))

    def loss(logits: Tensor) -> Tensor:
        logits = resize(logits.float(), target.shape[-2:], aligned=True)
        entropy = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum") / pixels.clamp_min(1)
        if not iou_weight:
            return entropy
        share = len(target) / episodes
        return entropy + iou_weight * share * soft_iou_loss(logits, target == 1, known)

    main = loss(prediction.logits)
    if not prediction.aux:
        return main
    inner = torch.stack([loss(logits) for logits in prediction.aux]).mean()
    return main + aux_weight * inner


def soft_iou_loss(
    logits: Float[Tensor, "B 2 H W"], object_: Bool[Tensor, "B H W"], known: Bool[Tensor, "B H W"]
) -> Tensor:
    """Return the mean over the episodes of 1 - (I + 1) / (U + 1), in 0..1 (Rahman and Wang, 2016).

    I and U are the intersection and union of the object with its predicted probabilities, in pixels
    that are ``known``; the 1 makes an episode without an object and without a prediction right.
    """
    share = logits.softmax(dim=1)[:, 1] * known
    intersection = (share * object_).sum((1, 2))
    union = share.sum((1, 2)) + object_.sum((1, 2)) - intersection
    return (1 - (intersection + 1) / (union + 1)).mean()
