"""Counts on the meta device against the real thing: operations, caches, checkpoints, memory."""

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from fss.config import DANetConfig, TrainConfig
from fss.engine import start
from fss.episodes import EpisodeStream
from fss.evaluate import network
from fss.features import CachedFeatures, LiveFeatures, extract
from fss.lab.cost import _Live, count
from fss.model import DANet
from fss.run import RunFolder
from fss.train import make_optimizer, train_step

CONFIGS = {
    "published": DANetConfig.published(channels=8),
    "pfenet": DANetConfig.pfenet(channels=8),
    "best": DANetConfig.best(channels=8),
}


@pytest.fixture(autouse=True, params=["adamw", "sgd"])
def schedule(request):
    with tiny.tiny_backbones():
        yield TrainConfig(size=64, batch=3, optimizer=request.param, cache=False)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_what_is_counted_is_what_is_done(config, schedule, tmp_path):
    cost = count(config, schedule, (1, 2))
    model, data = DANet(config).train(), tiny.boxes(size=64)
    accelerator = start()
    optimizer = accelerator.prepare(make_optimizer(model, schedule))
    stream = EpisodeStream(data, 1, 0, 3)
    with FlopCounterMode(display=False) as counter:
        (batch,) = LiveFeatures(model, data).batches(stream, 3)
        train_step(model, optimizer, batch, schedule.aux_weight, accelerator=accelerator)
    assert cost.step == counter.get_total_flops() / 2 > 0

    model.eval()
    for shots in (1, 2):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            (batch,) = LiveFeatures(model, data).batches(EpisodeStream(data, shots, 0, 8), 8)
            network(model)(batch)
        assert cost.episodes[shots] == counter.get_total_flops() / 2 / 8

    cached = count(config, TrainConfig(size=64, batch=3, optimizer=schedule.optimizer), (1,))
    assert 0 < cached.step < cost.step and 0 < cached.episodes[1] < cost.episodes[1]
    source = CachedFeatures(model, data)
    held = sum(source.table[name].nbytes for name in source.table.dtype.names if name != "key")
    assert cost.features == held / len(source.rows)
    assert cost.head == cached.step
    images, labels = torch.zeros(16, 3, 64, 64), torch.zeros(16, 64, 64, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        extract(model, images, labels)
    assert cost.picture == counter.get_total_flops() / 2 / 16
    assert count(config, schedule.override({"shots": 2}), (1,)).features == cost.features

    run = RunFolder(tmp_path, model, optimizer, {"train": {}}, accelerator)
    run.validated(0.5)
    run.save()
    tensors = [t for name in ("best", "last") for t in load_file(tmp_path / f"{name}.safetensors").values()]
    assert cost.saved == sum(t.numel() * t.element_size() for t in tensors)


def test_a_larger_batch_needs_more_memory(schedule):
    small, large = (count(CONFIGS["published"], schedule.override({"batch": batch}), (1,)).memory for batch in (16, 32))
    assert small < large < 2 * small  # weights are the same


def test_memory_by_hand():
    with _Live() as live:
        a = torch.empty(100, device="meta")
        b = a + 1  # 800 bytes are alive
        view = b.view(10, 10)
        del b
        assert live.peak == 800
        del view
        c = torch.empty(150, dtype=torch.float16, device="meta")  # in place of b: 700
        assert live.peak == 800
        d = c.float()
    assert live.peak == 400 + 300 + 600
    del a, c, d
