"""The training augmentation: pure, joint, and never without the object."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from fss.data import transforms
from fss.data.transforms import PaperAugmentation

pytestmark = pytest.mark.numbers

GREY = 127 / 255


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(height: int = 40, width: int = 56, radius: float = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """A white disc on black, off the middle, and its mask."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    mask = ((y - 15) ** 2 + (x - 30) ** 2 <= radius**2).to(torch.uint8)
    return mask.float().expand(3, -1, -1).clone(), mask


def only(monkeypatch, *, scale: float = 1.0, degrees: float = 0.0) -> None:
    monkeypatch.setattr(transforms, "SCALE", (scale, scale))
    monkeypatch.setattr(transforms, "DEGREES", degrees)


def still(seed_of: dict[str, bool]) -> int:
    """A seed whose draws switch rotation, blur and flip as asked."""
    for seed in range(1000):
        *_, rotate, blur, flip = (torch.rand(5, generator=generator(seed)) < 0.5).tolist()
        if {"rotate": rotate, "blur": blur, "flip": flip} == seed_of:
            return seed
    raise AssertionError("no such seed")


PLAIN = {"rotate": False, "blur": False, "flip": False}


def test_same_seed_same_episode_whatever_the_global_state():
    image, mask = torch.rand(3, 40, 56, generator=generator(0)), disc()[1]
    kept_image, kept_mask = image.clone(), mask.clone()
    augment = PaperAugmentation(32)
    torch.manual_seed(1)
    first = augment(image, mask, generator(5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = augment(image, mask, generator(5))
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other) and type(one) is torch.Tensor and one.is_contiguous()
    assert torch.equal(image, kept_image) and torch.equal(mask, kept_mask)
    assert not torch.equal(augment(image, mask, generator(6))[0], first[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        augment.size = 3


def test_result_never_shares_memory_with_the_input(monkeypatch):
    only(monkeypatch)
    image, mask = disc(40, 40)
    new_image, new_mask = PaperAugmentation(40)(image, mask, generator(still(PLAIN)))
    assert torch.equal(new_image, image) and torch.equal(new_mask, mask)
    new_image.zero_(), new_mask.zero_()
    assert image.any() and mask.any()


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(8, 60),
    width=st.integers(8, 60),
    size=st.integers(8, 64),
    seed=st.integers(0, 2**31),
    area=st.sampled_from(["pixel", "corner", "some", "rim", "none"]),
)
def test_contract_over_shapes_and_seeds(height, width, size, seed, area):
    chance = generator(seed)
    image = torch.rand(3, height, width, generator=chance)
    mask = torch.zeros(height, width, dtype=torch.uint8)
    if area == "pixel":
        mask.view(-1)[torch.randint(height * width, (), generator=chance)] = 1
    elif area == "corner":
        mask[-1, -1] = 1
    elif area == "rim":
        mask[0], mask[-1], mask[:, 0], mask[:, -1] = 1, 1, 1, 1
    elif area == "some":
        mask = torch.rand(height, width, generator=chance).mul(3).to(torch.uint8)
        mask[mask == 2] = 255
        mask[0, 0] = 1
    new_image, new_mask = PaperAugmentation(size)(image, mask, generator(seed))
    assert new_image.shape == (3, size, size) and new_image.dtype == torch.float32
    assert new_mask.shape == (size, size) and new_mask.dtype == torch.uint8
    assert 0 <= new_image.min() and new_image.max() <= 1
    assert set(new_mask.unique().tolist()) <= {0, 1, 255}
    assert (new_mask == 1).any() == (area != "none")


@pytest.mark.parametrize(("label", "fill"), [(1, 0.0), (255, 1.0)])
def test_picture_and_mask_move_together(monkeypatch, label, fill):
    """A white area on black is where the picture is brighter than half, to the pixel."""
    monkeypatch.setattr(transforms, "GREY", fill)  # black is no object, white is ignored
    monkeypatch.setattr(transforms, "BLUR_KERNEL", 1)
    image, mask = disc()
    places = set()
    for seed in range(40):
        new_image, new_mask = PaperAugmentation(64)(image, mask * label, generator(seed))
        assert torch.equal(new_image[0] > 0.5, new_mask == label)
        places.add(tuple((new_mask == label).nonzero().double().mean(dim=0).tolist()))
    assert len(places) > 20


def test_rounding_never_leaves_the_range():
    image, mask = torch.ones(3, 40, 41), torch.ones(40, 41, dtype=torch.uint8)
    brightest = [PaperAugmentation(40)(image, mask, generator(n))[0].max() for n in range(20)]
    assert max(brightest) == 1  # interpolation and blur come to 1 + 2e-7


def test_empty_area_is_grey_and_ignored(monkeypatch):
    only(monkeypatch)
    image, mask = disc(40, 56)
    image, mask = PaperAugmentation(64)(image, mask, generator(still(PLAIN)))
    assert (mask[:12] == 255).all() and (mask[52:] == 255).all()
    assert (mask[:, :4] == 255).all() and (mask[:, 60:] == 255).all()
    assert (mask[12:52, 4:60] != 255).all()
    assert torch.allclose(image[:, mask == 255], torch.tensor(GREY))


def test_rotation_fills_with_grey_and_255(monkeypatch):
    only(monkeypatch, degrees=10.0)
    monkeypatch.setattr(transforms, "GREY", 0.25)
    seed = still(PLAIN | {"rotate": True})
    image, mask = torch.ones(3, 40, 40), torch.zeros(40, 40, dtype=torch.uint8)
    new_image, new_mask = PaperAugmentation(40)(image, mask, generator(seed))
    corners = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    assert all(new_mask[corner] == 255 for corner in corners)
    assert all(new_image[0][corner] == pytest.approx(0.25) for corner in corners)
    assert (new_mask[10:30, 10:30] == 0).all() and new_image[:, 10:30, 10:30].min() > 0.9999

    # the same as torchvision's own joint transform by that angle
    angle = 10 * (2 * torch.rand(5, generator=generator(seed))[1].item() - 1)
    rotation = v2.RandomRotation(
        (angle, angle),
        interpolation=v2.InterpolationMode.BILINEAR,
        fill={tv_tensors.Image: 0.25, tv_tensors.Mask: 255},
    )
    theirs = rotation(tv_tensors.Image(image), tv_tensors.Mask(mask))
    assert torch.allclose(new_image, theirs[0].as_subclass(torch.Tensor), atol=1e-5)
    differ = new_mask != theirs[1].as_subclass(torch.Tensor)
    assert not differ[4:-4, 4:-4].any() and differ.sum() <= 20  # half pixels at the rim


def test_flip_mirrors_both(monkeypatch):
    only(monkeypatch)
    image, mask = disc(40, 40)
    seed = still(PLAIN | {"flip": True})
    new_image, new_mask = PaperAugmentation(40)(image, mask, generator(seed))
    assert torch.equal(new_image, image.flip(-1)) and torch.equal(new_mask, mask.flip(-1))


def test_blur_softens_the_picture_alone(monkeypatch):
    only(monkeypatch)
    image, mask = torch.zeros(3, 40, 40), disc(40, 40)[1]
    image[:, 20, 10] = 1.0
    seed = still(PLAIN | {"blur": True})
    new_image, new_mask = PaperAugmentation(40)(image, mask, generator(seed))
    assert torch.equal(new_mask, mask)
    assert new_image[0].sum().item() == pytest.approx(1, abs=1e-5)
    rows, cols = new_image[0].nonzero().T
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (18, 22, 8, 12)
    # e^(-1 / (2 * 1.1^2)) is how a Gaussian of sigma 1.1 falls over one pixel
    assert (new_image[0, 20, 11] / new_image[0, 20, 10]).item() == pytest.approx(0.66152, abs=1e-4)


def test_ranges_of_scale_and_rotation(monkeypatch):
    seen = []
    warp = transforms._warp

    def spy(image, mask, *, scale, angle):
        seen.append((scale, angle))
        return warp(image, mask, scale=scale, angle=angle)

    monkeypatch.setattr(transforms, "_warp", spy)
    for seed in range(150):
        PaperAugmentation(16)(*disc(20, 24), generator(seed))
    scales, angles = torch.tensor(seen).T
    assert 0.9 <= scales.min() < 0.91 and 1.09 < scales.max() <= 1.1
    assert -10 <= angles.min() < -9 and 9 < angles.max() <= 10
    assert 50 < (angles == 0).sum() < 100


def test_crop_keeps_most_of_the_object():
    """A random window holds all of this object in about one try of five."""
    image = torch.rand(3, 90, 120, generator=generator(0))
    mask = torch.zeros(90, 120, dtype=torch.uint8)
    mask[60:84, 8:32] = 1
    places = set()
    for seed in range(40):
        _, new_mask = PaperAugmentation(48)(image, mask, generator(seed))
        kept = (new_mask == 1).sum().item()
        assert kept >= 0.85 * 0.9**2 * 24 * 24 * 0.95
        places.add(tuple((new_mask == 1).nonzero()[0].tolist()))
    assert len(places) > 20  # at random, not always in the middle


def test_crop_that_cannot_hold_the_object_is_centred_on_it(monkeypatch):
    only(monkeypatch)
    mask = torch.zeros(200, 300, dtype=torch.uint8)
    mask[150:180, 40:100] = 1
    image = mask.float().expand(3, -1, -1)
    _, new_mask = PaperAugmentation(20)(image, mask, generator(still(PLAIN)))
    assert (new_mask == 1).all()


def test_crop_of_a_hollow_object_holds_some_of_it(monkeypatch):
    only(monkeypatch)
    mask = torch.zeros(200, 300, dtype=torch.uint8)
    mask[50:150, 100], mask[50:150, 199] = 1, 1
    image = mask.float().expand(3, -1, -1)
    _, new_mask = PaperAugmentation(20)(image, mask, generator(still(PLAIN)))
    assert (new_mask == 1).sum() == 20


def test_wrong_arguments_are_named():
    image, mask = disc()
    with pytest.raises(ValueError, match=r"\(3, 40, 56\) needs a uint8 mask .* \(39, 56\)"):
        PaperAugmentation(32)(image, mask[1:], generator(0))
    with pytest.raises(ValueError, match=r"torch.int64"):
        PaperAugmentation(32)(image, mask.long(), generator(0))
