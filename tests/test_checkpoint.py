import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from networks import frozen
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

import fss
import fss.model
from fss import checkpoint
from fss.checkpoint import find_checkpoint, load, load_head, read_checkpoint, save_checkpoint
from fss.config import DANetConfig, DataConfig, TrainConfig
from fss.errors import InputError
from fss.model import DANet

CONFIG = DANetConfig.intended(channels=8, decoder="fem", prior="masked_input")
TRAINED = {
    "data": "shapes",
    "size": 224,
    "miou": 0.7,
    "classes": ["a", "Möwe"],
    "train": TrainConfig(steps=1000).to_json(),
    "options": DataConfig(classes="a,Möwe").to_json(),
}


@pytest.fixture(autouse=True)
def shared_backbones(monkeypatch):
    monkeypatch.setattr(fss.model, "load_backbone", lambda name, pretrained: frozen(name))


def build(config=CONFIG):
    torch.manual_seed(0)
    model = DANet(config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.uniform_(parameter, -0.1, 0.1)  # gates too
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fss.model, "load_backbone", lambda name, pretrained: frozen(name))
        model = build()
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save_checkpoint(model, path, trained=TRAINED, optimizer={"0.exp_avg": torch.ones(3)})
    return model, path


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def rewritten(saved, path, tensors=None, **header):
    """A copy with other tensors, or with other words in its header (None takes one out)."""
    _, original = saved
    words = {k: v for k, v in (header_of(original) | header).items() if v is not None}
    save_file(load_file(original) if tensors is None else tensors, path, metadata=words)
    return path


def refused(path, message):
    with pytest.raises(InputError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_loaded_network_gives_the_same_logits(saved):
    model, path = saved
    torch.manual_seed(1)
    query, support = torch.rand(1, 3, 64, 96), torch.rand(1, 2, 3, 64, 96)
    mask = torch.zeros(1, 2, 64, 96)
    mask[..., 20:50, 30:70] = 1
    loaded = fss.load(path)
    with torch.no_grad():
        logits = loaded(query, support, mask).logits
        assert torch.equal(logits, model(query, support, mask).logits)
        assert not torch.equal(logits, DANet(CONFIG).eval()(query, support, mask).logits)
    assert not loaded.training
    assert loaded.config == CONFIG
    assert loaded.trained == TRAINED


def test_the_file_holds_the_head_and_json(saved):
    model, path = saved
    header = header_of(path)
    assert set(header) == {"format", "config", "backbone_sha256", "trained"}
    assert header["format"] == "fss-checkpoint-1"
    assert json.loads(header["config"]) == CONFIG.to_json()
    assert json.loads(header["trained"]) == TRAINED
    assert header["backbone_sha256"] == model.backbone.fingerprint()
    tensors = load_file(path)
    assert not any(key.startswith("backbone.") for key in tensors)
    assert set(tensors) == set(model.head_state()) | {"optimizer.0.exp_avg"}
    assert path.stat().st_size < 1e6


def test_read_checkpoint_parses_the_header(saved):
    header, tensors = read_checkpoint(saved[1])
    assert header["config"] == CONFIG.to_json() and header["trained"] == TRAINED
    assert torch.equal(tensors["optimizer.0.exp_avg"], torch.ones(3))


def test_settings_that_are_younger_than_a_file_have_their_defaults(tmp_path, saved):
    path = tmp_path / "old.safetensors"
    save_checkpoint(saved[0], path, trained={"train": {"steps": 7}})
    trained = read_checkpoint(path)[0]["trained"]
    assert trained == {"train": TrainConfig(steps=7).to_json(), "options": DataConfig().to_json()}
    save_checkpoint(saved[0], path, trained={"train": {"momentum": 0.9}})
    with pytest.raises(InputError, match="written by another version .*no setting 'momentum'"):
        read_checkpoint(path)


def test_a_failing_write_leaves_the_old_checkpoint(saved, tmp_path, monkeypatch):
    model, _ = saved
    path = tmp_path / "best.safetensors"
    save_checkpoint(model, path, trained={"step": 1})

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        save_checkpoint(model, path, trained={"step": 2})
    assert load(path).trained["step"] == 1
    assert os.listdir(tmp_path) == ["best.safetensors"]


def test_a_folder_that_cannot_be_written(saved, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written .*choose another place"):
        save_checkpoint(saved[0], tmp_path / "file" / "best.safetensors", trained={})


# Finding


def test_a_run_folder_is_its_best_checkpoint(saved, tmp_path):
    _, path = saved
    assert find_checkpoint(path.parent) == find_checkpoint(str(path)) == path
    assert load(str(path.parent)).trained == TRAINED
    refused(tmp_path, "no best.safetensors in this folder; give a run's folder")


def test_names_of_shipped_checkpoints(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path)
    for name in ("intended-lite0-shapes", "base-lite0-shapes"):
        (tmp_path / f"{name}.safetensors").write_bytes(saved[1].read_bytes())
    assert find_checkpoint("intended-lite0-shapes") == tmp_path / "intended-lite0-shapes.safetensors"
    assert fss.load("base-lite0-shapes").trained == TRAINED
    refused("intended-lite-shapes", "no checkpoint .*did you mean 'intended-lite0-shapes'")
    refused("somewhere/x.safetensors", "known: base-lite0-shapes, intended-lite0-shapes")


def test_a_shipped_name_means_the_shipped_weights_in_every_folder(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "published").write_bytes(saved[1].read_bytes())
    assert find_checkpoint("published") == Path("published")  # not shipped
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "published.safetensors").write_bytes(b"")
    assert find_checkpoint("published") == tmp_path / "weights" / "published.safetensors"
    assert find_checkpoint("./published") == find_checkpoint(Path("published")) == Path("published")


# Files that are something else


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file(saved, tmp_path, keep):
    path = tmp_path / "x.safetensors"
    path.write_bytes(saved[1].read_bytes()[:keep])
    refused(path, "not a whole safetensors file .*copy or train it again")


def test_another_programs_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    for metadata in (None, {"format": "pt"}, {"format": "fss-checkpoint-0"}):
        path.write_bytes(save({"x": torch.ones(2)}, metadata))
        refused(path, "not a checkpoint of this kit .*train one with `fss train`")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
@pytest.mark.parametrize("write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_pickle_is_never_opened(tmp_path, name, write):
    trap = tmp_path / "executed"
    write({"state": Bomb(trap)}, tmp_path / name)
    refused(tmp_path / name, "Pickled checkpoints .* are never opened")
    assert not trap.exists()


@pytest.mark.parametrize(
    "header",
    [
        {"config": None},
        {"trained": None},
        {"config": "{"},
        {"trained": ""},
        {"config": "[]"},
        {"config": "null"},
        {"trained": "3"},
    ],
    ids=str,
)
def test_a_damaged_header(saved, tmp_path, header):
    refused(rewritten(saved, tmp_path / "x", **header), "damaged header .*copy or train it again")


def test_a_config_of_another_version(saved, tmp_path):
    newer = json.dumps(CONFIG.to_json() | {"heads": 4})
    path = rewritten(saved, tmp_path / "x", config=newer)
    assert "no setting 'heads'" in refused(path, "written by another version of the kit")
    odd = json.dumps(CONFIG.to_json() | {"decoder": "unet"})
    assert "'ppm', 'fem'" in refused(rewritten(saved, tmp_path / "x", config=odd), "unet")


@pytest.mark.parametrize("settings", [{"channels": 16}, {"decoder": "ppm"}, {"lda": False}, {"prior": None}], ids=str)
def test_weights_of_another_architecture(saved, tmp_path, settings):
    config = json.dumps(CONFIG.to_json() | settings)
    path = rewritten(saved, tmp_path / "x", config=config)
    refused(path, r"weights of another architecture \(\d+ do not fit, first '\w+")


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "backbone"])
def test_one_weight_that_does_not_fit(saved, tmp_path, change):
    tensors = load_file(saved[1])
    if change == "missing":
        del tensors["light.alpha"]
    elif change == "shape":
        tensors["light.alpha"] = torch.zeros(1)
    else:
        extra = {"unknown": "light.gamma", "backbone": "backbone.mean"}[change]
        tensors[extra] = torch.zeros(())
    message = refused(rewritten(saved, tmp_path / "x", tensors), "1 do not fit")
    name = {"unknown": "light.gamma", "backbone": "backbone.mean"}.get(change, "light.alpha")
    assert name in message


def test_nothing_is_loaded_from_weights_that_do_not_fit(saved):
    model = build()
    before = {key: each.clone() for key, each in model.head_state().items()}
    header = {"backbone_sha256": model.backbone.fingerprint(), "trained": {}}
    tensors = {key: each + 1 for key, each in model.head_state().items()} | {"x": torch.ones(1)}
    with pytest.raises(InputError, match="some/file"):
        load_head(model, header, tensors, Path("some/file"))
    assert all(torch.equal(before[key], each) for key, each in model.head_state().items())


def test_other_backbone_weights(saved, tmp_path):
    path = rewritten(saved, tmp_path / "x", backbone_sha256="0" * 64)
    refused(path, "trained on other efficientnet_lite0 weights .*give the file it was trained with")
    refused(rewritten(saved, tmp_path / "x", backbone_sha256=None), "trained on other")


def test_the_backbones_file_is_handed_on(saved, monkeypatch):
    asked = []

    def note(name, pretrained):
        asked.append((name, pretrained))
        return frozen(name)

    monkeypatch.setattr(fss.model, "load_backbone", note)
    load(saved[1])
    load(saved[1], pretrained="weights.pth")
    assert asked == [("efficientnet_lite0", True), ("efficientnet_lite0", "weights.pth")]


def test_fss_has_load_only():
    assert fss.load is load
    with pytest.raises(AttributeError, match="no attribute 'save'"):
        fss.save  # noqa: B018
