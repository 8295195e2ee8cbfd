"""Segment a picture by labelled pictures, each of any size."""

from collections.abc import Sequence

import numpy as np
import torch

from fss.data.dataset import to_tensor
from fss.data.pictures import letterbox_image, letterbox_mask, unletterbox
from fss.model import DANet, SupportCode

# Said of a query, by its name, whose prediction is background alone.
NOTHING_FOUND = "nothing found: no pixel of {} is marked; the query may not show what the support's mask marks"


def exclusive(scores: torch.Tensor, ways: int = 1) -> torch.Tensor:
    """Turn scores [B,h,w] into labels: 1 where a score is above 0, the ground's, and the highest of its query.

    Each ``ways`` episodes in a row ask one query for different classes, so that a pixel gets one of them or none.
    """
    groups = scores.unflatten(0, (-1, ways))
    highest = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, groups.argmax(1, keepdim=True), True)
    return (highest & (groups > 0)).flatten(0, 1).long()


def predict_array(
    model: DANet, support: Sequence[tuple[np.ndarray, np.ndarray]], query: np.ndarray, size: int
) -> np.ndarray:
    """Segment one picture by labelled pictures, each of any size.

    Args:
        model: the network, in eval mode.
        support: pictures uint8 [H,W,3] and labels uint8 [H,W] (1 = object, 255 = ignore).
        query: picture uint8 [H,W,3].
        size: side of the square, in pixels, that each picture is fitted into for the network.

    Returns:
        Labels uint8 [H,W] of the query at its own size: 1 = object.
    """
    return label(model, [encode(model, support, size)], query, size)


@torch.no_grad()
def encode(model: DANet, support: Sequence[tuple[np.ndarray, np.ndarray]], size: int) -> SupportCode:
    """Encode the labelled pictures of one class, as ``predict_array`` takes them, for any number of queries."""
    device = model.backbone.mean.device
    pictures = torch.stack([to_tensor(letterbox_image(image, size)) for image, _ in support])
    masks = torch.stack([torch.from_numpy(letterbox_mask(mask, size)) for _, mask in support])
    return model.encode_support(pictures[None].to(device), masks[None].to(device))


@torch.no_grad()
def label(model: DANet, classes: Sequence[SupportCode], query: np.ndarray, size: int) -> np.ndarray:
    """Label a picture uint8 [H,W,3] by encoded classes: uint8 [H,W], n where it shows the n-th of them, or 0."""
    features = model.backbone(to_tensor(letterbox_image(query, size))[None].to(model.backbone.mean.device))
    logits = torch.cat([model.segment_features(features, code, (size, size)).logits for code in classes])
    found = exclusive(logits[:, 1] - logits[:, 0], len(classes))
    labels = (found * torch.arange(1, len(classes) + 1, device=found.device)[:, None, None]).sum(0)
    height, width = query.shape[:2]
    return unletterbox(labels.to(torch.uint8).cpu().numpy(), (height, width))
