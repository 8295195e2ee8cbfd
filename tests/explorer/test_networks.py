"""What the explorer offers is there, and a checkpoint is read as it is now."""

import os

import pytest

from fss.checkpoint import save_checkpoint
from fss.config import ARMS
from fss.errors import InputError
from fss.explorer import NETWORKS, network


def test_networks():
    assert network("intended") is network("intended")
    assert network("intended").trained and not network("base, untrained").trained
    assert network("base, untrained").config.lda is False
    assert {name for name, weights in NETWORKS.items() if weights} == {
        "intended",
        "published",
        "best",
    }
    for name, config in ARMS.items():
        if f"{name}, untrained" in NETWORKS:
            assert network(f"{name}, untrained").config == config
    assert all(network(name) for name in NETWORKS)
    with pytest.raises(InputError, match="no checkpoint 'nothing'"):
        network("nothing")


def test_a_run_that_goes_on_is_read_anew(tmp_path):
    first, second = network("base, untrained"), network("intended, untrained")
    best = tmp_path / "best.safetensors"
    save_checkpoint(first, best, trained={})
    assert network(str(tmp_path)) is network(str(tmp_path))
    assert network(str(tmp_path)).config == first.config
    save_checkpoint(second, best, trained={})
    os.utime(best, ns=(0, 0))
    assert network(str(tmp_path)).config == second.config
