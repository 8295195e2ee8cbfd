import json
import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from processes import Fss
from safetensors.torch import load_file
from tiny import boxes, load_tiny, network, tiny_backbones, write_boxes

import fss.train as training
from fss.config import DANetConfig, TrainConfig
from fss.engine import share, start
from fss.episodes import EpisodeStream, batch_indices
from fss.errors import InputError
from fss.features import FeatureBatch, LiveFeatures
from fss.lab.replay import replay
from fss.model import DANet
from fss.run import read_log
from fss.train import (
    NonFinite,
    episode_loss,
    make_optimizer,
    take_step,
    train,
    train_step,
)

ROOT = Path(__file__).parent.parent
SHORT = TrainConfig(steps=8, batch=4, size=64, warmup=3, lr=5e-3, dropout=0.0, val_every=5, val_episodes=3)
DATA = boxes(4, 6, split="train")


def batch_of(model: DANet, episodes: int = 4, shots: int = 2) -> FeatureBatch:
    return next(LiveFeatures(model, DATA).batches(EpisodeStream(DATA, shots, 3, 40), episodes))


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- shares of a batch ----------------------------------------------------------------------------


@pytest.mark.parametrize("arm", [DANetConfig.published, DANetConfig.pfenet, DANetConfig.best])
def test_steps_in_parts_are_the_steps_of_the_whole(arm, monkeypatch):
    # In float64: an input of a ReLU that float32 rounds to either side of 0 tells runs apart.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    runs = []
    for parts in (1, 2, 4):
        with tiny_backbones():
            torch.manual_seed(0)
            model = DANet(arm(channels=8), dropout=0.0).double()
        optimizer = make_optimizer(model, SHORT)
        options = (SHORT.aux_weight, 0.5, start(accumulate=parts))
        batches = LiveFeatures(model, DATA).batches(EpisodeStream(DATA, 2, 3, 12), 4)
        losses = [train_step(model, optimizer, batch, *options) for batch in batches]
        runs.append((losses, model.head_state()))
    for losses, weights in runs[1:]:
        assert losses == pytest.approx(runs[0][0], abs=1e-12)
        for name, value in weights.items():
            torch.testing.assert_close(value, runs[0][1][name], atol=1e-9, rtol=0)
    assert len(losses) == 3 and losses[2] != losses[0]


@pytest.mark.parametrize("n", [0, 1, 8, 19, 40])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_out_every_episode_once(n, world):
    shares = [batch_indices(n, 8, 8 * rank, 8 * world) for rank in range(world)]
    assert sorted(i for part in shares for i in part) == list(range(n))
    for part in shares:
        assert all(i // 8 % world == shares.index(part) for i in part)


@pytest.mark.parametrize(("batch", "world", "parts", "mine"), [(4, 1, 1, 4), (4, 2, 2, 2), (4, 4, 1, 1), (6, 3, 2, 2)])
def test_the_share_of_a_process(batch, world, parts, mine):
    started = SimpleNamespace(num_processes=world, gradient_accumulation_steps=parts)
    assert share(started, batch) == mine


@pytest.mark.parametrize(("batch", "world", "parts"), [(4, 3, 1), (4, 1, 3), (4, 2, 4), (2, 4, 1)])
def test_a_batch_that_does_not_divide_is_refused(batch, world, parts):
    started = SimpleNamespace(num_processes=world, gradient_accumulation_steps=parts)
    message = f"a batch of {batch} cannot be divided among {world} processes in {parts} parts"
    with pytest.raises(InputError, match=message):
        share(started, batch)


def test_bad_parts_leave_no_run(tmp_path):
    for parts, message in ((3, "a batch of 4 cannot be divided"), (0, "accumulate = 0: use 1")):
        with pytest.raises(InputError, match=message):
            train(DANetConfig(), SHORT, "shapes", tmp_path / "run", accumulate=parts)
    assert os.listdir(tmp_path) == []


# --- what accelerate is started with --------------------------------------------------------------


def test_one_process_may_start_again_in_another_format():
    for precision, format_ in (("float32", "no"), ("bfloat16", "bf16"), ("float32", "no")):
        accelerator = start(precision=precision)
        assert accelerator.mixed_precision == format_
        assert accelerator.device == torch.device("cpu")
        assert (accelerator.num_processes, accelerator.is_main_process) == (1, True)
        with accelerator.autocast():
            product = torch.ones(2, 3) @ torch.ones(3, 2)
        assert product.dtype == getattr(torch, precision)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "meta"}, "device 'meta' cannot be used"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"precision": "float16"}, "precision = float16 is for a GPU"),
    ],
)
def test_what_is_not_there_is_one_line(options, message):
    with pytest.raises(InputError, match=message):
        start(**options)


