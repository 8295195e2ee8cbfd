import inspect
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import get_origin, get_type_hints

import numpy as np
import pytest
from PIL import Image
from processes import Fss
from tiny import tiny_backbones, write_boxes

import fss
from fss.__main__ import main
from fss.cli import COMMANDS
from fss.config import DataConfig, Scoring
from fss.episodes import EpisodeList

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Folders of data: 6 classes of 4 pictures, one of which cannot be read in `broken`."""
    root = tmp_path_factory.mktemp("world")
    for kind in ("data", "broken"):
        write_boxes(root / kind, classes=6, pictures=4)
    write_boxes(root / "other", classes=1, pictures=1, height=50, width=90)
    picture = root / "broken" / "it's class 5" / "4.jpg"
    picture.write_bytes(picture.read_bytes()[:-300])
    return root


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
    out = said("train", *data, "--out", run, *settings, "val_episodes=3", "seed=7", "--workers", "2")
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["step 2", "step 3"]
    assert lines[-1].startswith(f"{run}/best.safetensors: validation mIoU ")

    shared = ("eval", *data, "--checkpoint", run, "--shots", "2", "--quiet")
    out = said(
        *shared,
        "--episodes",
        "9",
        "--seed",
        "4",
        "--save-list",
        tmp_path / "list.json",
        "--json",
        tmp_path / "a" / "a.json",
    )
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
    given = ("eval", *data, "--checkpoint", run, "--list", tmp_path / "list.json")
    for option, value, has in (("--shots", 1, 2), ("--episodes", 8, 9), ("--seed", 0, 4)):
        assert f"{option} {value}: the list " in said(*given, option, value, code=2)
        said(*given, option, has, "--no-cache", "--quiet")

    support = [world / "data" / "it's class 5" / "1.jpg", world / "data" / "it's class 5" / "1.png"]
    other = [world / "other" / "it's class 0" / "1.jpg", world / "other" / "it's class 0" / "1.png"]
    query = world / "data" / "it's class 5" / "3.jpg"
    ask = ("predict", "--checkpoint", run, "--query", query, "--out", tmp_path / "mask.png")
    out = said(*ask, "--support", *support, "--support", *other)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.size == (80, 60)
        found = np.asarray(image)
    assert set(np.unique(found)) <= {0, 255}
    assert out == f"{tmp_path / 'mask.png'}: {100 * (found > 0).mean():.1f} % of the picture is object\n"

    assert said("check", *data, "--workers", "2").endswith("every picture is sound\n")
    out = said("check", "--data", f"folder:{world / 'broken'}", "--workers", "2", "--quiet", code=1)
    assert "it's class 5/4.jpg cannot be read" in out
    assert out.splitlines()[-1] == f"folder:{world / 'broken'}: 1 problem"

    # A picture that a worker cannot read.
    broken = ("--data", f"folder:{world / 'broken'}")
    err = said("eval", *broken, "--checkpoint", run, "--workers", "2", "--quiet", code=2)
    assert "it's class 5/4.jpg cannot be read" in err


def python(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_package_runs_and_answers_bad_input_with_2(tmp_path):
    found = python("-m", "fss", "trian", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "fss: error: unknown command 'trian'; did you mean 'train'?\n"
    found = python("-m", "fss", "--help", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert all(f" {name} " in found.stdout for name in COMMANDS)
    assert list(tmp_path.iterdir()) == []


def test_help_loads_nothing_heavy():
    heavy = ("torch", "torchvision", "timm", "numpy", "PIL", "matplotlib", "pandas", "scipy")
    program = (
        "import sys, fss, fss.__main__\n"
        "try: fss.__main__.main(['train', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        f"sys.exit(','.join(name for name in {heavy} if name in sys.modules) or 0)"
    )
    found = python("-c", program)
    assert found.returncode == 0, found.stderr


def helps(kind) -> list[str]:
    return [part.help for part in kind.__metadata__ if getattr(part, "help", None)]


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
        if is_dataclass(get_origin(kind) and kind.__origin__):
            told = inspect.getdoc(kind.__origin__).partition("Attributes:")[2]
            hints = get_type_hints(kind.__origin__, include_extras=True)
            for field in fields(kind.__origin__):
                option = "import" if field.name == "modules" else field.name.replace("_", "-")
                assert re.search(rf"--{option}\b", text), field.name
                (first,) = re.findall(rf"\n    {field.name}: (.+)", told) or helps(hints[field.name])
                assert " ".join(first.split()[:5]) in text, field.name
        elif name != "return":
            positional = {
                "failed": "fss replay .*PATH",
                "a": r"fss compare .*A\.json",
                "b": r"fss compare .*B\.json",
                "campaign": "fss ablate .*FOLDER",
                "what": "fss download .*NAME",
                "table": "fss reproduce .*TABLE",
            }
            option = rf"--(no-)?{'import' if name == 'modules' else name.replace('_', '-')}\b"
            assert re.search(positional.get(name, option), text), name
            assert helps(kind)[0] in text, name


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
    assert seen["checkpoint"] == "intended-lite0-shapes"
    assert (seen["options"], seen["scoring"]) == (DataConfig(), Scoring())
    seen = call(monkeypatch, "eval", "--classes", "cat,cow", "--allow-missing", "--at", "label")
    assert seen["options"] == DataConfig(classes="cat,cow", allow_missing=True)
    assert seen["scoring"] == Scoring(at="label") and seen["allow_leak"] is False
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
    assert seen["checkpoint"] == "best-lite0-photos"
    assert call(monkeypatch, "eval", "--import", "a.b", "--import", "c")["modules"] == ("a.b", "c")


@pytest.mark.parametrize("reference", ["all-foreground", "prototype", "em:3", "attended"])
def test_references_are_evaluated_by_name(reference, world, capsys, tmp_path):
    with tiny_backbones():
        main(
            [
                "eval",
                "--quiet",
                "--checkpoint",
                reference,
                "--data",
                f"folder:{world / 'data'}",
                "--size",
                "64",
                "--episodes",
                "5",
                "--json",
                str(tmp_path / "x.json"),
            ]
        )
    result = json.loads((tmp_path / "x.json").read_text())
    assert result["checkpoint"] == reference and 0 < result["miou"] < 1
    assert f"mIoU {100 * result['miou']:.1f}" in capsys.readouterr().out


def test_an_interruption_ends_with_130(monkeypatch, capsys):
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "check", interrupt)
    with pytest.raises(SystemExit) as end:
        main(["check"])
    assert end.value.code == 130
    assert capsys.readouterr().err == "fss: interrupted\n"


def test_sigterm_ends_with_143_after_tidying_up(monkeypatch, capsys):
    tidied = []

    def terminated() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            tidied.append(True)

    monkeypatch.setitem(COMMANDS, "check", terminated)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        main(["check"])
    assert end.value.code == 143 and tidied
    assert capsys.readouterr().err == "fss: stopped by SIGTERM\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_nobody_reads_on(world):
    """As in `fss check | head -0`."""
    command = f"{sys.executable} -m fss check --quiet --data 'folder:{world / 'data'}' --workers 1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = f"set -o pipefail; ({command}; echo $? >&2) | true"
    found = subprocess.run(
        ["bash", "-c", script.replace("it's", "its")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert found.stderr == "141\n"


def test_the_package_offers_load_and_nothing_unknown():
    from fss.checkpoint import load

    assert fss.load is load
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        fss.laod  # noqa: B018


# --- modules of one's own -----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "eval", "predict", "replay"])
def test_a_module_of_this_folder_is_imported_before_the_command_works(tmp_path, monkeypatch, capsys, command):
    needed = {
        "train": ["--out", "{tmp}/x", "--arm", "none"],
        "eval": ["--checkpoint", "{tmp}/none"],
        "predict": ["--query", "q", "--out", "o.png", "--support", "a", "b", "--checkpoint", "{tmp}/none"],
        "replay": ["{tmp}/none"],
    }[command]
    name = f"my_attention_for_{command}"
    (tmp_path / f"{name}.py").write_text("import builtins\nbuiltins.marker = __name__\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("builtins.marker", None, raising=False)
    with pytest.raises(SystemExit) as end:
        main([command, *(part.replace("{tmp}", str(tmp_path)) for part in needed), "--import", name])
    assert end.value.code == 2 and "none" in capsys.readouterr().err, "the command itself found no such file"
    import builtins

    assert builtins.marker == name
    del sys.modules[name]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "ModuleNotFoundError: No module named 'my_own'"),
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, capsys, source, reason):
    if source:
        (tmp_path / "my_own.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as end:
        main(["eval", "--import", "my_own"])
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert err.startswith(f"fss: error: --import my_own: {reason}") and err.count("\n") == 1


def test_only_train_and_eval_share_their_work(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as end:
        main(["predict"])
    assert end.value.code == 2 and "use no launcher" in capsys.readouterr().err
