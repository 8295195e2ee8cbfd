"""Random episodes through every arm: no crash, no value that is not finite.

`FSS_RANDOM_EPISODES=20000 pytest tests/test_random_episodes.py` is the long run; by default it is a
short one.
"""

import os

import pytest
import torch
from networks import frozen

import fss.model
from fss.config import ARMS
from fss.losses import episode_loss
from fss.model import DANet

EPISODES = int(os.environ.get("FSS_RANDOM_EPISODES", "240"))
MASKS = ("empty", "full", "ignored", "one pixel", "box", "noise")


def random_mask(kind, shots, height, width, generator):
    """Labels [1,K,h,w] of one kind, the first shot's at least."""
    mask = torch.zeros(1, shots, height, width, dtype=torch.uint8)
    row, col = (int(torch.randint(side, (), generator=generator)) for side in (height, width))
    if kind == "full":
        mask.fill_(1)
    elif kind == "ignored":
        mask.fill_(255)
    elif kind == "one pixel":
        mask[:, 0, row, col] = 1
    elif kind == "box":
        mask[..., row // 2 : row + 1, col // 2 : col + 1] = 1
    elif kind == "noise":
        labels = torch.tensor([0, 1, 255], dtype=torch.uint8)
        mask = labels[torch.randint(3, mask.shape, generator=generator)]
    return mask


def random_episode(number):
    """Query, support and mask of episode `number`, each size and number of shots its own."""
    g = torch.Generator().manual_seed(number)
    height, width = (int(torch.randint(33, 97, (), generator=g)) for _ in range(2))
    shots = int(torch.randint(1, 4, (), generator=g))
    kind = MASKS[int(torch.randint(len(MASKS), (), generator=g))]
    query = torch.rand(1, 3, height, width, generator=g)
    support = torch.rand(1, shots, 3, height, width, generator=g)
    if number % 7 == 0:  # flat pictures have features without any contrast
        query, support = 0 * query + 0.5, 0 * support
    return query, support, random_mask(kind, shots, height, width, g), kind


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("arm", ARMS)
def test_every_output_and_gradient_is_finite(arm, turn, monkeypatch):
    monkeypatch.setattr(fss.model, "load_backbone", lambda name, pretrained: frozen(name))
    torch.manual_seed(turn)
    model = DANet(ARMS[arm].override({"channels": 16}), dropout=0.1)
    for name, parameter in model.named_parameters():
        if name.endswith(("alpha", "beta", "theta")):
            torch.nn.init.constant_(parameter, 0.7)
    share = -(-EPISODES // (4 * len(ARMS)))  # at least as many as asked for
    for number in range(turn * share, (turn + 1) * share):
        query, support, mask, kind = random_episode(number)
        model.train(number % 2 == 0)
        prediction = model(query, support, mask, need_maps=number % 3 == 0)
        loss = episode_loss(prediction, mask[:, 0], aux_weight=1.0)
        tensors = [prediction.logits, *prediction.aux, *prediction.attention.values(), loss]
        if number % 5 == 0:
            model.zero_grad()
            loss.backward()
            tensors += [p.grad for p in model.parameters() if p.grad is not None]
        told = f"episode {number}: {tuple(support.shape)}, mask {kind}"
        assert all(tensor.isfinite().all() for tensor in tensors), told
        assert prediction.logits.shape[-2:] == query.shape[-2:], told
