import json
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from fss.config import ARMS, PRESETS, DANetConfig, TrainConfig, arm, preset
from fss.errors import InputError

PUBLISHED = {
    "backbone": "efficientnet_lite0",
    "channels": 64,
    "lda": True,
    "pca": True,
    "prior": "masked_features",
    "decoder": "ppm",
    "value": "query",
    "scaled": False,
    "mask_background": False,
    "masked_pool": False,
    "mask_before_reduce": True,
    "taps": "both",
    "fem_bins": None,
    "dense": "dense",
    "without_support": False,
    "prototypes": 1,
}
REPAIRED = PUBLISHED | {
    "value": "support",
    "scaled": True,
    "mask_background": True,
    "masked_pool": True,
}
PFENET = PUBLISHED | {
    "lda": False,
    "pca": False,
    "decoder": "fem",
    "prior": "masked_input",
    "mask_before_reduce": False,
}


def test_class_methods():
    assert DANetConfig().to_json() == PUBLISHED
    assert DANetConfig.published().to_json() == PUBLISHED
    assert DANetConfig.intended().to_json() == REPAIRED
    assert DANetConfig.pfenet().to_json() == PFENET


def test_arms():
    assert {name: config.to_json() for name, config in ARMS.items()} == {
        "base": PUBLISHED | {"lda": False, "pca": False},
        "pca": PUBLISHED | {"lda": False},
        "lda": PUBLISHED | {"pca": False},
        "published": PUBLISHED,
        "intended": REPAIRED,
        "pfenet": PFENET,
        "prototypes-5": PUBLISHED | {"lda": False, "pca": False, "prototypes": 5},
        "blind": PUBLISHED | {"lda": False, "pca": False, "without_support": True},
        "best": PUBLISHED | {"lda": False, "pca": False, "prior": "relations"},
    }
    assert all(arm(name) is config for name, config in ARMS.items())


def test_paper_preset_is_the_papers():
    paper = preset("paper")
    assert (paper.optimizer, paper.lr, paper.weight_decay) == ("sgd", 2.5e-3, 1e-4)
    assert (paper.batch, paper.epochs, paper.steps, paper.size) == (4, 200, None, 473)
    assert (paper.shots, paper.warmup, paper.lr_multiplier, paper.aux_weight) == (1, 0, 1.0, 1.0)
    assert paper.dropout == 0.5
    assert (paper.augment, paper.cache) == ("paper", False)
    quick = preset("quick")
    assert (quick.optimizer, quick.size, quick.cache, quick.absent) == ("adamw", 224, True, 0)
    assert set(PRESETS) == {"quick", "paper"}


