"""Folders of good and bad files, and what a command says of them in a process of its own."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from processes import Fss
from safetensors.torch import save_file
from tiny import load_tiny, network, write_boxes

from fss.checkpoint import save_checkpoint
from fss.episodes import EpisodeList

TINY = {"fss.model.load_backbone": load_tiny}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def said(tmp_path_factory):
    """Run a command in a process to its end: exit code, stdout, stderr."""

    def run(*args, patches=TINY, **environment) -> tuple[int, str, str]:
        process = Fss(
            *args,
            folder=tmp_path_factory.mktemp("said"),
            patches=patches,
            environment={name: str(value) for name, value in environment.items()},
        )
        return process.end(), process.out, process.err

    return run


@pytest.fixture
def refused(said):
    """The one line that a command ends with, in exit code 2."""

    def run(*args, **options) -> str:
        code, out, err = said(*args, **options)
        assert (code, out) == (2, ""), err
        assert err.startswith("fss: error: ") and err.count("\n") == 1, err
        assert len(err) < 500
        return err

    return run


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Folders of data (6 classes of 4 pictures), and checkpoints, good and bad."""
    root = tmp_path_factory.mktemp("world")
    write_boxes(root / "data", classes=6, pictures=4)
    write_boxes(root / "other", classes=1, pictures=1, height=50, width=90)
    for kind in ("broken", "odd", "bare", "unpaired", "small"):
        shutil.copytree(root / "data", root / kind)
    picture = root / "broken" / "it's class 5" / "4.jpg"
    picture.write_bytes(picture.read_bytes()[:-300])
    Image.new("L", (60, 80), 255).save(root / "odd" / "it's class 0" / "1.png")
    Image.new("L", (80, 60)).save(root / "bare" / "it's class 0" / "1.png")
    # Class 0 is one of "val", 1 to 3 of "train", 4 and 5 of "test".
    for name in ("it's class 0/2.png", "it's class 0/3.jpg", "it's class 0/4.png"):
        (root / "unpaired" / name).unlink()
    for name in "234":
        for suffix in (".jpg", ".png"):
            (root / "small" / "it's class 5" / f"{name}{suffix}").unlink()
    (root / "empty").mkdir()
    (root / "file").write_text("neither a folder nor a picture")
    (root / "link.jpg").symlink_to(root / "data" / "it's class 5" / "1.jpg")
    model = network()
    for path in ("run/best", "run/last", "half/best"):
        save_checkpoint(model, root / f"{path}.safetensors", trained={"size": 64})
    whole = (root / "run" / "best.safetensors").read_bytes()
    (root / "short.safetensors").write_bytes(whole[:-100])
    save_checkpoint(network(seed=1), root / "backbone.safetensors", trained={"size": 64})
    model.config = network(channels=16, pca=False).config
    save_checkpoint(model, root / "other.safetensors", trained={"size": 64})
    save_file({"x": torch.zeros(2)}, root / "foreign.safetensors")
    (root / "code.pt").write_bytes(pickle.dumps(Explosive(root / "exploded")))
    EpisodeList(()).save(root / "none.json")
    return root


class Explosive:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


DATA = ["--data", "folder:{world}/data"]
EVAL = ["eval", "--quiet", "--checkpoint", "{world}/run", *DATA]
