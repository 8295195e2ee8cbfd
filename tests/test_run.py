# ruff: noqa: F811  fixtures are imported
"""Runs that are stopped, killed, resumed or refused."""

import json
import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import (  # noqa: F401  fixtures
    HEAD,
    NETWORK,
    SHORT,
    SPLITS,
    equal,
    log,
    run,
    stop_after,
    tiny_world,
    unbroken,
    weights,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import network, tiny_backbones

import fss.train as training
from fss.checkpoint import read_checkpoint, save_checkpoint
from fss.errors import InputError
from fss.files import write_atomically
from fss.run import RunFolder
from fss.train import Stopped, train, train_step

pytestmark = pytest.mark.numbers


@pytest.mark.parametrize(
    ("number", "settings"),
    [
        (signal.SIGTERM, dict()),
        (signal.SIGINT, dict(cache=False, optimizer="sgd")),
        (signal.SIGTERM, dict(cache=False, augment="paper", shots=2)),
    ],
)
def test_stopped_three_times_and_resumed_ends_as_if_never_stopped(tmp_path, stop_after, number, settings):
    config = replace(SHORT, **settings)
    run(tmp_path / "unbroken", config)
    done = 0
    for steps in (1, 6, 3):  # after the first step, at a validation (7), at a logged step (10)
        stop_after(steps, number)
        done += steps
        with pytest.raises(Stopped, match=rf"{number.name} after step {done} of 20.*--resume"):
            run(tmp_path / "stopped", config, resume=done > steps)
        assert read_checkpoint(tmp_path / "stopped" / "last.safetensors")[0]["trained"]["step"] == done
    stop_after(99, number)
    model = run(tmp_path / "stopped", config, resume=True)
    for name in ("last", "best"):
        assert equal(weights(tmp_path / "stopped", name), weights(tmp_path / "unbroken", name))
    assert log(tmp_path / "stopped") == log(tmp_path / "unbroken")
    assert equal(model.head_state(), weights(tmp_path / "unbroken", "best"))


def test_a_signal_while_a_checkpoint_is_written_does_not_lose_a_step(tmp_path, monkeypatch, stop_after):
    stop_after(99, signal.SIGTERM)
    save = RunFolder.save
    saves = []

    def signalled(self):
        save(self)
        saves.append(self.step)
        if len(saves) == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(RunFolder, "save", signalled)
    monkeypatch.setattr(training, "SAVE_EVERY", 5)
    with pytest.raises(Stopped, match="after step 6 of 20"):
        run(tmp_path)
    assert saves == [0, 5, 6]


def test_a_signal_in_the_last_step_does_not_spoil_the_end(tmp_path, stop_after, unbroken):
    stop_after(20, signal.SIGTERM)
    run(tmp_path)
    assert equal(weights(tmp_path), weights(unbroken))


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch, unbroken):
    class Killed(BaseException):
        """Nothing in the kit can catch it, as if by kill -9."""

    monkeypatch.setattr(training, "SAVE_EVERY", 12)
    for step in (5, 13):  # before the first checkpoint after the start, and beyond one (12)

        def killed(*args, taken=[], last=step):  # noqa: B006
            taken.append(args)
            if len(taken) > last:
                raise Killed
            return train_step(*args)

        monkeypatch.setattr(training, "train_step", killed)
        with pytest.raises(Killed):
            run(tmp_path, resume=step > 5)
    monkeypatch.setattr(training, "train_step", train_step)
    assert read_checkpoint(tmp_path / "last.safetensors")[0]["trained"]["step"] == 12
    with (tmp_path / "log.csv").open("a") as file:  # the log may be ahead of the checkpoint
        file.write("13,9.0,\n14,,0.5\n")
    run(tmp_path, resume=True)
    assert equal(weights(tmp_path), weights(unbroken))
    assert equal(weights(tmp_path, "best"), weights(unbroken, "best"))
    assert log(tmp_path) == log(unbroken)