@pytest.mark.parametrize("make", ["published", "intended", "pfenet", "best"])
def test_overrides(make):
    plain = getattr(DANetConfig, make)()
    changed = getattr(DANetConfig, make)(channels=8, prior=None, value="support")
    expected = {"channels": 8, "prior": None, "value": "support"}
    assert changed.to_json() == plain.to_json() | expected
    assert plain.override({"channels": 8}).channels == 8
    assert plain.channels == 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chanels": 8}, "DANetConfig has no setting 'chanels'; did you mean 'channels'?"),
        ({"lr": 1}, "DANetConfig has no setting 'lr'; known: backbone, channels"),
        ({"backbone": "resnet"}, "DANetConfig.backbone = 'resnet': use 'efficientnet_lite0', "),
        ({"channels": 0}, "DANetConfig.channels = 0: use 1 or more"),
        ({"channels": 64.0}, "DANetConfig.channels = 64.0: use int"),
        ({"channels": True}, "DANetConfig.channels = True: use int"),
        ({"lda": 1}, "DANetConfig.lda = 1: use bool"),
        ({"fem_bins": 0}, "DANetConfig.fem_bins = 0: use 1 or more"),
        (
            {"prior": "mask"},
            "prior = 'mask': use 'masked_features', 'masked_input', 'relations' or None",
        ),
        ({"taps": "block3"}, "DANetConfig.taps = 'block3': use 'both', 'block2'"),
        ({"prior": False}, "DANetConfig.prior = False: use"),
        ({"decoder": "psp"}, "DANetConfig.decoder = 'psp': use 'ppm', 'fem'"),
        ({"value": "key"}, "DANetConfig.value = 'key': use 'query', 'support'"),
    ],
)
def test_wrong_network_settings_name_field_and_mend(settings, message):
    for make in (DANetConfig.published, DANetConfig().override, DANetConfig.from_json):
        with pytest.raises(InputError) as error:
            make(**settings) if make == DANetConfig.published else make(settings)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 8}, "TrainConfig has no setting 'step'; did you mean 'steps'?"),
        ({"steps": 0}, "TrainConfig.steps = 0: use 1 or more"),
        ({"steps": "10"}, "TrainConfig.steps = '10': use int or None"),
        ({"epochs": 0}, "TrainConfig.epochs = 0: use 1 or more"),
        ({"batch": 0}, "TrainConfig.batch = 0: use 1 or more"),
        ({"shots": 0}, "TrainConfig.shots = 0: use 1 or more"),
        ({"size": 31}, "TrainConfig.size = 31: use 32 or more"),
        ({"optimizer": "adam"}, "TrainConfig.optimizer = 'adam': use 'adamw', 'sgd'"),
        ({"lr": -1}, "TrainConfig.lr = -1: use 0 or more"),
        ({"lr": float("nan")}, "TrainConfig.lr = nan: use 0 or more"),
        ({"lr": float("inf")}, "TrainConfig.lr = inf: use 0 or more"),
        ({"warmup": -1}, "TrainConfig.warmup = -1: use 0 or more"),
        ({"weight_decay": -1.0}, "TrainConfig.weight_decay = -1.0: use 0 or more"),
        ({"lr_multiplier": -1}, "TrainConfig.lr_multiplier = -1: use 0 or more"),
        ({"aux_weight": -1}, "TrainConfig.aux_weight = -1: use 0 or more"),
        ({"iou_weight": -1}, "TrainConfig.iou_weight = -1: use 0 or more"),
        ({"dropout": 1.0}, "TrainConfig.dropout = 1.0: use 0 to 0.95"),
        ({"dropout": -0.1}, "TrainConfig.dropout = -0.1: use 0 to 0.95"),
        ({"dropout": float("nan")}, "TrainConfig.dropout = nan: use 0 to 0.95"),
        ({"dropout": "0"}, "TrainConfig.dropout = '0': use float"),
        ({"seed": -1}, "TrainConfig.seed = -1: use 0 or more"),
        ({"val_every": 0}, "TrainConfig.val_every = 0: use 1 or more"),
        ({"val_episodes": 0}, "TrainConfig.val_episodes = 0: use 1 or more"),
        ({"augment": "paper"}, "set cache=False or augment='none'"),
    ],
)
def test_wrong_training_settings_name_field_and_mend(settings, message):
    with pytest.raises(InputError) as error:
        TrainConfig().override(settings)
    assert message in str(error.value)


def test_constructors_check_too():
    with pytest.raises(InputError, match="DANetConfig.channels"):
        DANetConfig(channels=-1)
    with pytest.raises(InputError, match="TrainConfig.batch"):
        TrainConfig(batch=0)


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (arm, "publishd", "unknown arm 'publishd'; did you mean 'published'?"),
        (arm, "x", "unknown arm 'x'; known: base, pca, lda, published, intended, pfenet, prototypes-5, blind, best"),
        (preset, "papers", "unknown preset 'papers'; did you mean 'paper'?"),
    ],
)
def test_unknown_names(find, name, message):
    with pytest.raises(InputError) as error:
        find(name)
    assert str(error.value) == message


@pytest.mark.parametrize("config", [DANetConfig(), TrainConfig()])
def test_settings_are_frozen(config):
    with pytest.raises(FrozenInstanceError):
        config.channels = 3
    assert hash(config) == hash(type(config)())


@hypothesis_settings(max_examples=30)
@given(
    channels=st.integers(1, 512),
    lda=st.booleans(),
    prior=st.sampled_from(["masked_features", "masked_input", None]),
)
def test_network_settings_survive_json(**settings):
    config = DANetConfig.intended(**settings)
    assert DANetConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("name", PRESETS)
def test_training_settings_survive_json(name):
    text = json.dumps(preset(name).to_json())
    assert TrainConfig.from_json(json.loads(text)) == preset(name)


def test_settings_do_not_import_torch():
    code = "import sys, fss, fss.config; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_channel_attention_makes_one_prototype():
    with pytest.raises(InputError, match=r"prototypes = 3 with pca = True: .* set pca=False"):
        DANetConfig.published(prototypes=3)
