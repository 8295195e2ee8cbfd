"""Segment a picture file by labelled picture files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fss.data.dataset import to_tensor
from fss.data.folder import save_picture
from fss.data.pictures import letterbox_image, letterbox_mask, read_pair, read_rgb, unletterbox
from fss.errors import InputError
from fss.model import DANet

# Said of a query, by its name, whose prediction is background alone.
NOTHING_FOUND = "nothing found: no pixel of {} is marked; the query may not show what the support's mask marks"


@torch.no_grad()
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
    device = model.backbone.mean.device
    pictures = [to_tensor(letterbox_image(image, size)) for image, _ in support]
    masks = [torch.from_numpy(letterbox_mask(mask, size)) for _, mask in support]
    prediction = model(
        to_tensor(letterbox_image(query, size))[None].to(device),
        torch.stack(pictures)[None].to(device),
        torch.stack(masks)[None].to(device),
    )
    labels = prediction.mask()[0].to(torch.uint8).cpu().numpy()
    height, width = query.shape[:2]
    return unletterbox(labels, (height, width))


def predict_files(
    model: DANet, support: Sequence[tuple[Path, Path]], query: Path, out: Path, size: int | None = None
) -> float:
    """Write the predicted mask of ``query`` to ``out``: a PNG of 0 and 255 at the query's size.

    Where nothing is found, it is 0 everywhere: then the query may lack the object, which is no error.
    ``size`` is that of ``predict_array``, by default the one that the network was trained at.

    Returns:
        The share of the picture that is object, 0..1; 0 only where no pixel is.

    Raises:
        InputError: a file that is no picture or mask, a query that is a support picture, a size
            below 32, or an ``out`` that cannot be written or would overwrite an input.
    """
    size = model.trained.get("size", 224) if size is None else size
    if size < 32:
        raise InputError(f"size {size} px is too small; choose at least 32")
    if out.suffix.lower() != ".png":
        raise InputError(f"{out}: masks are written as PNG; let the name end in .png")
    # Beside the query may lie its own label, by which one wants to judge the prediction.
    inputs = {path.resolve() for path in (*sum(support, ()), query, query.with_suffix(".png"))}
    if out.resolve() in inputs:
        raise InputError(f"{out}: is one of the inputs, or the mask beside the query; choose another name for the mask")
    if query.resolve() in [image.resolve() for image, _ in support]:
        raise InputError(f"{query}: is both support and query; its mask is known already")
    labels = predict_array(model, [read_pair(*pair) for pair in support], read_rgb(query), size)
    save_picture(out, labels * np.uint8(255))
    return float(labels.mean())
