"""A folder of photographs and drawn classes, through the real command."""

import subprocess
import sys
from pathlib import Path

import tiny

from fss.data import open_dataset

TOOL = Path(__file__).resolve().parent.parent / "tools" / "mix.py"


def mix(*args):
    return subprocess.run([sys.executable, TOOL, *map(str, args)], capture_output=True, text=True)


def classes(folder):
    splits = ("train", "val", "test")
    return {s: open_dataset(f"folder:{folder}", split=s, size=64).classes for s in splits}


def test_drawn_classes_join_the_training_only(tmp_path):
    photos = tiny.write_boxes(tmp_path / "photos", 8, 3)
    before = classes(photos)
    done = mix(photos, tmp_path / "mixed", "--shapes", 2, "--size", 64)
    assert done.returncode == 0, done.stderr
    after = classes(tmp_path / "mixed")
    drawn = open_dataset("shapes", split="train", fold=0, size=64).classes[:2]
    assert sorted(after["train"]) == sorted(before["train"] + drawn)
    assert after["val"] == before["val"] and after["test"] == before["test"]
    mixed = open_dataset(f"folder:{tmp_path / 'mixed'}", split="train", size=64)
    assert len(mixed[drawn[0]]) == 10 and set(mixed[drawn[0]][0][1].unique().tolist()) == {0, 1}
    assert len(mixed[before["train"][0]]) == 3


def test_what_cannot_be_mixed_is_refused(tmp_path):
    photos = tiny.write_boxes(tmp_path / "photos", 8, 3)
    for args, said in (
        ((photos, photos), f"{photos} is there"),
        ((tmp_path / "none", tmp_path / "out"), "none"),
        ((photos, tmp_path / "out", "--shapes", 271), "--shapes 271: choose 0..270"),
    ):
        done = mix(*args)
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
