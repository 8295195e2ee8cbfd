"""Weights of a campaign's run, put into the package with their card."""

import importlib.util
import json
from pathlib import Path

import pytest
from tiny import tally

from fss.errors import InputError
from fss.lab.campaign import Campaign

ROOT = Path(__file__).resolve().parents[2]
DECLARED = """
shots = [1]
references = ["prototype"]
[data.shapes]
[arms]
base = {}
blind = {}
"""


def tool():
    spec = importlib.util.spec_from_file_location("tools_ship", ROOT / "tools" / "ship.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_weights_and_their_card(tmp_path, monkeypatch):
    folder, ship = tmp_path / "mine", tool()
    monkeypatch.setattr(ship, "WEIGHTS", tmp_path / "weights")
    folder.mkdir()
    (folder / "campaign.toml").write_text(DECLARED)
    for run in Campaign.read(folder).runs:
        measured = tally((1, 2), (3, 4))
        row = {"name": run.arm, "on": None, "shots": 1, "episodes_sha256": "a", "counts": measured.to_json()}
        row |= {
            "support": "own",
            "marked": 0.2,
            "pictures": 2,
            "data": "shapes",
            "fold": 0,
            "seed": 0,
            "episodes": 2,
            "classes": 1,
        }
        row |= {"miou": measured.miou(), "miou_interval": [0.5, 0.7], "fb_iou": 0.9, "config": run.config.to_json()}
        row["trained"] = {
            "training_classes": 270,
            "size": 224,
            "train": run.schedule.to_json(),
            "step": 700,
            "best": 0.5,
            "seconds": 120,
        }
        nothing = dict.fromkeys(("miou", "miou_interval", "fb_iou"))
        absent = {**row, **nothing, "support": "absent", "episodes_sha256": "b", "marked": 0.03}
        content = {"settings": run.settings(), "machine": {"cpu": "C"}, "rows": [row, absent]}
        path = folder / f"{run.name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    weights = tmp_path / "runs" / "mine" / "shapes" / "base-0"
    weights.mkdir(parents=True)
    (weights / "best.safetensors").write_bytes(b"weights")
    ship.ship(folder, "shapes/base-0", "base-lite0-shapes", runs=tmp_path / "runs")
    assert (tmp_path / "weights" / "base-lite0-shapes.safetensors").read_bytes() == b"weights"
    card = (tmp_path / "weights" / "base-lite0-shapes.md").read_text()
    assert '`fss.load("base-lite0-shapes")`), trained on `shapes`, fold 0:\n270 training classes' in card
    assert "kept: step 700, the best by validation mIoU (50.0)" in card
    assert f"- command: `fss ablate {folder} --only shapes/base-0`" in card
    scores = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("|")]
    assert scores[0] == [
        *("name", "data", "support", "shots", "mIoU (%)", "FB-IoU (%)", "marked (%)", "stays (%)", "pictures"),
    ]
    assert scores[2] == ["base", "shapes", "own", "1", "66.7 [50.0, 70.0]", "90.0", "20.0", "–", "2"]
    assert [line[:3] for line in scores[2:]] == [
        [name, "shapes", support] for support in ("own", "absent") for name in ("base", "prototype", "blind")
    ]
    assert scores[5] == ["base", "shapes", "absent", "1", "–", "–", "3.0", "–", "2"]
    with pytest.raises(InputError, match="shapes/base-1 has no result; make it by fss ablate"):
        ship.ship(folder, "shapes/base-1", "x", runs=tmp_path / "runs")
