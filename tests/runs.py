"""Short runs on boxes with a tiny backbone, and what disturbs them."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import boxes, tiny_backbones

import fss.train as training
from fss.config import DANetConfig, DataConfig, TrainConfig
from fss.run import read_log
from fss.train import train, train_step

NETWORK = DANetConfig.published(channels=8)
SHORT = TrainConfig(steps=20, batch=2, size=64, warmup=3, lr=5e-3, val_every=7, val_episodes=3, seed=4)
SPLITS = {"train": (6, 5), "val": (2, 4), "test": (2, 4)}  # classes, pictures


def open_boxes(spec: str, *, split: str, fold: int | None, size: int, options=DataConfig()):
    classes, pictures = SPLITS[split]
    return replace(boxes(classes, pictures, size=size, split=split), spec=spec, fold=fold)


@pytest.fixture(autouse=True)
def tiny_world(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(training, "open_dataset", open_boxes)
    with tiny_backbones():
        yield


HEAD = "step,loss,val_miou\n"


def run(out: Path, config: TrainConfig = SHORT, network: DANetConfig = NETWORK, **options):
    return train(network, config, "boxes", out, **{"progress": False, **options})


def log(out: Path) -> list[dict]:
    return read_log(out / "log.csv")


def weights(out: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(out / f"{name}.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed, and the network that it gave."""
    with pytest.MonkeyPatch.context() as patched, tiny_backbones():
        patched.setattr(training, "open_dataset", open_boxes)
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("unbroken")
        run(out)
    return out


@pytest.fixture
def stop_after(monkeypatch):
    """Let the process get a signal while the step after ``step`` is computed."""

    def arm(step: int, number: signal.Signals) -> None:
        taken = []

        def interrupted(*args):
            loss = train_step(*args)
            taken.append(loss)
            if len(taken) == step:
                signal.raise_signal(number)
            return loss

        monkeypatch.setattr(training, "train_step", interrupted)

    def not_ours(number, frame):
        raise AssertionError("the training does not listen to signals")

    before = {n: signal.signal(n, not_ours) for n in (signal.SIGTERM, signal.SIGINT)}
    yield arm
    listening = {n: signal.getsignal(n) for n in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert set(listening.values()) == {not_ours}  # given back after the training