def test_what_accelerate_refuses_is_one_line(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MASTER_PORT", "1")  # of a launcher that does not say where
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match="accelerate cannot start on cpu in float32: "):
        start()


# --- number formats; on a CPU they are slow, but the same code ------------------------------------


def narrow(device: str = "cpu", *, precision: str = "float16", **options: Any) -> Accelerator:
    """In place of ``start``: in float16, the CPU with what accelerate gives a GPU alone."""
    accelerator = start(device, precision="bfloat16" if precision == "float16" else precision)
    if precision == "float16":
        accelerator.state._mixed_precision = "fp16"
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
    return accelerator


@pytest.fixture
def tiny_world(monkeypatch):
    def open_boxes(spec, *, split, fold, size, options=None):
        return replace(boxes(4, 5, size=size, split=split), spec=spec)

    monkeypatch.setattr(training, "open_dataset", open_boxes)
    with tiny_backbones():
        yield


def run(out: Path, **options: Any) -> DANet:
    settings = {name: options.pop(name) for name in list(options) if hasattr(SHORT, name)}
    config = replace(SHORT, **settings)
    return train(DANetConfig(channels=8), config, "boxes", out, progress=False, **options)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("arm", [DANetConfig.intended, DANetConfig.pfenet, DANetConfig.best])
