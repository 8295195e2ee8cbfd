"""The networks that the explorer offers: the shipped ones, fresh ones, and any checkpoint."""

from functools import lru_cache
from pathlib import Path

import torch

from fss.checkpoint import find_checkpoint, load
from fss.config import arm
from fss.data.pictures import stamp
from fss.model import DANet

NETWORKS = {
    "intended": "intended-lite0-shapes",
    "published": "published-lite0-shapes",
    "best": "best-lite0-photos",
    "base, untrained": None,
    "published, untrained": None,
    "intended, untrained": None,
    "best, untrained": None,
}
"""What a widget offers. Weights of the first three are shipped; the others are fresh ones."""


def network(name: str | DANet) -> DANet:
    """Load one of ``NETWORKS``, or a checkpoint (see ``fss.load``), and keep it; a network is returned in eval mode.

    Raises:
        InputError: no such network.
    """
    if isinstance(name, DANet):
        return name.eval()
    weights = NETWORKS.get(name, name)
    if weights is None:
        return _fresh(name.removesuffix(", untrained"))
    file = find_checkpoint(weights)
    return _read(file, stamp(file))


@lru_cache(maxsize=8)
def _read(file: Path, written: str) -> DANet:
    """A file as it was ``written``: a run that goes on writes it anew."""
    return load(file)


@lru_cache(maxsize=8)
def _fresh(name: str) -> DANet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DANet(arm(name)).eval()
