import pytest
import reference_pfenet
import torch
from networks import no_init
from torch import nn

import fss
from fss.checkpoint import save_checkpoint
from fss.config import DANetConfig
from fss.errors import InputError
from fss.lab.pfenet import load_pfenet
from fss.model import DANet

pytestmark = pytest.mark.numbers

H, W = 49, 65  # pixels; 7 x 9 positions, fewer than bins
SHOTS = 5


@pytest.fixture(autouse=True)
def quick():
    with no_init():
        yield


@pytest.fixture(scope="module")
def state():
    return reference_pfenet.weights(0)


@pytest.fixture(scope="module")
def model(state):
    with no_init():
        return load_pfenet(state)


@pytest.fixture(scope="module")
def episode():
    """Smooth pictures, so that places differ; an object in each, under an ignored rim."""
    g = torch.Generator().manual_seed(1)
    pictures = reference_pfenet.fit(torch.rand(1 + SHOTS, 3, 5, 6, generator=g), (H, W))
    mask = torch.zeros(1, SHOTS, H, W, dtype=torch.uint8)
    for k in range(SHOTS):
        mask[:, k, 14 + k : 35, 21 : 40 + 3 * k] = 1
    mask[..., :6, :] = 255
    return pictures[:1], pictures[None, 1:], mask


@pytest.mark.parametrize("shots", [1, SHOTS])
def test_it_gives_the_logits_of_the_published_code(state, model, episode, shots):
    query, support, mask = episode
    support, mask = support[:, :shots], mask[:, :shots]
    with torch.no_grad():
        expected = reference_pfenet.PFENet(state)(query, support, mask)
        code = model.encode_support(support, mask)
        found = model.segment(query, code, need_maps=True)
    assert 1 < expected.logits.std() < 10  # a signal, in numbers that float32 holds to 1e-4
    close = dict(rtol=0, atol=1e-4)
    torch.testing.assert_close(found.attention["prior"], expected.prior, **close)
    torch.testing.assert_close(code.prototype, expected.prototype.flatten(1), **close)
    assert [tuple(each.shape[-2:]) for each in found.aux] == [(b, b) for b in (60, 30, 15, 8)]
    for one, two in zip(found.aux, expected.inner, strict=True):
        torch.testing.assert_close(one, two, **close)
    torch.testing.assert_close(found.logits, expected.logits, **close)


def test_it_is_the_networks_pfenet_arm(model):
    assert model.config == DANetConfig.pfenet(backbone="resnet50_deep", channels=256, fem_bins=60)
    assert not model.training
    dropped = [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)]
    assert dropped == [0.5, 0.5, *(5 * [0.1])]  # the reductions; the classifiers


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    """As the authors' training writes it."""
    path = tmp_path_factory.mktemp("published") / "PFENet.pth"
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "state_dict": parallel, "optimizer": {"state": {}}}, path)
    yield path
    path.unlink()


def test_from_a_file_of_the_authors(file, model, tmp_path):
    """And back from a checkpoint of the kit, with the backbone out of the authors' file."""
    loaded = load_pfenet(torch.load(file, weights_only=True))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    save_checkpoint(model, tmp_path / "pfenet.safetensors", trained={})
    again = fss.load(tmp_path / "pfenet.safetensors", pretrained=file)
    assert again.config == model.config
    for name, tensor in model.head_state().items():
        assert torch.equal(again.head_state()[name], tensor), name


def test_counters_of_batchnorm_are_not_needed(state, model):
    old = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    loaded = load_pfenet(old)
    assert torch.equal(loaded.backbone.block2[1].running_var, state["layer0.1.running_var"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("alpha_conv.2.0.weight"), "1 do not fit, first 'alpha_conv.2.0.weight'"),
        (lambda s: s.update({"layer3.6.conv1.weight": torch.zeros(1)}), "'layer3.6.conv1.weight'"),
        (lambda s: s.update({"layer0.0.weight": torch.zeros(64, 3, 7, 7)}), "'layer0.0.weight'"),
        (lambda s: s.update({"cls.3.bias": 3}), "'cls.3.bias'"),
        (lambda s: s.clear(), "first 'alpha_conv.0.0.weight'"),
    ],
    ids=["missing", "a ResNet-101", "a stem of 7x7", "a number", "nothing"],
)
def test_other_weights_are_refused(state, model, monkeypatch, change, message):
    monkeypatch.setattr("fss.checkpoint.DANet", lambda config, pretrained: model)
    odd = {name: tensor.new_zeros(()).expand_as(tensor) for name, tensor in state.items()}
    change(odd)
    with pytest.raises(InputError, match="not the weights of a published PFENet") as error:
        load_pfenet(odd)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "layers=50, vgg=False" in str(error.value)
    assert model.decoder.fuse[0].weight.any()  # nothing was loaded


def test_a_network_notes_which_backbone_its_file_made_it(file):
    model = DANet(DANetConfig.published(backbone="resnet50", channels=8), pretrained=file)
    assert model.config == DANetConfig.published(backbone="resnet50_deep", channels=8)