def test_a_step_in_a_narrow_format_is_nearly_the_same(precision, arm):
    losses, moved, used = [], [], []
    for each in ("float32", precision):
        with tiny_backbones():
            torch.manual_seed(0)
            model = DANet(arm(channels=8), dropout=0.0)
        model.reduce_query.register_forward_hook(lambda *args: used.append(args[-1].dtype))
        before = torch.cat([p.detach().flatten() for p in model.decoder.parameters()])
        accelerator = narrow(precision=each)
        optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), 1.0))
        losses.append(train_step(model, optimizer, batch_of(model), 1.0, 0.5, accelerator))
        after = torch.cat([p.detach().flatten() for p in model.decoder.parameters()])
        moved.append(after - before)
    assert used == [torch.float32, getattr(torch, precision)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert torch.cosine_similarity(*moved, dim=0) > 0.99
    assert moved[1].norm() == pytest.approx(moved[0].norm().item(), rel=0.1)  # unscaled again


def test_a_gradient_that_overflows_costs_one_step_and_half_the_scale():
    model = network()
    accelerator = narrow()
    optimizer = accelerator.prepare(make_optimizer(model, SHORT))
    batch = batch_of(model)
    accelerator.scaler.load_state_dict({**accelerator.scaler.state_dict(), "scale": 1e38})
    before = {name: value.clone() for name, value in model.head_state().items()}
    take_step(model, optimizer, batch, SHORT, 0, 8, accelerator)
    assert equal(model.head_state(), before)
    assert accelerator.scaler.get_scale() == pytest.approx(5e37)
    accelerator.scaler.load_state_dict({**accelerator.scaler.state_dict(), "scale": 1024.0})
    take_step(model, optimizer, batch, SHORT, 1, 8, accelerator)
    assert not equal(model.head_state(), before)


def test_a_gradient_that_no_scale_mends_is_told(monkeypatch):
    def steep(*args):
        loss = episode_loss(*args)
        return loss + (0 * loss).sqrt()  # sqrt has an infinite slope at 0

    monkeypatch.setattr(training, "episode_loss", steep)
    model = network()
    accelerator = narrow()
    optimizer = accelerator.prepare(make_optimizer(model, SHORT))
    accelerator.scaler.load_state_dict({**accelerator.scaler.state_dict(), "scale": 4.0})
    batch = batch_of(model)
    train_step(model, optimizer, batch, 1.0, 0.0, accelerator)
    train_step(model, optimizer, batch, 1.0, 0.0, accelerator)
    with pytest.raises(NonFinite, match="but its gradient is nan"):
        train_step(model, optimizer, batch, 1.0, 0.0, accelerator)


@pytest.mark.parametrize("cache", [True, False])
def test_a_run_in_float16_resumes_bit_for_bit_with_its_scale(tmp_path, tiny_world, monkeypatch, cache):
    monkeypatch.setattr(training, "start", narrow)  # its scale grows after every second step
    settings = dict(precision="float16", cache=cache, dropout=0.3)
    run(tmp_path / "unbroken", **settings)
    step = training.train_step
    taken = []

    def interrupted(*args):
        taken.append(args)
        if len(taken) == 3:
            signal.raise_signal(signal.SIGTERM)
        return step(*args)

    monkeypatch.setattr(training, "train_step", interrupted)
    with pytest.raises(training.Stopped, match="after step 3 of 8"):
        run(tmp_path / "stopped", **settings)
    run(tmp_path / "stopped", resume=True, **settings)
    a, b = (load_file(tmp_path / name / "last.safetensors") for name in ("unbroken", "stopped"))
    assert equal(a, b)
    logs = [(tmp_path / name / "log.csv").read_text() for name in ("unbroken", "stopped")]
    assert logs[0] == logs[1]
    run(tmp_path / "float32", **{**settings, "precision": "float32"})
    assert not equal(a, load_file(tmp_path / "float32" / "last.safetensors"))


def test_a_failed_step_in_float16_is_replayed(tmp_path, tiny_world, monkeypatch):
    monkeypatch.setattr(training, "start", narrow)
    monkeypatch.setattr(training, "episode_loss", lambda *args: math.nan * episode_loss(*args))
    with pytest.raises(NonFinite):
        run(tmp_path, precision="float16")
    with pytest.raises(NonFinite, match="the loss is nan"):
        replay(tmp_path / "nonfinite.safetensors")
    monkeypatch.setattr(training, "episode_loss", episode_loss)
    assert math.isfinite(replay(tmp_path / "nonfinite.safetensors"))


# --- several processes ----------------------------------------------------------------------------


def launch(folder: Path, *args: Any, count: int = 2, **patches: Any) -> list[Fss]:
    """``fss`` in as many processes, each told what a launcher tells it."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    shared["OMP_NUM_THREADS"] = "1"  # as torchrun sets it
    processes = []
    for rank in range(count):
        own = folder / f"process {rank} of {count}"
        own.mkdir(exist_ok=True)
        environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
        processes.append(
            Fss(
                *args,
                folder=own,
                environment=environment,
                patches={"fss.model.load_backbone": load_tiny, "fss.train.LOG_EVERY": 1} | patches,
            )
        )
    return processes


def end(processes: list[Fss], code: int = 0) -> None:
    found = [process.end() for process in processes]
    assert found == [code] * len(processes), [process.err for process in processes]


def training_of(data: Path, out: Path, *settings: str) -> list[Any]:
    return [
        "train",
        "--data",
        f"folder:{data}",
        "--out",
        out,
        "--workers",
        "0",
        "--quiet",
        "--set",
        "channels=8",
        "size=64",
        "batch=4",
        "val_every=5",
        "val_episodes=11",
        *settings,
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_boxes(tmp_path_factory.mktemp("data") / "boxes", classes=6, pictures=5)


def losses(out: Path) -> list[float]:
    return [record["loss"] for record in read_log(out / "log.csv") if "loss" in record]


@pytest.mark.parametrize(
    "settings",
    [
        ("iou_weight=1",),
        ("lr_multiplier=10", "decoder=fem", "shots=2", "--preset", "paper", "--accumulate", "2"),
    ],
)
def test_two_processes_train_as_one_does(tmp_path, data, settings):
    settings = ("steps=20", "dropout=0", "warmup=3", *settings)
    for count in (1, 2):
        out = tmp_path / str(count)
        processes = launch(tmp_path, *training_of(data, out, *settings), count=count)
        end(processes)
        assert [bool(process.out) for process in processes] == [True, False][:count]
        assert [process.err for process in processes] == [""] * count
        files = ["best.safetensors", "last.safetensors", "log.csv"]
        assert sorted(os.listdir(out)) == files  # not one left over
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert len(one) == 20
    assert two == pytest.approx(one, abs=1e-5)
    assert one[-1] < one[0]


def test_processes_of_which_one_is_told_to_stop_all_stop_and_go_on_bit_for_bit(tmp_path, data):
    settings = ("steps=60", "dropout=0.3")
    end(launch(tmp_path, *training_of(data, tmp_path / "unbroken", *settings)))
    command = training_of(data, tmp_path / "stopped", *settings)
    command.remove("--quiet")
    processes = launch(tmp_path, *command)
    processes[0].wait_for("step 5:")
    processes[1].send(signal.SIGTERM)
    end(processes, 128 + signal.SIGTERM)
    assert "fss: stopped by SIGTERM after step " in processes[0].err
    assert processes[1].err == ""
    end(launch(tmp_path, *command, "--resume"))
    for name in ("last", "best"):
        a, b = (load_file(tmp_path / out / f"{name}.safetensors") for out in ("unbroken", "stopped"))
        assert equal(a, b)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "unbroken")


def test_an_evaluation_says_the_same_whatever_the_number_of_processes(tmp_path, data):
    end(launch(tmp_path, *training_of(data, tmp_path / "run", "steps=20"), count=1))
    results = []
    for count, more in ((1, []), (2, []), (3, ["--no-cache"])):
        path = tmp_path / f"{len(results)}.json"
        processes = launch(
            tmp_path,
            "eval",
            "--data",
            f"folder:{data}",
            "--checkpoint",
            tmp_path / "run",
            "--episodes",
            "21",
            "--split",
            "train",
            "--workers",
            "0",
            "--quiet",
            "--json",
            path,
            *more,
            count=count,
        )
        end(processes)
        assert [bool(process.out) for process in processes] == [True, False, False][:count]
        lines = path.read_bytes().splitlines()
        results.append([line for line in lines if not line.startswith((b' "seconds"', b"  }"))])
        assert len(results[-1]) > 40
    assert results == results[:1] * 3


def spoil(model: DANet, optimizer: Any, batch: FeatureBatch, *rest: Any) -> float:
    """In place of ``fss.train.train_step``: the third episode of four is not finite."""
    if os.environ["RANK"] == "1":
        batch.query.block2[0] = math.nan
    return train_step(model, optimizer, batch, *rest)


def test_all_processes_name_the_episode_that_is_not_finite(tmp_path, data):
    command = training_of(data, tmp_path / "run", "steps=4")
    processes = launch(tmp_path, *command, **{"fss.train.train_step": spoil})
    end(processes, 2)
    for process in processes:
        assert "step 1: the loss is nan, in episode 2, class" in process.err
        assert process.err.count("\n") == 1


def test_bad_input_of_several_processes_is_one_line(tmp_path, data):
    processes = launch(tmp_path, *training_of(data, tmp_path / "run", "batch=3"))
    end(processes, 2)
    message = (
        "fss: error: a batch of 3 cannot be divided among 2 processes in 1 parts each; start "
        "another number of processes, or set --accumulate or the batch so that processes x parts "
        "divides it\n"
    )
    assert processes[0].err == message  # the other one may not even have met it
    assert not (tmp_path / "run").exists()
    processes = launch(tmp_path, "check", "--data", f"folder:{data}")
    end(processes, 2)
    assert "only train, eval and a campaign's single runs share their work" in processes[0].err


def test_a_process_that_is_left_alone_says_so(tmp_path, data):
    command = training_of(data, tmp_path / "run", "steps=100000")
    command.remove("--quiet")
    processes = launch(tmp_path, *command)
    processes[0].wait_for("step 5:")
    processes[1].send(signal.SIGKILL)
    assert processes[1].end() == -signal.SIGKILL
    assert processes[0].end() == 2
    last = processes[0].err.splitlines()[-1]
    assert last.startswith("fss: error: another of the processes has ended or does not answer (")


@pytest.mark.slow
def test_torchrun_starts_it(tmp_path, data, cache):
    """The real launcher, a real network."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--standalone",
        "-m",
        "fss",
        "eval",
        "--data",
        f"folder:{data}",
        "--size",
        "64",
        "--episodes",
        "21",
        "--split",
        "train",
        "--workers",
        "0",
        "--quiet",
        "--json",
        str(tmp_path / "a.json"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    ran = partial(subprocess.run, env=environment, capture_output=True, text=True)
    found = ran(command)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("mIoU") == 1
    alone = ["-m", "fss", *command[command.index("eval") : -1], str(tmp_path / "b.json")]
    assert ran([sys.executable, *alone]).stdout == found.stdout
    a, b = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert (a.pop("seconds") >= 0) and (b.pop("seconds") >= 0)
    assert a == b
