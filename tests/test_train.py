# ruff: noqa: F811  fixtures are imported
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import Fss
from runs import (  # noqa: F401  fixtures
    NETWORK,
    SHORT,
    SPLITS,
    equal,
    log,
    open_boxes,
    run,
    tiny_world,
    unbroken,
    weights,
)
from safetensors.torch import load_file
from tiny import network, write_boxes

import fss.train as training
from fss.checkpoint import load, read_checkpoint
from fss.config import DANetConfig, DataConfig, TrainConfig
from fss.data import open_dataset
from fss.episodes import EpisodeStream
from fss.errors import InputError
from fss.features import CachedFeatures, LiveFeatures
from fss.lab.replay import replay
from fss.losses import episode_loss
from fss.model import DANet
from fss.train import NonFinite, learning_rate, make_optimizer, train_step

pytestmark = pytest.mark.numbers

# --- the schedule, by hand ----------------------------------------


def test_the_soft_iou_weight_reaches_the_step(tmp_path, monkeypatch):
    seen = []
    true_loss = training.episode_loss
    monkeypatch.setattr(training, "episode_loss", lambda *args: seen.append(args[2:]) or true_loss(*args))
    run(tmp_path / "run", replace(SHORT, steps=1, iou_weight=0.5))
    assert [weights[:2] for weights in seen] == [(1.0, 0.5)]


def test_the_learning_rate_warms_up_and_decays_to_almost_zero():
    config = TrainConfig(lr=0.8, warmup=3, lr_multiplier=10.0)
    expected = {
        0: 8 * 1 / 4,
        1: 8 * 2 / 4 * 0.99**0.9,
        2: 8 * 3 / 4 * 0.98**0.9,
        3: 8 * 0.97**0.9,
        50: 8 * 0.5**0.9,
        99: 8 * 0.01**0.9,
    }
    for step, rate in expected.items():
        assert learning_rate(config, step, 100) == pytest.approx(rate, rel=1e-12)
    assert learning_rate(TrainConfig(lr=0.8, warmup=0), 0, 100) == 0.8


def test_each_step_is_taken_at_its_rate(tmp_path, monkeypatch):
    rates = []

    def noted(model, optimizer, *rest):
        rates.append({group["lr"] for group in optimizer.param_groups})
        return train_step(model, optimizer, *rest)

    monkeypatch.setattr(training, "train_step", noted)
    config = replace(SHORT, steps=5, lr_multiplier=2.0)
    run(tmp_path, config)
    assert rates == [{learning_rate(config, step, 5)} for step in range(5)]


def test_each_step_of_each_seed_drops_other_channels(tmp_path, monkeypatch):
    drawn = []

    def noted(model, *rest):
        assert model.training and not model.backbone.training
        state = torch.get_rng_state()
        drawn.append(tuple(torch.rand(8).tolist()))  # what the dropout will draw
        torch.set_rng_state(state)
        return train_step(model, *rest)

    monkeypatch.setattr(training, "train_step", noted)
    for seed in (0, 1):
        run(tmp_path / str(seed), replace(SHORT, steps=4, seed=seed))
    assert len(set(drawn)) == 8


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("adamw", torch.optim.AdamW, dict(weight_decay=0.01)),
        ("sgd", torch.optim.SGD, dict(weight_decay=0.01, momentum=0.9)),
    ],
)
def test_the_optimiser_is_the_one_asked_for_over_the_head_alone(name, kind, settings):
    model = network()
    optimizer = make_optimizer(model, TrainConfig(optimizer=name, weight_decay=0.01))
    (group,) = optimizer.param_groups
    assert type(optimizer) is kind
    assert settings.items() <= group.items()
    held = {id(p) for p in group["params"]}
    assert held == {id(p) for n, p in model.named_parameters() if not n.startswith("backbone.")}


# --- what a run leaves --------------------------------------------------------------------------


def test_training_lowers_the_loss(tmp_path):
    run(tmp_path, replace(SHORT, steps=100, batch=4, lr=1e-2, val_every=100))
    losses = [record["loss"] for record in log(tmp_path) if "loss" in record]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_the_log_has_every_tenth_loss_and_every_validation(unbroken):
    records = log(unbroken)
    assert [r["step"] for r in records if "loss" in r] == [10, 20]
    assert [r["step"] for r in records if "val_miou" in r] == [7, 14, 20]
    assert [r["step"] for r in records] == sorted(r["step"] for r in records)
    assert all(0 <= r["val_miou"] <= 1 for r in records if "val_miou" in r)
    assert sorted(os.listdir(unbroken)) == ["best.safetensors", "last.safetensors", "log.csv"]


