"""Small networks whose gates are open, and episodes for them: wider than high, with 255 above."""

import torch
from torch import nn

from fss.config import ARMS
from fss.model import DANet
from fss.resize import resize, share_of

B, H, W = 2, 64, 96  # pixels; 8 x 12 positions at stride 8
GRID = (8, 12)
PRIORS = ["masked_features", "masked_input", "relations", None]
GATES = ("alpha", "beta", "theta")


def build(config="published", *, seed=0, dropout=0.0, **overrides):
    """A small network in eval mode whose gates are open."""
    torch.manual_seed(seed)
    base = ARMS[config]
    model = DANet(base.override({"channels": 32} | overrides), dropout=dropout)
    for name, parameter in model.named_parameters():
        if name.endswith(GATES):
            nn.init.constant_(parameter, 0.8)
    return model.eval()


def episode(shots=1, *, batch=B, height=H, width=W, seed=0):
    g = torch.Generator().manual_seed(seed)
    query = torch.rand(batch, 3, height, width, generator=g)
    support = torch.rand(batch, shots, 3, height, width, generator=g)
    mask = torch.zeros(batch, shots, height, width, dtype=torch.uint8)
    # down to the edge: of two rows of block4 with aligned corners, one lies at the very bottom
    for b in range(batch):
        for k in range(shots):
            right = 2 * width // 3 + 7 * k - 11 * b  # each picture's own
            mask[b, k, height // 4 :, width // 3 + 3 : right] = 1
    mask[..., : height // 8, :] = 255
    return query, support, mask


def run(model, *inputs, **options):
    with torch.no_grad():
        return model(*inputs, **options)


def fit(x, size):
    """Lite0's geometry: cells, not corners, coincide."""
    return resize(x, size, aligned=False)


def cover(mask, like):
    return share_of(mask, 1, like, aligned=False)


def middle(model, pictures):
    """Block2 and block3 at one size, divided by how far Lite0's numbers spread."""
    features = model.backbone(pictures)
    return features.block2 / 8, fit(features.block3 / 8, GRID)


def copy_head(source, target):
    target.load_state_dict(source.head_state(), strict=False)
    return target
