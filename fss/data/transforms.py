"""The paper's training augmentation, as a pure function of a picture and a generator."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fss.data.pictures import IGNORE, PADDING

SCALE = (0.9, 1.1)
DEGREES = 10.0
# OpenCV's sigma for a kernel of 5, which is what PFENet's blur comes to.
BLUR_KERNEL, BLUR_SIGMA = 5, 1.1
# A crop must keep this share of the object, and gets this many tries (PFENet's numbers).
KEEP, TRIES = 0.85, 30
GREY = PADDING / 255


@dataclass(frozen=True)
class PaperAugmentation:
    """Scale, rotate, blur, flip and crop a picture and its mask together, as PFENet does.

    In order: scale by 0.9 to 1.1; with probability 1/2 rotate by up to 10 degrees; with 1/2 blur
    (5 x 5); with 1/2 flip left to right; crop at random to `size` x `size`, padding a smaller
    picture. Empty area is grey in the picture, as in a letterboxed one, and 255 in the mask.

    Three differences from PFENet: where no random crop keeps 85 % of the object, the crop is
    centred on it; where scaling or rotating would lose a tiny object or one at the rim, the
    picture is neither scaled nor rotated (so that an object never vanishes); and labels are
    resampled by the area that they cover, not by the nearest pixel.

    Source: the paper's training schedule; PFENet's `util/transform.py` where it is silent
    (probabilities, order, blur).
    """

    size: int

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return image [3, size, size] float 0..1 and mask [size, size] uint8 in {0, 1, 255}.

        `image` is [3, H, W] float 0..1, `mask` [H, W] uint8; neither is changed. All chance comes
        from `generator` (on the CPU), so that an episode is a pure function of its seed.
        """
        if mask.dtype != torch.uint8 or image.shape[-2:] != mask.shape:
            raise ValueError(
                f"image {tuple(image.shape)} needs a uint8 mask of its size, not {tuple(mask.shape)} {mask.dtype}"
            )
        scale, angle, rotate, blur, flip = torch.rand(5, generator=generator).tolist()
        warped = _warp(
            image,
            mask,
            scale=SCALE[0] + (SCALE[1] - SCALE[0]) * scale,
            angle=DEGREES * (2 * angle - 1) if rotate < 0.5 else 0.0,
        )
        if (warped[1] == 1).any() or not (mask == 1).any():
            image, mask = warped
        if blur < 0.5:
            image = F.gaussian_blur(image, [BLUR_KERNEL] * 2, [BLUR_SIGMA] * 2)
        if flip < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        down, across = (max(0, self.size - side) for side in mask.shape)
        border = [across // 2, across - across // 2, down // 2, down - down // 2]  # the picture in the middle
        image, mask = pad(image, border, value=GREY), pad(mask, border, value=IGNORE)
        top, left = _window(mask, self.size, generator)
        window = (..., slice(top, top + self.size), slice(left, left + self.size))
        return image[window].clamp(0, 1), mask[window].clone(memory_format=torch.contiguous_format)


def _warp(image: Tensor, mask: Tensor, *, scale: float, angle: float) -> tuple[Tensor, Tensor]:
    """Scale, then rotate about the middle within the scaled frame.

    Object and ignored area go along as two channels, and every pixel takes the label that covers
    most of it: sampled by "nearest" twice, an edge would stray by up to half a pixel.
    """
    stack = torch.cat([image, torch.stack([mask == 1, mask == IGNORE]).to(image.dtype)])  # [5, H, W]
    height, width = (max(1, round(side * scale)) for side in mask.shape)
    stack = F.resize(stack, [height, width], InterpolationMode.BILINEAR, antialias=False)
    if angle:
        stack = F.rotate(stack, angle, InterpolationMode.BILINEAR, fill=[GREY, GREY, GREY, 0.0, 1.0])
    thing, ignored = stack[3:]
    background = 1 - thing - ignored
    labels = (thing > background).to(torch.uint8)
    return stack[:3], labels.masked_fill(ignored >= torch.maximum(background, thing), IGNORE)


def _window(mask: Tensor, size: int, generator: torch.Generator) -> tuple[int, int]:
    """Top and left of a random crop that keeps the object, or of one centred on it."""
    spare, thing = [side - size for side in mask.shape], mask == 1
    wanted = KEEP * int(thing.sum())
    for _ in range(TRIES):
        top, left = (int(torch.randint(n + 1, (), generator=generator)) for n in spare)
        if int(thing[top : top + size, left : left + size].sum()) >= wanted:
            return top, left
    pixels = thing.nonzero()
    # The middle of a ring is not on the ring: take the object's own pixel that is nearest to it.
    away = (pixels - pixels.double().mean(dim=0)).square().sum(dim=1)
    centre = pixels[away.argmin()].tolist()
    top, left = (min(max(0, at - size // 2), n) for at, n in zip(centre, spare, strict=True))
    return top, left