def test_the_best_weights_are_those_of_the_best_validation(tmp_path, monkeypatch):
    measured = iter([0.2, 0.6, 0.6, 0.1, 0.3])
    heads = []

    class Tally:
        def __init__(self, predict, source, dataset, episodes):
            assert dataset.split == "val" and len(episodes) == SHORT.val_episodes
            heads.append({k: v.clone() for k, v in models[0].head_state().items()})
            self.value = next(measured)

        def miou(self):
            return self.value

    models = []
    monkeypatch.setattr(training, "network", models.append)
    monkeypatch.setattr(training, "tally_episodes", Tally)
    model = run(tmp_path, replace(SHORT, steps=9, val_every=2))
    assert [r["val_miou"] for r in log(tmp_path) if "val_miou" in r] == [0.2, 0.6, 0.6, 0.1, 0.3]
    trained = read_checkpoint(tmp_path)[0]["trained"]
    assert (trained["step"], trained["best"]) == (4, 0.6)  # the first of two that are as good
    assert equal(heads[1], model.head_state())
    assert not equal(heads[1], heads[2])
    last = weights(tmp_path)
    assert equal(heads[-1], {name: last[name] for name in heads[-1]})


def test_the_network_comes_back_as_it_is_loaded(unbroken, tmp_path):
    model = run(tmp_path)
    assert not model.training
    loaded = load(unbroken)
    assert equal(loaded.head_state(), model.head_state())
    told = {name: value for name, value in loaded.trained.items() if name != "seconds"}
    assert told == {name: value for name, value in model.trained.items() if name != "seconds"}
    assert told["train"] == SHORT.to_json()
    assert (told["data"], told["split"], told["size"]) == ("boxes", "train", 64)
    assert told["training_classes"] == 6
    assert told["classes"] == list(open_boxes("boxes", split="train", fold=None, size=64).classes)


def test_the_backbone_stays_frozen(tmp_path):
    before = network().backbone.fingerprint()
    model = run(tmp_path, replace(SHORT, cache=False))
    assert model.backbone.fingerprint() == before
    start = network(**{"channels": 8})
    assert not equal(model.head_state(), start.head_state())


def test_every_weight_of_the_head_moves(unbroken):
    torch.manual_seed(SHORT.seed)
    start = DANet(NETWORK).head_state()
    trained = weights(unbroken)
    still = [name for name, value in start.items() if torch.equal(value, trained[name])]
    assert still == []


@pytest.mark.parametrize("change", [dict(seed=5), dict(lr=4e-3), dict(augment="paper", cache=False)])
def test_other_settings_give_other_weights(unbroken, tmp_path, change):
    run(tmp_path, replace(SHORT, **change))
    assert not equal(weights(tmp_path), weights(unbroken))


def test_the_same_settings_give_the_same_weights_with_and_without_the_cache(unbroken, tmp_path):
    torch.rand(3)  # nothing hangs on the state that a notebook left
    run(tmp_path, replace(SHORT, cache=False))
    assert equal(weights(tmp_path), weights(unbroken))
    assert log(tmp_path) == log(unbroken)


def test_validation_sees_validation_classes_alone_and_never_the_test(tmp_path, monkeypatch):
    opened, read = [], {}

    def noted(spec, *, split, fold, size, options=DataConfig()):
        opened.append(split)
        return open_boxes(spec, split=split, fold=fold, size=size)

    for kind in (CachedFeatures, LiveFeatures):

        def batches(self, episodes, batch, original=kind.batches, **options):
            read.setdefault(len(episodes), set()).update(e.class_name for e in episodes)
            return original(self, episodes, batch, **options)

        monkeypatch.setattr(kind, "batches", batches)
    monkeypatch.setattr(training, "open_dataset", noted)
    run(tmp_path)
    assert sorted(opened) == ["train", "val"]
    assert read.keys() == {SHORT.steps * SHORT.batch, SHORT.val_episodes}
    assert {name.split()[0] for name in read[SHORT.steps * SHORT.batch]} == {"train"}
    assert {name.split()[0] for name in read[SHORT.val_episodes]} == {"val"}


@pytest.mark.parametrize("fold", [0, 1, 2, 3])
def test_the_splits_of_the_shapes_world_share_no_class(fold):
    splits = [
        set(open_dataset("shapes", split=split, fold=fold, size=32).classes) for split in ("train", "val", "test")
    ]
    assert len(set.union(*splits)) == sum(map(len, splits)) == 400


def test_epochs_count_pictures_where_no_steps_are_set(tmp_path):
    model = run(tmp_path, replace(SHORT, steps=None, epochs=2, batch=4))
    assert log(tmp_path)[-1]["step"] == 2 * 6 * 5 // 4
    assert model.trained["train"]["steps"] is None


