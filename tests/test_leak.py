"""Weights that were trained on classes of the test are refused, whatever the classes are called."""

import json
from pathlib import Path

import pytest
import voc as trees
from processes import Fss
from tiny import load_tiny, network, tiny_backbones, write_boxes

from fss.checkpoint import read_checkpoint, save_checkpoint
from fss.config import DANetConfig, DataConfig, TrainConfig
from fss.data import open_dataset
from fss.leak import leaked
from fss.train import train

PHOTOS = ["airplane", "Car", "potted_plant", "dining_table", "couch", "tv", "shoes"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return trees.voc(tmp_path_factory.mktemp("voc"))


def voc(tree: Path, fold: int, split: str = "test", classes: str | None = None):
    options = DataConfig(classes=classes, min_pixels=1)
    return open_dataset(f"pascal5i:{tree}", split=split, fold=fold, size=64, options=options)


@pytest.mark.parametrize(
    ("fold", "found"),
    [
        (0, ["aeroplane"]),
        (1, ["car"]),
        (2, ["diningtable"]),
        (3, ["pottedplant", "sofa", "tvmonitor"]),
    ],
)
def test_other_names_of_vocs_classes(tree, fold, found):
    assert leaked({"classes": PHOTOS}, voc(tree, fold)) == found


def test_all_classes_of_the_fold_count(tree):
    """Cat and cow were not seen, but the weights are of another fold than theirs."""
    assert leaked({"classes": PHOTOS}, voc(tree, 1, classes="cat,cow")) == ["car"]


def test_no_leak_where_none_can_be(tree):
    assert leaked({}, voc(tree, 0)) == [], "untrained"
    assert leaked({"classes": PHOTOS}, voc(tree, 1, "val")) == [], "measured on purpose"
    shapes = {"data": "shapes", "fold": 0, "size": 64, "options": {}}
    assert leaked(shapes, voc(tree, 0)) == []
    assert leaked(shapes, open_dataset("shapes", split="test", fold=0, size=64)) == []


def test_shapes_of_another_fold_leak():
    shapes = {"data": "shapes:extra=20", "fold": 0, "size": 64, "options": {}}
    test = open_dataset("shapes", split="test", fold=1, size=64)
    found = leaked(shapes, test)
    assert 80 <= len(found) <= 100  # but for the training's validation classes
    assert set(found) <= set(test.classes)


@pytest.mark.parametrize("trained", [{"size": 64}, {"data": "folder:/gone", "fold": 0, "size": 64}])
def test_nobody_knows(tree, trained):
    assert leaked(trained, voc(tree, 0)) is None


def test_a_run_tells_its_classes_and_a_header_without_them_its_data(tmp_path):
    root = write_boxes(tmp_path / "data", classes=6, pictures=3)
    schedule = TrainConfig(steps=1, size=64, val_episodes=2, batch=1)
    options = DataConfig(allow_missing=True)
    with tiny_backbones():
        train(
            DANetConfig(channels=8),
            schedule,
            f"folder:{root}",
            tmp_path / "run",
            progress=False,
            options=options,
        )
    trained = read_checkpoint(tmp_path / "run")[0]["trained"]
    training = open_dataset(f"folder:{root}", split="train", size=64)
    assert trained["classes"] == list(training.classes)
    assert DataConfig.from_json(trained["options"]) == options
    for name in training.classes:
        (root / name).rename(root / f"its {name}")
    (root / "test.txt").write_text("\n".join(f"its {name}" for name in training.classes))
    test = open_dataset(f"folder:{root}", split="test", size=64)
    assert leaked(trained, test) == []
    old = {key: value for key, value in trained.items() if key != "classes"}
    assert leaked({**old, "data": f"folder:{root}", "options": {}}, test) == [], "its training classes as of now"


def test_the_command_refuses_and_reports(tree, tmp_path):
    save_checkpoint(network(), tmp_path / "x.safetensors", trained={"size": 64, "classes": PHOTOS})
    command = [
        "eval",
        "--checkpoint",
        tmp_path / "x.safetensors",
        "--data",
        f"pascal5i:{tree}",
        "--fold",
        1,
        "--classes",
        "cat,cow",
        "--episodes",
        3,
        "--quiet",
        "--workers",
        0,
        "--json",
        tmp_path / "out.json",
    ]
    patches = {"fss.model.load_backbone": load_tiny}
    process = Fss(*command, folder=tmp_path, patches=patches)
    assert process.end() == 2 and process.out == ""
    assert process.err.count("\n") == 1 and not (tmp_path / "out.json").exists()
    for told in ("leak: ", "trained on car, 1 of the 5 classes", "--allow-leak"):
        assert told in process.err
    process = Fss(
        *command,
        "--allow-leak",
        "--at",
        "label",
        "--void",
        "background",
        folder=tmp_path,
        patches=patches,
    )
    assert process.end() == 0, process.err
    assert "leak: the checkpoint was trained on car" in process.out
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["leaked_classes"] == ["car"] and result["options"]["classes"] == "cat,cow"
    assert (result["scored_at"], result["void"]) == ("label", "background")
    assert set(result["per_class"]) <= {"cat", "cow"} and result["fold"] == 1