@pytest.mark.parametrize("files", range(1, 8))
def test_a_run_killed_between_two_files_loses_no_record(tmp_path, monkeypatch, unbroken, files):
    class Killed(BaseException):
        """Nothing in the kit can catch it, as if by kill -9."""

    written = []

    def killed(path, content):
        write_atomically(path, content)
        written.append(Path(path).name)
        if len(written) == files:
            raise Killed

    monkeypatch.setattr(training, "SAVE_EVERY", 5)
    for module in ("run", "checkpoint"):
        monkeypatch.setattr(f"fss.{module}.write_atomically", killed)
    with pytest.raises(Killed):
        run(tmp_path)
    run(tmp_path, resume=True)
    order = ["last.safetensors", "last.safetensors", "best.safetensors", "log.csv"]
    assert written[:files][:4] == order[:files]
    assert equal(weights(tmp_path), weights(unbroken))
    assert log(tmp_path) == log(unbroken)


def test_a_finished_run_resumes_to_its_end(tmp_path, unbroken):
    first = run(tmp_path)
    again = run(tmp_path, resume=True)
    assert equal(first.head_state(), again.head_state())
    assert first.trained == again.trained
    assert log(tmp_path) == log(unbroken)


def test_training_works_outside_the_main_thread(tmp_path, unbroken):
    thread = threading.Thread(target=run, args=(tmp_path,))
    thread.start()
    thread.join()
    assert equal(weights(tmp_path), weights(unbroken))


@pytest.fixture
def stopped(tmp_path, stop_after) -> Path:
    """The folder of a run that was stopped after two steps."""
    stop_after(2, signal.SIGTERM)
    with pytest.raises(Stopped):
        run(tmp_path / "run")
    return tmp_path / "run"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("lr", dict(config=replace(SHORT, lr=1e-3))),
        ("seed", dict(config=replace(SHORT, seed=5))),
        ("steps", dict(config=replace(SHORT, steps=31))),
        ("size", dict(config=replace(SHORT, size=96))),
        ("val_episodes", dict(config=replace(SHORT, val_episodes=4))),
        ("prior", dict(network=replace(NETWORK, prior=None))),
        ("lda", dict(network=replace(NETWORK, lda=False))),
        ("fold", dict(fold=2)),
    ],
)
def test_a_resume_with_other_settings_is_refused(stopped, name, change):
    before = content(stopped)
    with pytest.raises(InputError, match=rf"run: was trained with {name} = .*, not .*same settings"):
        run(stopped, resume=True, **change)
    assert content(stopped) == before


def test_a_setting_younger_than_the_run_had_its_default(stopped, unbroken):
    path = stopped / "last.safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
    config, trained = json.loads(header["config"]), json.loads(header["trained"])
    del config["taps"], trained["train"]["iou_weight"]
    header |= {"config": json.dumps(config), "trained": json.dumps(trained)}
    save_file(load_file(path), path, metadata=header)
    with pytest.raises(InputError, match="was trained with iou_weight = 0.0, not 1.0"):
        run(stopped, replace(SHORT, iou_weight=1.0), resume=True)
    run(stopped, resume=True)
    assert equal(weights(stopped), weights(unbroken))


def test_a_resume_with_other_data_is_refused(stopped, monkeypatch):
    with pytest.raises(InputError, match="was trained with data = 'boxes', not 'other'"):
        train(NETWORK, SHORT, "other", stopped, resume=True, progress=False)
    monkeypatch.setitem(SPLITS, "val", (2, 5))
    with pytest.raises(InputError, match="run: the pictures of boxes have changed since"):
        run(stopped, resume=True)
    monkeypatch.setitem(SPLITS, "train", (5, 5))
    with pytest.raises(InputError, match="was trained with training_classes = 6, not 5"):
        run(stopped, resume=True)


def test_a_resume_with_another_backbone_is_refused(stopped):
    with tiny_backbones(seed=1), pytest.raises(InputError, match="on other efficientnet_lite0 wei"):
        run(stopped, resume=True)


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_a_resume_from_a_damaged_checkpoint_is_refused(stopped, damage):
    last = stopped / "last.safetensors"
    if damage == "truncated":
        last.write_bytes(last.read_bytes()[:-100])
    else:
        save_checkpoint(network(**NETWORK.to_json()), last, trained={})
    before = content(stopped)
    with pytest.raises(InputError, match="not a whole safetensors" if damage == "truncated" else "run: was"):
        run(stopped, resume=True)
    assert content(stopped) == before