@pytest.mark.parametrize("arm", [DANetConfig.pfenet, DANetConfig.intended])
def test_every_kind_of_network_trains(tmp_path, arm):
    run(tmp_path, replace(SHORT, steps=3, shots=2), arm(channels=8))
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_quiet_is_quiet(tmp_path, capfd):
    run(tmp_path, replace(SHORT, steps=2))
    assert capfd.readouterr() == ("", "")


def test_the_bar_shows_loss_and_validation(tmp_path, capfd):
    run(tmp_path, replace(SHORT, steps=2), progress=True)
    out, err = capfd.readouterr()
    assert "step 2: validation mIoU" in out
    assert "loss=" in err and "2/2" in err


# --- what is no number ----------------------------------------------------------------------------


def nan_in(step: int, what: str):
    """A training step that goes wrong in step ``step`` (from 0), in the loss or in the gradient."""
    taken = []

    def loss(*args):
        taken.append(episode_loss(*args))
        if len(taken) != step + 1:
            return taken[-1]
        # sqrt has an infinite slope at 0, and none that 0 times it could have
        return taken[-1] * math.nan if what == "loss" else taken[-1] + (0 * taken[-1]).sqrt()

    return loss


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("settings", [dict(), dict(cache=False, augment="paper", optimizer="sgd")])
def test_a_step_that_is_not_finite_is_not_taken_and_can_be_repeated(tmp_path, monkeypatch, what, settings):
    config = replace(SHORT, val_every=100, **settings)
    losses = []

    def noted(*args):
        losses.append((train_step(*args), {k: v.clone() for k, v in args[0].head_state().items()}))
        return losses[-1][0]

    monkeypatch.setattr(training, "train_step", noted)
    run(tmp_path / "sound", config)
    with monkeypatch.context() as patched:
        patched.setattr(training, "episode_loss", nan_in(6, what))
        with pytest.raises(NonFinite, match=rf"^step 7: .*{what} is nan") as error:
            run(tmp_path / "run", config)
    failed = tmp_path / "run" / "nonfinite.safetensors"
    assert f"fss replay {failed} repeats the step" in str(error.value)
    assert sorted(os.listdir(failed.parent)) == ["last.safetensors", "nonfinite.safetensors"]
    head = {k: v for k, v in load_file(failed).items() if not k.startswith("optimizer.")}
    assert equal(head, losses[5][1])  # of the sixth step, which was the last sound one
    told = read_checkpoint(failed)[0]["trained"]["nonfinite"]
    assert what in told["reason"]
    stream = EpisodeStream(open_boxes("boxes", split="train", fold=None, size=64), 1, 4, 40)
    found = [(e["index"], e["class_name"], e["query"], *e["support"]) for e in told["episodes"]]
    assert found == [(i, stream[i].class_name, stream[i].query, *stream[i].support) for i in (12, 13)]
    assert "in episode 12 (and 1 more), class " in str(error.value)

    torch.rand(3)
    assert replay(failed) == losses[6][0]  # bit for bit, with the loss that is right
    monkeypatch.setattr(training, "episode_loss", nan_in(0, what))
    with pytest.raises(NonFinite, match=rf"{what} is nan"):
        replay(failed)


@pytest.mark.parametrize(("precision", "parts"), [("bfloat16", 1), ("float32", 2)])
def test_a_failed_step_is_repeated_as_it_was_computed(tmp_path, monkeypatch, precision, parts):
    config, losses = replace(SHORT, val_every=100, dropout=0.5, precision=precision), []
    monkeypatch.setattr(training, "train_step", lambda *a: losses.append(train_step(*a)) or losses[-1])
    run(tmp_path / "sound", config, accumulate=parts)
    with monkeypatch.context() as patched:
        patched.setattr(training, "episode_loss", nan_in(6 * parts, "loss"))
        with pytest.raises(NonFinite, match="^step 7"):
            run(tmp_path / "run", config, accumulate=parts)
    assert replay(tmp_path / "run" / "nonfinite.safetensors") == losses[6]


def test_the_episode_that_is_not_finite_is_told_from_its_batch(tmp_path, monkeypatch):
    segment = DANet.segment_features

    def spoilt(self, query, code, size, **options):
        found = segment(self, query, code, size, **options)
        if len(found.logits) == 2:
            found.logits[1] = math.inf
        return found

    monkeypatch.setattr(DANet, "segment_features", spoilt)
    with pytest.raises(NonFinite, match=r"^step 1: the loss is (nan|inf), in episode 1, class"):
        run(tmp_path)


