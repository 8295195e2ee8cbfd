# ruff: noqa: F811  fixtures are imported
"""Odd folders, full disks, foreign caches, signals and killed processes, through the real command line."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_input import EVAL, TINY, refused, said, tree, world  # noqa: F401  fixtures
from jupyter_client.manager import start_new_kernel
from PIL import Image
from processes import Fss
from safetensors.torch import load_file
from tiny import slow_extract, write_boxes

from fss.checkpoint import read_checkpoint

# --- fss check ----------------------------------------------------------------------------------


def spoil(root: Path) -> dict[str, str]:
    """A data set with one of everything that is wrong; path -> what is said of it."""
    write_boxes(root, classes=7, pictures=6)
    one, two, three = (root / f"it's class {n}" for n in (1, 2, 6))
    (one / "1.png").unlink()
    (one / "2.jpg").unlink()
    (one / "3.jpeg").write_bytes(b"")
    (root / "nothing").mkdir()
    (root / "nothing" / "notes.txt").write_text("no picture")
    for name, keep in (("1.jpg", 300), ("2.png", -40)):
        (two / name).write_bytes((two / name).read_bytes()[:keep])
    (two / "3.jpg").write_text("no picture")
    Image.new("L", (80, 60)).save(two / "4.png")
    Image.new("L", (80, 61), 255).save(two / "5.png")
    values = np.arange(80 * 60, dtype=np.uint8).reshape(60, 80) // 86
    Image.fromarray(values).save(two / "6.png")
    frames = [Image.new("RGB", (80, 60), colour) for colour in ("red", "blue")]
    frames[0].save(three / "1.webp", save_all=True, append_images=frames[1:])
    (three / "1.jpg").unlink()
    Image.fromarray(np.zeros((60, 80), np.float32)).save(three / "2.tiff")
    (three / "2.jpg").unlink()
    colours = Image.new("RGB", (80, 60), (200, 0, 0))
    colours.paste((0, 200, 0), (0, 0, 40, 30))
    colours.save(three / "3.png")
    Image.new("L", (10_000, 9_000)).save(three / "4.jpg")
    (three / "5.jpg").unlink()
    (three / "5.jpg").mkdir()
    return {
        f"{one / '1.jpg'}": "add 1.png beside it",
        f"{one / '2.png'}": "add 2.jpg beside it",
        f"{one / '3.jpg'} and 3.jpeg": "share one mask",
        f"{root / 'nothing'}": "expected <n>.jpg with its mask",
        f"{two / '1.jpg'}": "cannot be read",
        f"{two / '2.png'}": "cannot be read",
        f"{two / '3.jpg'}": "is no picture",
        f"{two / '4.png'}": "marks no object",
        f"{two / '5.png'}": "is 80 x 61 pixels, its picture 5.jpg 80 x 60",
        f"{two / '6.png'}": "holds the values",
        f"{three / '1.webp'}": "several frames",
        f"{three / '2.tiff'}": "floating-point",
        f"{three / '3.png'}": "coloured",
        f"{three / '4.jpg'}": "more than 89,478,485 pixels; make it smaller",
        f"{three / '5.jpg'}": "cannot be read (Is a directory)",
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_check_lists_everything_that_is_wrong(tmp_path, said, workers):
    expected = spoil(tmp_path / "data")
    (tmp_path / "data" / "val.txt").write_text("it's class 0\nnot here\n")
    before = tree(tmp_path)
    spec = f"folder:{tmp_path / 'data'}"
    code, out, err = said("check", "--data", spec, "--workers", workers, "--quiet")
    *lines, last = out.splitlines()
    for path, reason in expected.items():
        (line,) = (line for line in lines if path in line and reason in line)
        lines.remove(line)
    (absent,) = lines
    assert "1 of the 2 val classes have no folder" in absent and "not here" in absent
    assert last == f"{spec}: {len(expected) + 1} problems"
    assert (code, err) == (1, "")
    assert tree(tmp_path) == before


def test_check_names_pictures_without_contrast(tmp_path, said):
    """Twelve bits in sixteen, all black, or transparent all over: each comes out as one colour."""
    folder = write_boxes(tmp_path, classes=4, pictures=4) / "it's class 3"
    grey = np.where(np.arange(80) < 40, 900, 3400).astype(np.uint16)
    Image.fromarray(np.tile(grey, (60, 1))).save(folder / "1.tif")
    (folder / "1.jpg").unlink()
    Image.new("RGB", (80, 60)).save(folder / "2.jpg")
    Image.new("RGBA", (80, 60), (200, 40, 40, 0)).save(folder / "3.webp", lossless=True)
    (folder / "3.jpg").unlink()
    code, out, _ = said("check", "--data", f"folder:{tmp_path}", "--quiet")
    *lines, last = out.splitlines()
    assert code == 1 and last.endswith("3 problems")
    for line, values in zip(
        lines, ("1.tif comes out without contrast, with values from 4 to 13", "2.jpg", "3.webp"), strict=True
    ):
        assert values in line and "without contrast" in line and "save it with 8 bits over the whole range" in line


@pytest.mark.parametrize(("classes", "pictures", "said_of"), [(1, 4, "test eval train"), (2, 4, "train"), (3, 4, "")])
def test_check_says_what_is_too_little_to_train(tmp_path, said, classes, pictures, said_of):
    write_boxes(tmp_path, classes=classes, pictures=pictures)
    code, out, err = said("check", "--data", f"folder:{tmp_path}", "--quiet")
    assert (code, err) == (0, "")
    assert ("it takes at least three" in out) == bool(said_of)
    assert all(f"fss {each} needs" in out for each in ("eval", "train") if each in said_of)


def test_check_says_which_classes_have_one_picture(tmp_path, said):
    write_boxes(tmp_path, classes=4, pictures=3)
    for n in (1, 2):
        for suffix in ("jpg", "png"):
            (tmp_path / "it's class 0" / f"{n}.{suffix}").unlink()
    _, out, _ = said("check", "--data", f"folder:{tmp_path}", "--quiet")
    assert "too few pictures: it's class 0 with one each, where an episode needs at least two" in out


@pytest.mark.parametrize("broken", [False, True])
def test_a_closed_stdout_changes_nothing_else(world, broken):
    spec = f"folder:{world / ('broken' if broken else 'data')}"
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "fss", "check", "--data", spec, "--quiet"]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (int(broken), "")


def test_check_finds_a_whole_folder_sound_and_shows_its_progress(world, said):
    code, out, err = said("check", "--data", f"folder:{world / 'data'}")
    assert (code, out) == (0, f"folder:{world / 'data'}: every picture is sound\n")
    assert all(f"{split}: 100%" in err for split in ("train", "val", "test"))
    code, out, _ = said("check", "--data", f"folder:{world / 'other'}", "--quiet")
    assert code == 0 and "sound" in out  # one class: the splits without any are no error


# --- what is odd and works ----------------------------------------------------------------------


def test_pictures_of_every_kind_are_read(world, tmp_path, said):
    rng = np.random.default_rng(0)
    folder = tmp_path / "l'été d'Anna (1)"
    folder.mkdir()
    grey = Image.fromarray(rng.integers(0, 256, (50, 70), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = {
        "grey.jpg": (grey, {}),
        "alpha.png": (colour.convert("RGBA"), {}),
        "print.jpg": (colour.convert("CMYK"), {}),
        "sixteen.tif": (Image.fromarray(rng.integers(0, 65536, (50, 70), dtype=np.uint16)), {}),
        "turned.jpg": (colour.transpose(Image.Transpose.ROTATE_90), {"exif": exif}),
        "point.png": (colour.crop((0, 0, 1, 1)), {}),
        "8,000.png": (colour.resize((8000, 60)), {}),
    }
    support = []
    for name, (image, options) in pictures.items():
        image.save(folder / name, **options)
        width, height = image.size if name != "turned.jpg" else image.size[::-1]
        mask = np.zeros((height, width), np.uint8)
        mask[: max(1, height // 2)] = 255
        Image.fromarray(mask).save(folder / f"mask of {name}.png")
        support += ["--support", folder / name, folder / f"mask of {name}.png"]
    palette = colour.convert("P")
    palette.save(folder / "query's.png")
    code, out, err = said(
        "predict",
        "--checkpoint",
        world / "run",
        *support,
        "--query",
        folder / "query's.png",
        "--out",
        folder / "mask's.png",
    )
    assert (code, err) == (0, ""), err
    with Image.open(folder / "mask's.png") as image:
        assert image.size == (70, 50)


def test_small_classes_are_left_out_on_demand_and_count_as_not_covered(world, tmp_path, said):
    code, _, err = said(
        "eval",
        "--checkpoint",
        world / "run",
        "--data",
        f"folder:{world / 'small'}",
        "--quiet",
        "--skip-small-classes",
        "--episodes",
        "5",
        "--json",
        tmp_path / "x.json",
    )
    assert (code, err) == (0, "")
    result = json.loads((tmp_path / "x.json").read_text())
    assert (list(result["per_class"]), result["classes"]) == (["it's class 4"], 1)
    assert result["not_covered"] == ["it's class 5"]


# --- disks --------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[..., Path]]:
    """Mount a small disk of its own; only root may, on Linux."""
    mounted = []

    def mount(*options: str) -> Path:
        path = tmp_path / "disk"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("no disk can be mounted: no such command")
        if done.returncode:
            pytest.skip(f"no disk can be mounted: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


def writers(world: Path, out: Path) -> dict[str, list]:
    data = ["--data", f"folder:{world / 'data'}"]
    home = world / "data" / "it's class 5"
    pair = ["--support", home / "1.jpg", home / "1.png"]
    checkpoint = ["--checkpoint", world / "run"]
    return {
        "train": ["train", *data, "--quiet", "--out", out / "run", "--set", "channels=8"],
        "json": ["eval", *data, *checkpoint, "--quiet", "--episodes", "9", "--json", out / "x"],
        "list": ["eval", *data, *checkpoint, "--quiet", "--save-list", out / "x"],
        "mask": ["predict", *checkpoint, *pair, "--query", home / "2.jpg", "--out", out / "x.png"],
    }


@pytest.mark.parametrize("command", ["train", "json", "list", "mask"])
def test_a_full_disk(world, disk, refused, command):
    out = disk("size=8k")
    (out / "full").write_bytes(bytes(8192))
    err = refused(*writers(world, out)[command])
    assert str(out) in err and "cannot be written (No space left on device); choose another" in err
    assert list(tree(out)) == ["full"]


@pytest.mark.parametrize("command", ["train", "json", "list", "mask"])
def test_a_read_only_folder(world, disk, refused, command):
    out = disk("ro")
    err = refused(*writers(world, out)[command])
    assert str(out) in err and "cannot be written (Read-only file system); choose another" in err
    assert tree(out) == {}


def test_a_full_disk_under_the_cache(world, disk, said, tmp_path):
    cache = disk("size=16k")
    code, _, err = said(*writers(world, tmp_path)["json"], XDG_CACHE_HOME=cache)
    assert (code, err.count("\n")) == (0, 1) and err.startswith("fss: no feature cache (")
    assert "GB free; set XDG_CACHE_HOME to a larger disk" in err
    assert not [path for path in cache.rglob("*") if path.is_file() or ".part" in path.name]


# --- the cache ----------------------------------------------------------------------------------


def test_a_cache_over_its_cap(world, said, refused, tmp_path, cache):
    assert "use a number" in refused(*writers(world, tmp_path)["json"], FSS_CACHE_GB="-1")
    assert tree(tmp_path) == {}
    code, _, err = said(*writers(world, tmp_path)["json"], FSS_CACHE_GB="0.00001")
    assert (code, err.count("\n")) == (0, 1)
    assert "above the cap of 1e-05 GB; set FSS_CACHE_GB higher" in err
    assert list(cache.rglob("*.npy")) == []


def test_an_interrupted_or_foreign_cache_is_made_anew(world, said, tmp_path, cache):
    def measured(name: str) -> dict:
        *args, _ = writers(world, tmp_path)["json"]
        code, _, err = said(*args, tmp_path / name)
        assert (code, err) == (0, "")
        result = json.loads((tmp_path / name).read_text())
        del result["seconds"]
        return result

    whole = measured("whole.json")
    (file,) = (cache / "fss" / "features").iterdir()
    os.truncate(file, 500)
    assert measured("interrupted.json") == whole
    # The features of another data set, under the name of this one's.
    table = np.load(file)
    for name in table.dtype.names:
        table[name] = np.zeros_like(table[name])
    table["key"] = b"another"
    np.save(file, table)
    assert measured("foreign.json") == whole


# --- signals, and two at once -------------------------------------------------------------------

SETTINGS = ["channels=4", "size=32", "batch=1", "val_episodes=1", "warmup=0"]


def start(world: Path, out: Path, *more, patches=TINY) -> Fss:
    args = ["train", "--out", out, "--data", f"folder:{world / 'data'}", "--workers", "0"]
    folder = out.with_name(f"{out.name}-{time.monotonic_ns()}")
    folder.mkdir()
    return Fss(*args, "--set", *SETTINGS, *more, folder=folder, patches=patches)


def same_runs(*folders: Path) -> bool:
    """Whether two runs hold the same files, bit for bit but for the seconds they took."""
    for name in ("last", "best"):
        a, b = (load_file(folder / f"{name}.safetensors") for folder in folders)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    logs = [(folder / "log.csv").read_text() for folder in folders]
    return logs[0] == logs[1] and set(os.listdir(folders[0])) == set(os.listdir(folders[1]))


def test_two_trainings_into_one_folder(world, tmp_path):
    out = tmp_path / "run"
    first = start(world, out, "steps=1000000", "val_every=5")
    first.wait_for("step 5:")
    for more in ([], ["--resume"]):
        second = start(world, out, "steps=1000000", "val_every=5", *more)
        assert second.end() == 2
        assert second.err.splitlines()[-1] == (
            f"fss: error: {out}: another process is writing here; wait for its end, or choose another folder"
        )
    first.send(signal.SIGTERM)  # it was not disturbed
    assert first.end() == 143
    assert "stopped by SIGTERM after step" in first.err.splitlines()[-1]
    assert sorted(os.listdir(out)) == ["best.safetensors", "last.safetensors", "log.csv"]


def no_memory(*args, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")


def no_memory_in_numpy(*args, **options):
    raise MemoryError("Unable to allocate 3.00 GiB for an array")


def no_memory_on_the_cpu(*args, **options):
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried ...")


@pytest.mark.parametrize("fails", [no_memory, no_memory_in_numpy, no_memory_on_the_cpu])
def test_too_little_memory_is_one_line(world, refused, fails):
    args = (part.replace("{world}", str(world)) for part in EVAL)
    line = refused(*args, patches={**TINY, "fss.evaluate.evaluate": fails})
    assert "out of memory" in line and "--accumulate" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_cache_is_made(world, tmp_path, cache, number):
    stopped = start(world, tmp_path / "run", patches={**TINY, "fss.features.extract": slow_extract})
    stopped.wait_until(lambda: (cache / "fss" / "features").exists())
    stopped.send(number)
    assert stopped.end() == 128 + number
    name = {signal.SIGTERM: "stopped by SIGTERM", signal.SIGINT: "interrupted"}[number]
    assert stopped.err.splitlines()[-1] == f"fss: {name}"
    assert "Traceback" not in stopped.err
    assert list((cache / "fss" / "features").iterdir()) == []
    assert not (tmp_path / "run").exists()


def test_killed_at_ten_random_moments_a_run_ends_as_if_never_killed(world, tmp_path):
    def go_on(name: str, *more: str) -> Fss:
        patches = {**TINY, "fss.train.SAVE_EVERY": 7}
        return start(world, tmp_path / name, "steps=300", "val_every=20", *more, patches=patches)

    began = time.monotonic()
    whole = go_on("whole")
    assert whole.end() == 0, whole.err
    seconds = time.monotonic() - began
    moments, codes = random.Random(3), []
    while codes.count(-signal.SIGKILL) < 10 or codes[-1] != 0:
        name = f"run {codes.count(0)}"  # on a busy machine one may end before the tenth kill
        run = go_on(name, "--resume")
        if codes.count(-signal.SIGKILL) < 10:
            run.process.join(moments.uniform(0, seconds / 8))
            with suppress(ProcessLookupError):  # it has ended
                run.send(signal.SIGKILL)
        codes.append(run.end())
        assert codes[-1] in (0, -signal.SIGKILL), run.err
        assert codes[-1] or same_runs(tmp_path / name, tmp_path / "whole")


# --- a loss that is not finite ------------------------------------------------------------------


def test_a_diverging_run_stops_with_a_file_that_repeats_the_step(world, tmp_path, said):
    out = tmp_path / "run"
    run = start(world, out, "steps=50", "lr=1e30", "val_every=50")
    assert run.end() == 2
    line = run.err.splitlines()[-1]
    assert "Traceback" not in run.err
    assert line.startswith("fss: error: step 2: the loss is ") and "in episode 1, class" in line
    assert f"fss replay {out / 'nonfinite.safetensors'} repeats the step" in line
    reason = line.removeprefix("fss: error: step 2: ").partition(",")[0]
    code, printed, err = said("replay", out / "nonfinite.safetensors")
    assert (code, printed, err) == (2, "", f"fss: error: {reason}\n")


# --- in a notebook ------------------------------------------------------------------------------

CELL = """
import sys, time
sys.path.insert(0, {tests!r})
import fss.train, tiny
from fss.config import DANetConfig, preset

