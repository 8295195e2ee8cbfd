"""Networks of timm as backbones, with random weights: pyramids and ViTs."""
# ruff: noqa: F811  fixtures are imported

import pytest
import timm
import torch
from bad_input import said  # noqa: F401  a fixture
from safetensors.torch import save_file
from tiny import boxes

import fss
from fss.__main__ import main
from fss.backbones import load_backbone
from fss.config import DANetConfig, TrainConfig
from fss.episodes import EpisodeDataset, EpisodeList
from fss.errors import InputError
from fss.evaluate import evaluate
from fss.explorer import explore
from fss.model import DANet
from fss.train import train

NAMES = {  # name -> strides
    "convnext_atto": (8, 16, 32),
    "vit_tiny_patch16_224": (16, 16, 16),  # the shape of DINO
    "vit_small_patch14_dinov2": (14, 14, 14),
    "vit_small_patch16_dinov3": (16, 16, 16),
    "regnety_002": (8, 16, 32),
    "mobilenetv4_conv_small": (8, 16, 32),
}


@pytest.mark.parametrize("name", NAMES)
def test_one_step_of_base_and_published(name):
    torch.manual_seed(0)
    backbone = load_backbone(f"timm:{name}", False)
    assert backbone.strides == NAMES[name] and not any(p.requires_grad for p in backbone.parameters())
    height, width = 4 * max(backbone.strides), 6 * max(backbone.strides)
    features = backbone(torch.rand(2, 3, height, width))
    for map_, channels, step in zip(features, backbone.channels, backbone.strides, strict=True):
        assert map_.shape == (2, channels, height // step, width // step) and map_.isfinite().all()
    spread = torch.cat([map_.flatten() for map_ in features[:2]]).std() / backbone.spread
    assert 0.1 < spread < 10
    mask = torch.zeros(1, 1, height, width, dtype=torch.long)
    mask[..., : height // 2, width // 4 :] = 1
    query, support = torch.rand(1, 3, height, width), torch.rand(1, 1, 3, height, width)
    for lda in (False, True):
        config = DANetConfig.published(channels=8, lda=lda, pca=lda, backbone=f"timm:{name}")
        model = DANet(config, backbone=backbone)
        assert model.config.backbone == f"timm:{name}"
        prediction = model(query, support, mask, need_maps=True)
        prediction.logits.logsumexp(1).mean().backward()
        assert prediction.logits.shape == (1, 2, height, width)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.reduce_query.parameters())


def test_the_maps_are_those_of_timm():
    torch.manual_seed(0)
    pictures = torch.rand(1, 3, 64, 96)
    whole = timm.create_model("regnety_002", features_only=True).eval()
    ours = load_backbone("timm:regnety_002", False)
    ours.net.load_state_dict(whole.state_dict())
    normal = (pictures - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.no_grad():
        for got, wanted in zip(ours(pictures), whole(normal)[-3:], strict=True):
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(("name", "size"), [("convnext_atto", 64), ("vit_small_patch14_dinov2", 56)])
def test_train_save_load_evaluate_and_explore(name, size, tmp_path, capsys):
    """With a file of weights, since random ones differ from load to load."""
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in timm.create_model(name).state_dict().items()}, weights)
    config = DANetConfig.published(backbone=f"timm:{name}", channels=8)
    schedule = TrainConfig(steps=20, warmup=2, size=size, batch=2, cache=False, val_episodes=4, val_every=20)
    out = tmp_path / "run"
    train(config, schedule, "shapes", out, fold=0, pretrained=weights, progress=False)
    model = fss.load(out, pretrained=weights)
    data = boxes(size=size)
    episodes = EpisodeList.sample(data, shots=1, episodes=4, seed=0)
    assert 0 <= evaluate(model, data, episodes, cache=False, allow_leak=True)["miou"] <= 1
    ask = ("--size", size, "--episodes", 3, "--quiet", "--backbone-weights", weights)
    for measured in ((out,), ("prototype", "--backbone", f"timm:{name}")):
        main(["eval", "--checkpoint", *map(str, (*measured, *ask))])
        assert capsys.readouterr().out.startswith("mIoU ")
    shown = EpisodeDataset(data, episodes.episodes)[0]
    box = explore(shown, networks=[model])
    assert box.children


def test_a_vit_names_the_nearest_size_that_fits():
    backbone = load_backbone("timm:vit_small_patch14_dinov2", False)
    with pytest.raises(InputError, match="sides are multiples of 14; the nearest to 256 px is 252"):
        backbone(torch.rand(1, 3, 256, 256))


def test_a_network_of_a_single_size_says_so():
    backbone = load_backbone("timm:swin_tiny_patch4_window7_224", False)
    assert [map_.shape[1:] for map_ in backbone(torch.rand(1, 3, 224, 224))] == [
        (192, 28, 28),
        (384, 14, 14),
        (768, 7, 7),
    ]
    with pytest.raises(InputError, match=r"swin_tiny_patch4_window7_224 does not take this size \(.*224"):
        backbone(torch.rand(1, 3, 192, 256))


def test_pfenets_prior_is_refused():
    with pytest.raises(InputError, match="masked_input runs block4 by itself, which timm:vit_tiny_patch16_224 cannot"):
        DANet(DANetConfig.pfenet(backbone="timm:vit_tiny_patch16_224"), pretrained=False)


def test_names_and_weights_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"timm:convnext_at cannot be built \(.*timm.list_models"):
        load_backbone("timm:convnext_at", False)
    with pytest.raises(InputError, match="no such file of backbone weights"):
        load_backbone("timm:convnext_atto", tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"timm:convnext_atto cannot be built \(.*by --backbone-weights FILE"):
        load_backbone("timm:convnext_atto", tmp_path / "other.safetensors")


def test_a_backbone_is_of_a_reference(said):
    code, _, err = said("eval", "--checkpoint", "intended-lite0-shapes", "--backbone", "resnet50")
    assert code == 2 and "--backbone resnet50: is of a reference, and intended-lite0-shapes has its own" in err