def test_weights_that_explode_stop_the_run(tmp_path):
    with pytest.raises(NonFinite, match=r"train into another folder with a lower lr"):
        run(tmp_path, replace(SHORT, lr=1e30, warmup=0, val_every=100))
    with pytest.raises(NonFinite):
        replay(tmp_path / "nonfinite.safetensors")


def test_only_a_failed_step_is_replayed_and_only_on_its_data(tmp_path, unbroken, monkeypatch):
    with pytest.raises(InputError, match="holds no failed step; give the nonfinite.safetensors of a run"):
        replay(unbroken / "last.safetensors")
    monkeypatch.setattr(training, "episode_loss", nan_in(0, "loss"))
    with pytest.raises(NonFinite):
        run(tmp_path)
    monkeypatch.setitem(SPLITS, "train", (6, 6))
    with pytest.raises(InputError, match="boxes: the pictures have changed since the run of .*non"):
        replay(tmp_path / "nonfinite.safetensors")


@pytest.mark.parametrize("seed", [2**64, 10**40])
def test_seeds_may_be_of_any_size(tmp_path, seed):
    for name, each in (("a", seed), ("b", seed), ("c", seed + 1)):
        run(tmp_path / name, replace(SHORT, steps=2, seed=each))
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert equal(a, b) and not equal(a, c)


def test_a_run_goes_on_with_the_same_choice_of_data_only(tmp_path):
    short = replace(SHORT, steps=2)
    chosen = DataConfig(allow_missing=True)
    run(tmp_path, short, options=chosen)
    run(tmp_path, short, options=chosen, resume=True)
    with pytest.raises(InputError, match="was trained with options = .*'allow_missing': True"):
        run(tmp_path, short, resume=True)


def test_small_classes_are_named_or_left_out(tmp_path, monkeypatch):
    def ragged(spec, *, split, fold, size, options=DataConfig()):
        whole = open_boxes(spec, split=split, fold=fold, size=size)
        first = whole.classes[0]
        return replace(whole, images={**whole.images, first: whole.images[first][:1]})

    monkeypatch.setattr(training, "open_dataset", ragged)
    config = replace(SHORT, steps=2)
    with pytest.raises(InputError, match="class 'train 0' has 1 pictures.*--skip-small-classes"):
        run(tmp_path / "run", config)
    model = run(tmp_path / "run", config, skip_small_classes=True)
    assert (model.trained["training_classes"], model.trained["skip_small_classes"]) == (5, True)
    with pytest.raises(InputError, match="no train class has the 10 pictures that a 9-shot"):
        run(tmp_path / "other", replace(config, shots=9), skip_small_classes=True)


# --- the same in processes of their own ---------------------------------------------------------


@pytest.mark.slow
def test_processes_that_are_stopped_and_killed_end_as_one_that_was_not(tmp_path):
    data = write_boxes(tmp_path / "data", classes=5, pictures=4)
    settings = ["channels=8", "steps=50", "size=64", "batch=2", "val_every=3", "val_episodes=2"]

    def start(out: str, *more: str) -> Fss:
        args = ["train", "--out", tmp_path / out, "--data", f"folder:{data}", "--workers", "0"]
        return Fss(*args, "--set", *settings, *more, folder=tmp_path)

    whole = start("unbroken")
    assert whole.end() == 0, whole.err
    last = 0
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGTERM]
    for number, step in zip(signals, (3, 9, 18, 24), strict=True):
        stopped = start("stopped", *(["--resume"] if last else []))
        stopped.wait_for(f"step {step}:")
        stopped.send(number)
        code = stopped.end()
        header, _ = read_checkpoint(tmp_path / "stopped" / "last.safetensors")
        if number == signal.SIGKILL:
            assert code == -9
            assert header["trained"]["step"] == last
            continue
        assert code == 128 + number
        assert stopped.err.splitlines()[-1].startswith(f"fss: stopped by {number.name} after step")
        assert step <= header["trained"]["step"] < 50
        last = header["trained"]["step"]
    resumed = start("stopped", "--resume")
    assert resumed.end() == 0, resumed.err
    for name in ("last", "best"):
        assert equal(weights(tmp_path / "stopped", name), weights(tmp_path / "unbroken", name))
    assert log(tmp_path / "stopped") == log(tmp_path / "unbroken")
    assert resumed.out.splitlines()[-1].split("/best")[1] == whole_line(tmp_path, resumed)


def whole_line(folder: Path, resumed: Fss) -> str:
    trained = read_checkpoint(folder / "unbroken")[0]["trained"]
    return f".safetensors: validation mIoU {100 * trained['best']:.1f}, at step {trained['step']}"