step = fss.train.train_step
fss.train.train_step = lambda *args: (time.sleep(0.1), step(*args))[1]  # time enough to be killed
fss.train.SAVE_EVERY = 5
often = dict(steps=150, size=32, batch=1, val_episodes=1, warmup=0, val_every=20)
config = preset("quick").override(often)

def train(data, out):
    with tiny.tiny_backbones():
        fss.train.train(DANetConfig(channels=4), config, data, out, progress=False)
"""


def test_bad_input_in_a_cell_and_a_kernel_that_is_killed_in_mid_cell(world, tmp_path):
    last = tmp_path / "killed" / "last.safetensors"
    manager, client = start_new_kernel(kernel_name="python3", env={**os.environ})
    try:
        done = client.execute_interactive(CELL.format(tests=str(Path(__file__).parent)))
        assert done["content"]["status"] == "ok"
        cell = f"train('folder:{tmp_path}/none', '{tmp_path}/x')"
        # The default would have the kernel drop what reaches it just after an error.
        said = client.execute(cell, reply=True, timeout=60, stop_on_error=False)["content"]
        assert (said["ename"], said["evalue"]) == (
            "InputError",
            f"no folder {tmp_path}/none; give the path of the folder that holds the classes",
        )
        assert tree(tmp_path) == {}
        client.execute(f"train('folder:{world / 'data'}', '{last.parent}')")
        until = time.monotonic() + 60
        while not last.is_file() or not read_checkpoint(last)[0]["trained"]["step"]:
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)  # by SIGKILL
        manager.cleanup_resources()
    assert 0 < read_checkpoint(last)[0]["trained"]["step"] < 150
    for name, more in (("killed", ["--resume"]), ("whole", [])):
        run = start(world, tmp_path / name, "steps=150", "val_every=20", *more)
        assert run.end() == 0, run.err
    assert same_runs(tmp_path / "killed", tmp_path / "whole")
