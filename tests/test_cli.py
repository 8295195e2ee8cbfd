import json
import os
import pickle
import re
import subprocess
import sys
from functools import wraps
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from processes import Fss
from safetensors.torch import save_file
from tiny import network, tiny_backbones, write_boxes

import fss
from fss.checkpoint import save_checkpoint
from fss.cli import COMMANDS, main
from fss.episodes import EpisodeList

ROOT = Path(__file__).parent.parent


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder of data (6 classes of 4 pictures), and checkpoints, good and bad."""
    root = tmp_path_factory.mktemp("world")
    write_boxes(root / "data", classes=6, pictures=4)
    write_boxes(root / "other", classes=1, pictures=1, height=50, width=90)
    for kind in ("broken", "odd"):
        write_boxes(root / kind, classes=6, pictures=4)
    picture = root / "broken" / "it's class 5" / "4.jpg"
    picture.write_bytes(picture.read_bytes()[:-300])
    Image.new("L", (60, 80), 255).save(root / "odd" / "it's class 0" / "1.png")
    (root / "empty").mkdir()
    (root / "file").write_text("neither a folder nor a picture")
    (root / "run").mkdir()
    model = network()
    save_checkpoint(model, root / "run" / "best.safetensors", trained={"size": 64})
    save_checkpoint(model, root / "run" / "last.safetensors", trained={"size": 64})
    whole = (root / "run" / "best.safetensors").read_bytes()
    (root / "short.safetensors").write_bytes(whole[:-100])
    save_file({"x": torch.zeros(2)}, root / "foreign.safetensors")
    (root / "code.pt").write_bytes(pickle.dumps(Explosive()))
    EpisodeList(()).save(root / "none.json")
    return root


class Explosive:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


# --- every command once, in a process of its own ------------------------------------------------


@pytest.mark.slow
def test_a_run_from_data_to_a_mask(tmp_path, world):
    def said(*args, code=0) -> str:
        process = Fss(*args, folder=tmp_path)
        assert process.end() == code, process.err
        if code == 2:
            assert process.err.count("\n") == 1 and process.err.startswith("fss: error: ")
            return process.err
        return process.out

    data = ("--data", f"folder:{world / 'data'}")
    run = tmp_path / "run"
    settings = ("--set", "steps=3", "size=64", "--set", "val_every=2", "channels=8", "batch=2")
    out = said(
        "train", *data, "--out", run, *settings, "val_episodes=3", "seed=7", "--workers", "2"
    )
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["step 2", "step 3"]
    assert lines[-1].startswith(f"{run}/best.safetensors: validation mIoU ")

    shared = ("eval", *data, "--checkpoint", run, "--shots", "2", "--quiet")
    out = said(
        *shared, "--episodes", "9", "--seed", "4",
        "--save-list", tmp_path / "list.json", "--json", tmp_path / "a" / "a.json",
    )  # fmt: skip
    result = json.loads((tmp_path / "a" / "a.json").read_text())
    assert out.startswith(f"mIoU {100 * result['miou']:.1f} [")
    assert "9 episodes of 2 shot" in out
    assert result["episodes_sha256"] == EpisodeList.load(tmp_path / "list.json").sha256
    assert result["trained"]["train"]["seed"] == 7
    assert result["trained"]["step"] in (2, 3) and result["size"] == 64
    assert (result["shots"], result["seed"], result["episodes"]) == (2, 4, 9)
    assert list(result["per_class"]) and set(result["per_class"]) <= {
        "it's class 4",
        "it's class 5",
    }

    said(*shared, "--no-cache", "--list", tmp_path / "list.json", "--json", tmp_path / "b.json")
    again = json.loads((tmp_path / "b.json").read_text())
    del result["seconds"], again["seconds"]
    assert again == result

    support = [world / "data" / "it's class 5" / "1.jpg", world / "data" / "it's class 5" / "1.png"]
    other = [world / "other" / "it's class 0" / "1.jpg", world / "other" / "it's class 0" / "1.png"]
    query = world / "data" / "it's class 5" / "3.jpg"
    ask = ("predict", "--checkpoint", run, "--query", query, "--out", tmp_path / "mask.png")
    out = said(*ask, "--support", *support, "--support", *other)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.size == (80, 60)
        found = np.asarray(image)
    assert set(np.unique(found)) <= {0, 255}
    assert (
        out
        == f"{tmp_path / 'mask.png'}: {100 * (found > 0).mean():.1f} % of the picture is object\n"
    )

    assert said("check", *data, "--workers", "2").endswith("every picture is sound\n")
    out = said("check", "--data", f"folder:{world / 'broken'}", "--workers", "2", "--quiet", code=1)
    assert "it's class 5/4.jpg cannot be read" in out
    assert out.splitlines()[-1] == f"folder:{world / 'broken'}: 1 bad pictures"

    # A picture that a worker cannot read, and a command line that does not parse.
    broken = ("--data", f"folder:{world / 'broken'}")
    err = said("eval", *broken, "--checkpoint", run, "--workers", "2", "--quiet", code=2)
    assert "it's class 5/4.jpg cannot be read" in err
    assert "--shots" in said("eval", "--shots", "many", code=2)


def python(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_the_package_runs_and_answers_bad_input_with_2(tmp_path):
    found = python("-m", "fss", "trian", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "fss: error: unknown command 'trian'; did you mean 'train'?\n"
    found = python("-m", "fss", "--help", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert all(f" {name} " in found.stdout for name in COMMANDS)
    assert tree(tmp_path) == {}


def test_help_loads_nothing_heavy():
    heavy = ("torch", "torchvision", "timm", "numpy", "PIL", "matplotlib", "pandas", "scipy")
    program = (
        "import sys, fss, fss.cli\n"
        "try: fss.cli.main(['train', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        f"sys.exit(','.join(name for name in {heavy} if name in sys.modules) or 0)"
    )
    found = python("-c", program)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert not end.value.code
    out, err = capsys.readouterr()
    assert err == ""
    text = " ".join(out.replace("│", " ").split())
    assert " ".join(COMMANDS[command].__doc__.split()) in text
    for name, kind in get_type_hints(COMMANDS[command], include_extras=True).items():
        if name != "return":
            assert re.search(rf"--(no-)?{name.replace('_', '-')}\b", text), name
            (told,) = (part.help for part in kind.__metadata__ if getattr(part, "help", None))
            assert told in text, name


# --- bad input: one line, exit code 2, nothing changed ------------------------------------------

DATA = ["--data", "folder:{world}/data"]
TRAIN = ["train", "--out", "{tmp}/out", *DATA, "--quiet"]
EVAL = ["eval", "--quiet", "--checkpoint", "{world}/run", *DATA]
PICTURE = "{world}/data/it's class 5/"
SUPPORT = ["--support", PICTURE + "1.jpg", PICTURE + "1.png"]
PREDICT = ["predict", "--checkpoint", "{world}/run", "--query", PICTURE + "2.jpg"]
OUT = ["--out", "{tmp}/mask.png"]

BAD = {
    # the command line itself
    "no command": ([], "Expected one of {train, eval, predict, check, bench}; see fss --help"),
    "unknown command": (["evaluate"], "unknown command 'evaluate'; did you mean 'eval'?"),
    "no such option": ([*EVAL, "--episode", "3"], "--episode"),
    "not a number": ([*EVAL, "--shots", "many"], "--shots: invalid literal for int"),
    "a value missing": ([*EVAL, "--json"], "--json"),
    "an option missing": (["train"], "--out"),
    "a mask missing": ([*PREDICT, *OUT, "--support", "a.jpg"], "--support"),
    "no support": ([*PREDICT, *OUT], "--support: give at least one labelled picture"),
    # names
    "unknown data": (["train", "--out", "{tmp}/o", "--data", "shape"], "did you mean 'shapes'?"),
    "unknown knob": ([*EVAL, "--data", "shapes:occlusin=1"], "did you mean 'occlusion'?"),
    "unknown arm": ([*TRAIN, "--arm", "pfnet"], "unknown arm 'pfnet'; did you mean 'pfenet'?"),
    "unknown preset": ([*TRAIN, "--preset", "fast"], "unknown preset 'fast'; known: quick, paper"),
    "unknown setting": ([*TRAIN, "--set", "stesp=3"], "did you mean 'steps'?"),
    "no setting": ([*TRAIN, "--set", "steps"], "--set steps: write NAME=VALUE"),
    "bad setting": ([*TRAIN, "--set", "steps=many"], "TrainConfig.steps = 'many'"),
    "bad network": ([*TRAIN, "--set", "channels=1.5"], "DANetConfig.channels = 1.5"),
    "bad backbone": ([*TRAIN, "--set", "backbone=resnet5"], "DANetConfig.backbone = 'resnet5'"),
    "a setting of zero": ([*TRAIN, "--set", "batch=0"], "TrainConfig.batch = 0: use 1 or more"),
    "negative seed": ([*TRAIN, "--seed", "-1"], "seed = -1: use 0 or more"),
    "unknown split": ([*EVAL, "--split", "tset"], "unknown split 'tset'; did you mean 'test'?"),
    "unknown fold": ([*EVAL, "--fold", "4"], "fold 4 does not exist; choose 0..3"),
    "unknown device": ([*EVAL, "--device", "gpu"], "unknown device 'gpu'"),
    "no GPU": ([*EVAL, "--device", "cuda"], "no usable GPU here; use cpu"),
    "no GPU to train": ([*TRAIN, "--device", "cuda:3"], "no usable GPU here; use cpu"),
    "no GPU to predict": ([*PREDICT, *SUPPORT, *OUT, "--device", "cuda"], "no usable GPU here"),
    # data
    "missing folder": ([*EVAL, "--data", "folder:{world}/none"], "no folder {world}/none"),
    "nothing to check": (["check", "--data", "folder:{world}/none"], "no folder {world}/none"),
    "no folder named": ([*EVAL, "--data", "folder:"], "names no folder"),
    "a file": ([*TRAIN, "--data", "folder:{world}/file"], "no folder {world}/file"),
    "empty folder": ([*TRAIN, "--data", "folder:{world}/empty"], "no class folders"),
    "truncated picture": ([*EVAL, "--data", "folder:{world}/broken"], "5/4.jpg cannot be read"),
    "mask of other size": ([*TRAIN, "--data", "folder:{world}/odd", "--workers", "0"],
                           "1.png is 60 x 80 pixels, its picture 1.jpg 80 x 60"),
    # episodes
    "no shots": ([*EVAL, "--shots", "0"], "shots = 0: an episode needs at least 1"),
    "too many shots": ([*EVAL, "--shots", "4"], "class \"it's class 4\" has 4 pictures"),
    "shots to train": ([*TRAIN, "--set", "shots=4"], "has 4 pictures"),
    "no episodes": ([*EVAL, "--episodes", "0"], "episodes = 0: use 1 or more"),
    "seed of a list": ([*EVAL, "--seed", "-3"], "seed = -3: use 0 or more"),
    "tiny size": ([*EVAL, "--size", "8"], "size 8 px is too small"),
    "size zero": ([*EVAL, "--size", "0"], "size 0 px is too small"),
    "size to predict": ([*PREDICT, *SUPPORT, *OUT, "--size", "0"], "size 0 px is too small"),
    "no list": ([*EVAL, "--list", "{world}/none"], "none: not a saved episode list"),
    "a picture as list": ([*EVAL, "--list", PICTURE + "1.png"], "not a saved episode list"),
    "empty list": ([*EVAL, "--list", "{world}/none.json"], "the episode list is empty"),
    # checkpoints
    "no checkpoint": ([*EVAL, "--checkpoint", "danet"], "no checkpoint 'danet': no such file"),
    "no run": ([*EVAL, "--checkpoint", "{world}/data"], "data: no best.safetensors"),
    "truncated": ([*EVAL, "--checkpoint", "{world}/short.safetensors"], "not a whole safetensors"),
    "foreign": ([*EVAL, "--checkpoint", "{world}/foreign.safetensors"], "not a checkpoint of this"),
    "pickle": ([*EVAL, "--checkpoint", "{world}/code.pt"], "never opened, since they can carry co"),
    "text": ([*PREDICT, *SUPPORT, *OUT, "--checkpoint", "{world}/file"], "not a whole safetensors"),
    # places to write
    "run below a file": (["train", *DATA, "--out", "{world}/file/run"], "cannot be written (Not a"),
    "run in a file": (["train", *DATA, "--out", "{world}/file"], "cannot be written (Not a dir"),
    "a run already": (["train", *DATA, "--out", "{world}/run"], "holds a run already; add --res"),
    "nothing to resume": ([*TRAIN, "--resume"], "out/last.safetensors: nothing to resume"),
    "other settings": (["train", *DATA, "--out", "{world}/run", "--resume"], "was trained wit"),
    "json below a file": ([*EVAL, "--json", "{world}/file/x.json"], "x.json: cannot be written"),
    "json is a folder": ([*EVAL, "--json", "{world}/run"], "run: cannot be written (Is a"),
    "list below a file": ([*EVAL, "--save-list", "{world}/file/x"], "x: cannot be written"),
    "mask below a file": ([*PREDICT, *SUPPORT, "--out", "{world}/file/x.png"], "cannot be written"),
    # prediction
    "mask no PNG": ([*PREDICT, *SUPPORT, "--out", "{tmp}/mask.jpg"], "let the name end in .png"),
    "mask over input": ([*PREDICT, *SUPPORT, "--out", PICTURE + "1.png"], "is one of the inputs"),
    "query is support": ([*PREDICT, *OUT, "--support", PICTURE + "2.jpg", PICTURE + "2.png"],
                         "2.jpg: is both support and query"),
    "query is no picture": ([*PREDICT, *SUPPORT, *OUT, "--query", "{world}/file"], "is no picture"),
    "mask of other picture": ([*PREDICT, *OUT, "--support", PICTURE + "1.jpg",
                               "{world}/other/it's class 0/1.png"], "is 90 x 50 pixels"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the cases ask for a GPU where there is none")
def test_bad_input_is_one_line_and_exit_code_2(case, world, tmp_path, capsys, cache, monkeypatch):
    args, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    before = tree(world)

    def filled(text: str) -> str:
        return text.replace("{world}", str(world)).replace("{tmp}", str(tmp_path))

    with pytest.raises(SystemExit) as end, tiny_backbones():
        main([filled(arg) for arg in args])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fss: error: ") and err.count("\n") == 1, err
    assert filled(message) in err
    assert len(err) < 500
    assert tree(world) == before
    assert tree(tmp_path) == {}
    assert not list(cache.rglob("*.part-*"))
    if case != "mask of other size":  # the only one that is found after a first cache is whole
        assert not list(cache.rglob("*.npy"))


# --- good input that is easily broken -----------------------------------------------------------


def call(monkeypatch, name: str, *args: str) -> dict:
    """What the command ``name`` is called with."""
    seen = {}

    @wraps(COMMANDS[name])
    def noted(**values):
        seen.update(values)

    monkeypatch.setitem(COMMANDS, name, noted)
    main([name, *args])
    return seen


def test_settings_may_be_given_at_once_or_one_by_one(monkeypatch):
    import fss.train

    trained = []

    def noted(*args, **options):
        trained.append((args, options))
        return type("Model", (), {"trained": {"best": 0.5, "step": 1}})()

    monkeypatch.setattr(fss.train, "train", noted)
    for settings in (
        ["--set", "steps=7", "channels=24", "prior=None", "lr=1e-4"],
        ["--set", "steps=7", "--set", "channels=24", "--set", "prior=none", "lr=0.0001"],
    ):
        main(["train", "--out", "x", "--seed", "3", *settings, "--quiet", "--arm", "pca"])
    (config, schedule, data, out), options = trained[0]
    assert (config.channels, config.prior, config.lda, config.pca) == (24, None, False, True)
    assert (schedule.steps, schedule.lr, schedule.seed) == (7, 1e-4, 3)
    assert (data, out, options["progress"], options["fold"]) == ("shapes", Path("x"), False, 0)
    assert trained[0] == trained[1]
    main(["train", "--out", "x", "--set", "seed=5", "augment=paper", "cache=False"])
    schedule = trained[-1][0][1]
    assert (schedule.seed, schedule.augment, schedule.cache) == (5, "paper", False)


def test_options_reach_their_command(monkeypatch):
    seen = call(monkeypatch, "eval", "--no-cache", "--json", "o.json", "--save-list", "l.json")
    assert (seen["cache"], seen["json"], seen["save_list"]) == (
        False,
        Path("o.json"),
        Path("l.json"),
    )
    assert seen["checkpoint"] == "danet-lite0-shapes"
    seen = call(
        monkeypatch,
        "predict",
        "--query",
        "q",
        "--out",
        "o",
        "--support",
        "a",
        "b",
        "--support",
        "c",
        "d",
    )
    assert seen["support"] == ((Path("a"), Path("b")), (Path("c"), Path("d")))


@pytest.mark.parametrize("reference", ["all-foreground", "training-free"])
def test_references_are_evaluated_by_name(reference, world, capsys, tmp_path):
    with tiny_backbones():
        main(["eval", "--quiet", "--checkpoint", reference, "--data", f"folder:{world / 'data'}",
              "--size", "64", "--episodes", "5", "--json", str(tmp_path / "x.json")])  # fmt: skip
    result = json.loads((tmp_path / "x.json").read_text())
    assert result["checkpoint"] == reference and 0 < result["miou"] < 1
    assert f"mIoU {100 * result['miou']:.1f}" in capsys.readouterr().out


def test_an_interruption_ends_with_130(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("fss.cli._parse", lambda args: interrupt)
    with pytest.raises(SystemExit) as end:
        main(["check"])
    assert end.value.code == 130
    assert capsys.readouterr().err == "fss: interrupted\n"


def test_the_package_offers_load_and_nothing_unknown():
    from fss.checkpoint import load

    assert fss.load is load
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        fss.laod  # noqa: B018
