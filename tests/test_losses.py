"""The loss by hand: each term, what is ignored, and parts that add up to the whole."""

import math

import pytest
import torch

from fss.losses import Whole, episode_loss
from fss.model import Prediction

pytestmark = pytest.mark.numbers


def logits_of(foreground: list[list[float]]) -> torch.Tensor:
    """[1,2,H,W] whose softmax gives these probabilities of foreground."""
    p = torch.tensor(foreground)[None]
    return torch.stack([(1 - p).log(), p.log()], dim=1)


TARGET = torch.tensor([[[1, 0, 255], [1, 255, 0]]], dtype=torch.uint8)
LIKELY = logits_of([[0.5, 0.25, 0.9], [0.8, 0.9, 0.1]])
BY_HAND = -(math.log(0.5) + math.log(0.75) + math.log(0.8) + math.log(0.9)) / 4


def test_the_loss_is_the_mean_over_labelled_pixels():
    found = episode_loss(Prediction(LIKELY), TARGET, aux_weight=1.0)
    assert found.item() == pytest.approx(BY_HAND, rel=1e-6)


def test_the_loss_counts_pixels_not_episodes():
    half = torch.tensor([[[255, 0, 255], [255, 255, 255]]], dtype=torch.uint8)
    found = episode_loss(Prediction(torch.cat([LIKELY, LIKELY])), torch.cat([TARGET, half]), aux_weight=1.0)
    assert found.item() == pytest.approx((4 * BY_HAND - math.log(0.75)) / 5, rel=1e-6)


def test_ignored_pixels_do_not_matter():
    logits = LIKELY.clone()
    logits[:, :, 0, 2] = torch.tensor([-50.0, 50.0])
    a, b = (episode_loss(Prediction(x), TARGET, 1.0) for x in (LIKELY, logits))
    assert a == b
    nothing = episode_loss(Prediction(LIKELY), torch.full_like(TARGET, 255), 1.0)
    assert nothing == 0


def test_inner_losses_are_averaged_weighted_and_resized():
    even = torch.zeros(1, 2, 1, 1)  # log 2 wherever it is resized to
    prediction = Prediction(LIKELY, aux=[even, LIKELY])
    for weight in (0.0, 0.4, 1.0):
        expected = BY_HAND + weight * (math.log(2) + BY_HAND) / 2
        assert episode_loss(prediction, TARGET, weight).item() == pytest.approx(expected, rel=1e-6)


def test_the_soft_iou_loss_by_hand():
    intersection = 0.5 + 0.8
    union = (0.5 + 0.25 + 0.8 + 0.1) + 2 - intersection  # known pixels: (0,0) (0,1) (1,0) (1,2)
    expected = 1 - (intersection + 1) / (union + 1)
    found = episode_loss(Prediction(LIKELY), TARGET, 1.0, iou_weight=2.0)
    assert found.item() == pytest.approx(BY_HAND + 2 * expected, rel=1e-6)
    both = Prediction(torch.cat([LIKELY, LIKELY])), torch.cat([TARGET, 0 * TARGET])
    empty = 1 - 1 / (0.5 + 0.25 + 0.9 + 0.8 + 0.9 + 0.1 + 1)
    difference = episode_loss(*both, 1.0, 1.0) - episode_loss(*both, 1.0)
    assert difference.item() == pytest.approx((expected + empty) / 2, rel=1e-6)
    nothing = episode_loss(Prediction(LIKELY), torch.full_like(TARGET, 255), 1.0, 1.0)
    assert nothing == 0


def test_the_losses_of_parts_add_up_to_the_loss_of_the_batch():
    generator = torch.Generator().manual_seed(0)
    logits, inner = (torch.randn(4, 2, *s, generator=generator) for s in ((6, 5), (3, 2)))
    target = torch.tensor([0, 1, 255], dtype=torch.uint8)[torch.randint(3, (4, 6, 5), generator=generator)]
    target[1] = 255  # an episode, and a part, without a labelled pixel
    whole = Whole((target != 255).sum(), 4)
    expected = episode_loss(Prediction(logits, aux=[inner]), target, 0.4, 0.7)
    for cuts in ([1, 1, 1, 1], [1, 3], [2, 2]):
        parts = zip(*(x.split(cuts) for x in (logits, inner, target)), strict=True)
        found = sum(episode_loss(Prediction(a, aux=[b]), t, 0.4, 0.7, whole) for a, b, t in parts)
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)