def test_a_folder_that_holds_a_run_is_refused(stopped):
    before = content(stopped)
    with pytest.raises(InputError, match="run: holds a run already; add --resume"):
        run(stopped)
    assert content(stopped) == before


def test_a_resume_of_nothing_starts_a_run(tmp_path, unbroken, capsys):
    """A run that was killed before its first checkpoint is one command away from its end."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    run(tmp_path / "run", resume=True, progress=True)
    assert "run: no step is saved there yet, so the run starts with the first" in capsys.readouterr().out
    assert equal(weights(tmp_path / "run"), weights(unbroken))
    assert log(tmp_path / "run") == log(unbroken)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["best.safetensors", "log.csv", "nonfinite.safetensors"])
def test_what_is_left_of_a_run_is_not_written_over(tmp_path, name, resume):
    (tmp_path / name).write_text("precious")
    message = rf"holds {name}, but no last" if resume else "holds a run already"
    with pytest.raises(InputError, match=message):
        run(tmp_path, resume=resume)
    assert content(tmp_path) == {name: b"precious"}


def test_what_a_killed_process_left_goes_with_the_next_start(stopped):
    for name in ("last.safetensors", "best.safetensors", "log.csv"):
        (stopped / f".{name}.a1b2c3").write_text("half")
    (stopped / ".notes").write_text("the user's own")
    run(stopped, resume=True)
    assert sorted(os.listdir(stopped)) == [
        ".notes",
        "best.safetensors",
        "last.safetensors",
        "log.csv",
    ]


def test_weights_without_the_optimiser_are_not_resumed(stopped, unbroken):
    shutil.copy(unbroken / "best.safetensors", stopped / "last.safetensors")
    with pytest.raises(InputError, match="holds no state of the optimiser; only a run's own last"):
        run(stopped, resume=True)


@pytest.mark.parametrize("text", ["", "no log", HEAD + "1,2\n", HEAD + "x,2,\n", HEAD + "1,two,\n"])
def test_a_damaged_log_is_told(stopped, text):
    (stopped / "log.csv").write_text(text)
    with pytest.raises(InputError, match=r"log\.csv: damaged .*remove it to go on without it"):
        run(stopped, resume=True)


def test_a_log_goes_by_its_columns_names(stopped):
    """One column fewer than today, a further one, and another order."""
    (stopped / "log.csv").write_text("seconds,step,loss\n0.5,1,0.25\n,2,0.75\n")
    assert log(stopped) == [{"step": 1, "seconds": 0.5, "loss": 0.25}, {"step": 2, "loss": 0.75}]
    run(stopped, resume=True)
    assert (stopped / "log.csv").read_text().startswith("step,loss,val_miou,seconds\n1,0.25,,0.5\n2,0.75,,\n")


def test_a_second_training_into_the_folder_is_refused(tmp_path, monkeypatch, unbroken):
    refused = []

    def rival(*args):
        if not refused:
            before = content(tmp_path)
            with (
                torch.random.fork_rng(),  # the rival's dice are another process's
                pytest.raises(InputError, match="another process is writing here; wait") as error,
            ):
                run(tmp_path, resume=True)
            refused.append(error)
            assert content(tmp_path) == before
        return train_step(*args)

    monkeypatch.setattr(training, "train_step", rival)
    run(tmp_path)
    assert refused
    assert equal(weights(tmp_path), weights(unbroken))


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, out, cache):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"{out}: cannot be written"):
        run(tmp_path / out)
    assert os.listdir(cache) == []


def test_bad_data_leaves_no_run(tmp_path, monkeypatch):
    def unreadable(*args):
        raise InputError("1.jpg is no picture")

    monkeypatch.setattr("tiny.Boxes.read", unreadable)
    with pytest.raises(InputError, match=r"1\.jpg is no picture"):
        run(tmp_path / "run")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "'cuda': no usable GPU here; use cpu"),
        ("cuda:1", "'cuda:1': no usable GPU here"),
        ("gpu", "unknown device 'gpu'; use cpu or cuda"),
        ("", "unknown device ''"),
        ("meta", "device 'meta' cannot be used"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(tmp_path, device, message):
    with pytest.raises(InputError, match=message) as error:
        run(tmp_path / "run", device=device)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []
