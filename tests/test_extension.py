"""A module of attention and a backbone that are not the kit's, from a file beside it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from episodes_by_hand import episode
from networks import frozen
from tiny import backbone
from torch import nn

import fss
import fss.attention
import fss.model
from fss.attention import MODULES, DenseAttention, register
from fss.checkpoint import save_checkpoint
from fss.config import DANetConfig
from fss.errors import InputError
from fss.model import DANet

pytestmark = pytest.mark.numbers

SOURCE = """
import torch
import torch.nn.functional as F
from torch import nn

import fss.attention


@fss.attention.register("cosine-of-a-test")
class CosineAttention(nn.Module):
    def __init__(self, channels, **options):
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.tensor(2.3))
        self.theta = nn.Parameter(torch.tensor(0.5))

    def forward(self, query, support, mask=None, *, need_map=True):
        q, s = F.normalize(query.flatten(2), dim=1), F.normalize(support.flatten(3), dim=2)
        weights = (self.log_sharpness.exp() * torch.einsum("bci,bkcj->bkij", q, s)).softmax(-1)
        taken = torch.einsum("bkij,bkcj->bkci", weights, support.flatten(3)).mean(1)
        return query + self.theta * taken.view_as(query), fss.attention.DenseMaps(weights.mean(1), weights)
"""


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(fss.attention, "MODULES", dict(MODULES))
    monkeypatch.setattr(fss.model, "load_backbone", lambda name, pretrained: frozen(name))


def module_of(folder: Path, monkeypatch) -> None:
    (folder / "cosine_of_a_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("cosine_of_a_test", None)
    __import__("cosine_of_a_test")


def in_a_new_process(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(folder), str(Path(fss.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_a_module_from_outside_is_trained_saved_and_loaded_elsewhere(tmp_path, monkeypatch):
    module_of(tmp_path, monkeypatch)
    model = DANet(DANetConfig.published(channels=16, dense="cosine-of-a-test"), dropout=0.0)
    assert type(model.dense).__name__ == "CosineAttention"
    query, support, mask = episode(2)
    before = model.dense.log_sharpness.item()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model(query, support, mask).logits.square().mean().backward()
    optimizer.step()
    assert model.dense.log_sharpness.item() != before
    found = model.eval()(query, support, mask, need_maps=True)
    assert found.attention["dense"].shape == (2, 96, 96)
    assert found.attention["dense_by_shot"].shape == (2, 2, 96, 96)
    code = model.encode_support(support, mask)
    assert set(model.tokens(model.backbone(query), code)) == {"rows", "cols"}  # it has no tokens

    save_checkpoint(model, tmp_path / "own.safetensors", trained={})
    load = f"import fss; print(fss.load({str(tmp_path / 'own.safetensors')!r}).dense.log_sharpness.item())"
    refused = in_a_new_process(load, tmp_path)
    last = refused.stderr.strip().splitlines()[-1]
    assert refused.returncode and "InputError" in last and str(tmp_path / "own.safetensors") in last
    assert "dense='cosine-of-a-test'" in last and "--import MODULE" in last
    loaded = in_a_new_process(f"import cosine_of_a_test; {load}", tmp_path)
    assert float(loaded.stdout) == model.dense.log_sharpness.item(), loaded.stderr


def test_an_unknown_module_suggests_the_nearest():
    with pytest.raises(InputError, match=r"unknown attention dense='dens'; did you mean 'dense'\?.*import"):
        DANet(DANetConfig.published(dense="dens"))
    assert DANet(DANetConfig.published(dense="dens", lda=False)).dense is None


def test_a_name_belongs_to_one_class():
    def make(name):
        return type(name, (nn.Module,), {"__module__": __name__, "__qualname__": name})

    first = register("mine")(make("First"))
    assert MODULES is not fss.attention.MODULES and fss.attention.MODULES["mine"] is first
    again = register("mine")(make("First"))  # a cell of a notebook that is run again
    assert fss.attention.MODULES["mine"] is again
    with pytest.raises(InputError, match="'mine' is test_extension.First already"):
        register("mine")(make("Second"))
    with pytest.raises(InputError, match="'dense' is fss.attention.DenseAttention already"):
        register("dense")(make("First"))
    assert fss.attention.MODULES["dense"] is DenseAttention


def test_a_backbone_of_yours(tmp_path):
    mine = backbone()
    model = DANet(DANetConfig.published(channels=8), backbone=mine).eval()
    assert model.backbone is mine and model.config.backbone == "own"
    assert model.reduce_query[0].in_channels == 6 + 10
    query, support, mask = episode()
    expected = model(query, support, mask).logits
    save_checkpoint(model, tmp_path / "own.safetensors", trained={})
    with pytest.raises(InputError, match=re.escape("fss.load(..., backbone=...)")):
        fss.load(tmp_path / "own.safetensors")
    with pytest.raises(InputError, match="trained on other own weights"):
        fss.load(tmp_path / "own.safetensors", backbone=backbone(seed=1))
    loaded = fss.load(tmp_path / "own.safetensors", backbone=mine)
    assert torch.equal(loaded(query, support, mask).logits, expected)


def test_a_backbone_that_has_a_name_keeps_it():
    model = DANet(DANetConfig.published(channels=8), backbone=frozen("resnet50"))
    assert model.config.backbone == "resnet50"


def test_a_blind_network_does_not_depend_on_its_support():
    model = DANet(DANetConfig.blind(channels=8)).eval()
    query, support, mask = episode(2)
    found = model(query, support, mask, need_maps=True)
    assert torch.equal(found.logits, model(query, support.flip(1, 3), 0 * mask).logits)
    assert not torch.equal(found.logits, model(query.flip(3), support, mask).logits)
    code = model.encode_support(support, mask)
    assert not any(part.any() for part in (code.block2, code.reduced, code.mask, code.prototype, code.block4))
