"""Campaigns through the real command line: interrupted, killed, and run to the end."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from processes import Fss

from fss.checkpoint import load, read_checkpoint
from fss.errors import InputError
from fss.lab.ablate import _reason, ablate, make_run, needed
from fss.lab.campaign import Campaign, summary

DECLARED = """
shots = [1, 2]
episodes = 6
references = ["all-foreground"]
set = ["size=32", "steps=30", "batch=2", "val_every=10", "val_episodes=2", "channels=8"]
[data.boxes]
spec = "folder:$BOXES"
also = { again = "folder:$BOXES" }
[arms]
base = {}
published = {}
"""
NAMES = ["boxes/all-foreground-0", "boxes/base-0", "boxes/published-0"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("BOXES", str(tiny.write_boxes(tmp_path / "data", 6, 4)))
    return tmp_path


def start(world, name, *args):
    folder = world / name
    folder.mkdir(exist_ok=True)
    (folder / "campaign.toml").write_text(DECLARED)
    said = world / f"{name}-said"
    said.mkdir(exist_ok=True)
    return Fss(
        "ablate",
        folder,
        "--jobs",
        2,
        "--runs",
        world / "runs",
        *args,
        folder=said,
        environment={"BOXES": str(world / "data")},
    )


def measured(folder):
    """All results without what differs from run to run."""
    records = {}
    for path in sorted(folder.glob("*/*.json")):
        record = json.loads(path.read_bytes())
        del record["machine"]
        record.pop("seconds", None)
        for row in record["rows"]:
            del row["seconds"]
            row["trained"].pop("seconds", None)
        records[f"{path.parent.name}/{path.stem}"] = record
    return records


def test_a_campaign_stopped_at_random_equals_an_unbroken_one(world):
    whole = start(world, "whole", "--quiet")
    assert whole.end() == 0, whole.err
    expected = measured(world / "whole")
    assert list(expected) == NAMES
    moments, codes = random.Random(0), []
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)
    for number in signals:
        run = start(world, "broken", "--quiet")
        run.process.join(moments.uniform(3, 9))
        if run.process.is_alive():
            run.send(number)
        codes.append(run.end())
        if codes[-1] > 0:
            assert codes[-1] == 128 + number
            # Before the campaign is read, the command itself says so, in fewer words.
            said = f"stopped by {number.name}"
            assert run.err.endswith((f"{said}; the same command goes on\n", f"fss: {said}\n", "fss: interrupted\n"))
        assert codes[-1] in (0, 128 + number, -number), run.err
        time.sleep(1)  # runs whose parent was killed end by themselves
    assert any(codes)
    last = start(world, "broken", "--quiet")
    assert last.end() == 0, last.err
    assert measured(world / "broken") == expected


def test_what_a_campaign_leaves_and_refuses(world):
    run = start(world, "one", "--only", "boxes/published-0", "--quiet")
    assert run.end() == 0, run.err
    assert (world / "runs" / "one" / "boxes" / "published-0" / "best.safetensors").is_file()
    (result,) = Campaign.read(world / "one").results().values()
    record = result.record
    assert [row["step"] for row in record["log"] if "val_miou" in row] == [10, 20, 30]
    assert [(row["name"], row["on"], row["shots"], row["support"]) for row in record["rows"]] == [
        ("published", None, 1, "own"),
        ("published", None, 2, "own"),
        ("published", None, 1, "absent"),  # no label says that a picture shows another class: no other ones
        ("published", "again", 1, "own"),
        ("published", "again", 1, "absent"),
    ]
    assert record["rows"][0].keys() > {"miou", "miou_interval", "marked", "support", "counts", "config", "trained"}
    assert {len(row["counts"]["query"]) for row in record["rows"]} == {6} and result.also.keys() == {"again"}
    assert record["figures"]["2"]["episodes"] == len(result.tallies[2]) == 6
    assert record["figures"]["1"]["miou"] == result.tallies[1].miou()
    assert record["machine"]["threads"] and record["rows"][0]["trained"]["step"] in (10, 20, 30)
    last = read_checkpoint(world / "runs" / "one" / "boxes" / "published-0" / "last.safetensors")[0]
    assert record["seconds"] == last["trained"]["seconds"] > 0
    assert str(world) not in (world / "one" / "boxes" / "published-0.json").read_text()
    assert [row["shots"] for row in summary({"": result})] == [1, 2]

    code = record["code"]
    assert {"fss/train.py", "fss/attention.py", "fss/lab/ablate.py", "requirements.lock"} <= code.keys()
    assert (
        "fss/viz.py" not in code
        and json.loads((last_of := world / "runs/one/boxes/published-0/code.json").read_bytes()) == code
    )

    before = (world / "one" / "boxes" / "published-0.json").stat()
    again = start(world, "one", "--only", "boxes/published-0", "--quiet")
    assert again.end() == 0 and "published-0.json: is there already" in again.out
    assert (world / "one" / "boxes" / "published-0.json").stat().st_mtime_ns == before.st_mtime_ns

    said = start(world, "one", "--only", "boxes/publishd-0", "--quiet")
    assert said.end() == 2
    assert said.err == "fss: error: --only boxes/publishd-0: not declared; did you mean 'boxes/published-0'?\n"

    last_of.write_text(json.dumps(code | {"fss/train.py": "other"}))
    (world / "two").mkdir()
    (world / "runs" / "two").symlink_to(world / "runs" / "one")
    begun = start(world, "two", "--only", "boxes/published-0", "--quiet")
    assert begun.end() == 2 and "boxes/published-0: was made with another fss/train.py; one table" in begun.err
    (world / "one" / "boxes" / "published-0.json").write_text(json.dumps(record | {"code": {"fss/train.py": "other"}}))
    other = start(world, "one", "--quiet")
    assert other.end() == 2 and "published-0.json: was made with another fss/train.py" in other.err
    (world / "one" / "boxes" / "published-0.json").write_text(json.dumps(record))

    declared = world / "one" / "campaign.toml"
    again = Fss("ablate", world / "one", "--set", "x", folder=world / "one-said")
    assert again.end() == 2 and "--set" in again.err
    declared.write_text(DECLARED.replace("steps=30", "steps=40"))
    mixed = Fss("ablate", world / "one", "--quiet", folder=world / "one-said")
    assert mixed.end() == 2
    assert "published-0.json: was made with steps = 30, and campaign.toml declares 40" in mixed.err


def test_controls_are_measured_where_the_data_have_pictures_for_them(tmp_path):
    (tmp_path / "campaign.toml").write_text(
        'baseline = "ours"\nshots = [2, 1]\nepisodes = 3\nreferences = ["all-foreground"]\nset = ["size=64"]\n'
        '[data.shapes]\nalso = { alike = "shapes:share=texture" }\n'
        '[arms]\nours = { checkpoint = "best-lite0-photos" }\n'
    )
    campaign = Campaign.read(tmp_path)
    (run,) = (run for run in campaign.runs if run.reference)
    with tiny.tiny_backbones():
        make_run(campaign, run, tmp_path / "runs")
    rows = {(row["on"], row["shots"], row["support"]): row for row in campaign.results()[run.name].record["rows"]}
    assert list(rows) == [
        (None, 2, "own"),
        (None, 1, "own"),
        (None, 1, "absent"),
        (None, 1, "other"),
        ("alike", 1, "own"),
        ("alike", 1, "absent"),  # objects that share their looks cannot be asked for
    ]
    assert rows[None, 1, "absent"]["miou"] is None and rows[None, 1, "absent"]["marked"] == 1
    assert rows[None, 1, "other"]["stays"] == 1 and rows[None, 1, "other"]["pictures"] == 3
    (summed, _) = sorted(summary(campaign.results(), baseline="ours"), key=lambda row: row["shots"])
    assert (summed["shots"], summed["marked"], summed["stays"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("a warning\nfss: error: no such thing\n====\ntrain FAILED\n====\n", "no such thing"),
        ("Traceback ...\nValueError: what\n\n=====\n", "ValueError: what"),
        ("", "ended with 7"),
    ],
)
def test_the_reason_is_the_kits_own_line_whatever_a_launcher_draws_around_it(tmp_path, said, reason):
    (tmp_path / "0").write_text(said)
    assert _reason(7, tmp_path / "0") == reason


def test_other_data_is_read_before_the_first_run(world, monkeypatch):
    declared = world / "campaign.toml"
    declared.write_text(DECLARED)
    reads = [(n.split, n.spec) for n in needed(Campaign.read(world).runs)]
    assert sorted(reads, key=str) == [
        ("test", "folder:$BOXES"),
        ("test", None),
        ("train", None),
        ("val", None),
    ]
    other = tiny.write_boxes(world / "other", 6, 4)
    monkeypatch.setenv("OTHER", str(other))
    declared.write_text(DECLARED.replace('again = "folder:$BOXES"', 'again = "folder:$OTHER"'))
    (other / "test.txt").write_text("\n".join(Campaign.read(world).runs[0].open("train").classes))
    with pytest.raises(InputError, match=r"also folder:\$OTHER: a leak, .* training classes"):
        ablate(world, runs=world / "runs", jobs=1, progress=False)
    monkeypatch.setenv("OTHER", str(world / "none"))
    with pytest.raises(InputError, match="none"):
        ablate(world, runs=world / "runs", jobs=1, progress=False)
    assert not (world / "runs").exists()


def test_a_fold_that_leaks_is_refused_before_the_first_run(tmp_path):
    leaking = '[data.shapes]\n[arms]\nbase = {}\nleaking = { arm = "base", fold = 1 }\n'
    (tmp_path / "campaign.toml").write_text(leaking)
    with pytest.raises(InputError, match="shapes, fold 0: a leak, .* or set allow_leak = true for leaking"):
        ablate(tmp_path, runs=tmp_path / "runs", jobs=1, progress=False)
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_is_measured_as_it_is(world):
    declared = DECLARED.replace("[1, 2]", "[1]").replace("base = {}", 'base = { checkpoint = "best-lite0-photos" }')
    (world / "campaign.toml").write_text(declared)
    campaign = Campaign.read(world)
    (run,) = (run for run in campaign.runs if run.checkpoint)
    make_run(campaign, run, world / "runs")
    record = campaign.results()[run.name].record
    row, _, again, _ = record["rows"]
    shipped = load("best-lite0-photos").trained
    assert (row["data"], row["size"], row["leaked_classes"]) == ("folder:$BOXES", shipped["size"], [])
    assert row["trained"]["step"] == shipped["step"]
    assert {"log", "seconds"}.isdisjoint(record) and not (world / "runs").exists()
    assert again["on"] == "again" and again["counts"] == row["counts"]
    assert str(world) not in campaign.path(run).read_text()


def test_a_run_that_fails_is_named(world):
    (world / "data" / "it's class 3" / "2.jpg").write_bytes(b"no picture")
    run = start(world, "failing", "--quiet")
    assert run.end() == 2
    assert run.err.startswith("fss: error: ") and "2.jpg" in run.err and len(run.err.splitlines()) == 1
    assert measured(world / "failing") == {}


def test_a_module_of_ones_own_is_imported_in_every_run(world):
    (world / "mine_of_a_test.py").write_text(
        "import fss.attention\n\n\n"
        '@fss.attention.register("mine-of-a-test")\n'
        "class Mine(fss.attention.DenseAttention):\n    pass\n"
    )
    (world / "mine").mkdir()
    short = DECLARED.partition("[arms]")[0].replace("steps=30", "steps=2").replace("[1, 2]", "[1]")
    mine = '[arms]\nmine = { arm = "published", set = ["dense=mine-of-a-test"] }\n'
    (world / "mine" / "campaign.toml").write_text(
        'baseline = "mine"\n' + short.replace('references = ["all-foreground"]\n', "") + mine
    )

    def make(*args):
        return subprocess.run(
            [sys.executable, "-m", "fss", "ablate", "mine", "--quiet", "--jobs", "1", *args],
            cwd=world,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        )

    without = make()
    assert without.returncode == 2 and "mine-of-a-test" in without.stderr and "--import" in without.stderr
    with_it = make("--import", "mine_of_a_test")
    assert with_it.returncode == 0, with_it.stderr
    (result,) = Campaign.read(world / "mine").results().values()
    assert result.record["rows"][0]["config"]["dense"] == "mine-of-a-test"
