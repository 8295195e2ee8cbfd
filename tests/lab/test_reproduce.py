"""The paper's tables: what is declared, refused, planned and made, and how it is told."""

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
import tiny
from processes import Fss
from tiny import tally

from fss.config import DANetConfig, DataConfig, Scoring, preset
from fss.errors import InputError
from fss.lab.campaign import Campaign
from fss.lab.paper_tables import FOLDS, TABLES, gains, table_of
from fss.lab.plan import plan
from fss.lab.reproduce import choose, declare, write_declaration

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("size=32", "steps=6", "val_every=3", "val_episodes=2", "batch=2", "channels=8")


def declared(tmp_path, table="table3", data="shapes", **options):
    return declare(table, data, tmp_path / "out", **{"preset": "smoke", **options})


# --- what is declared -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "data", "names"),
    [
        ("table1", "pascal5i:x", ["pfenet", "published"]),
        ("table2", "fss1000:x", ["published-vgg16", "published-resnet50"]),
        ("table3", "pascal5i:x", ["pfenet", "pca", "lda", "published"]),
    ],
)
def test_the_full_tables_are_the_papers_settings(tmp_path, table, data, names):
    whole, _ = declare(table, data, tmp_path)
    campaign = choose(whole, table, "paper")
    folds = [0] if table == "table2" else [0, 1, 2, 3]
    assert [(run.fold, run.arm) for run in campaign.runs] == [(fold, name) for fold in folds for name in names]
    for run in campaign.runs:
        assert run.spec == data and run.seed == 0 and run.scoring == Scoring(at="label")
        assert (run.shots, run.lists, run.episodes, run.list_seed) == ((1, 5), 5, 1000, 0)
        assert run.config.channels == 256 and run.schedule == preset("paper")
        assert (run.schedule.size, run.schedule.epochs, run.schedule.steps) == (473, 200, None)
        assert run.config.backbone == ("vgg16_bn" if "vgg" in run.arm else "resnet50")
    assert campaign.runs[0].config == DANetConfig.published(backbone="vgg16_bn", channels=256) or (
        campaign.runs[0].config == DANetConfig.pfenet(backbone="resnet50", channels=256)
    )


def test_tables_1_and_3_share_their_trainings(tmp_path):
    one, three = (declared(tmp_path, table) for table in ("table1", "table3"))
    assert one[1] == three[1]
    shared = {run.name for run in choose(one[0], "table1", "smoke").runs}
    assert shared < {run.name for run in choose(three[0], "table3", "smoke").runs}
    assert shared == {f"fold-{fold}/{arm}-0" for fold in (0, 1) for arm in ("pfenet", "published")}


def test_what_is_given_is_declared(tmp_path):
    whole, _ = declared(
        tmp_path,
        data="pascal5i:x",
        settings=("lr_multiplier=10", "size=64"),
        options=DataConfig(novel="drop", lists="scan"),
        scoring=Scoring(void="background"),
    )
    for run in whole.runs:
        assert (run.schedule.lr_multiplier, run.schedule.size, run.schedule.steps) == (10, 64, 100)
        assert run.options == DataConfig(novel="drop", lists="scan")
        assert run.scoring == Scoring(at="network", void="background")
    drawn, _ = declared(tmp_path, scoring=Scoring(at="label"))
    assert {run.scoring for run in drawn.runs} == {Scoring()}


def test_a_declaration_is_read_back_as_it_was_given(tmp_path):
    whole, given = declared(tmp_path, data='pascal5i:a "b" \\ä', options=DataConfig(allow_missing=True, min_pixels=3))
    write_declaration(whole, given)
    assert Campaign.read(tmp_path / "out") == whole
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["campaign.toml"]
    with pytest.raises(InputError, match="cannot be written; rename"):
        write_declaration(*declared(tmp_path, data="pascal5i:a\x7f"))
    assert Campaign.read(tmp_path / "out") == whole


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("tabel1 --data shapes", "unknown table 'tabel1'; did you mean 'table1'?"),
        ("table1 --data shapes --preset smok", "unknown preset 'smok'; did you mean 'smoke'?"),
        (
            "table1 --data fss1000:x",
            "table1 is Pascal-5i, not fss1000:x; give pascal5i:PATH, or shapes to try the machinery",
        ),
        (
            "table2 --data folder:x",
            "table2 is FSS-1000, not folder:x; give fss1000:PATH, or shapes to try the machinery",
        ),
        ("table3 --data shapes --folds 0 4", "--folds 0 4: give each of 0..3 at most once"),
        ("table3 --data shapes --folds 1 1", "--folds 1 1: give each of 0..3 at most once"),
        ("table2 --data shapes --folds 0", "--folds: FSS-1000 has no folds; leave it out"),
        ("table3 --data shapes --set stpes=3", "--set stpes=3: no setting 'stpes'; did you mean 'steps'?"),
        ("table3 --data shapes --dry-run --tflops 0 --preset smoke", "--tflops 0.0: give what"),
        ("table3 --data shapes --out file/x", "file/x/table3.md: cannot be written (Not a dir"),
        ("table3 --data shapes --launch 'gone -n 2'", "no program 'gone' here; give its path"),
        ('table3 --data shapes --launch "a\'"', "--launch a': not a command (No closing"),
        ("table3 --data shapes --set seed=1", "a table is of trainings with seed 0; leave it out"),
        ("table3 --data shapes --device cpuu", "unknown device 'cpuu'; use cpu or cuda"),
        ("table3 --data pascal5i:x --min-pixels 0", "DataConfig.min_pixels = 0: use 1 or more"),
        ("table3 --data pascal5i:nowhere --dry-run", "nowhere; give the path of VOCdevkit"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, args, message):
    from fss.__main__ import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        main(["reproduce", *shlex.split(args)])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- what the tables say --------------------------------------------------------------------------


def write(run, campaign, tallies, **changed):
    path = campaign.path(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "settings": {**run.settings(), **changed},
                "machine": {"cpu": "C", "torch": "T", "commit": "abc", "gpu": "G"},
                "log": [{"step": 100}],
                "rows": [
                    {"on": None, "shots": k, "episodes_sha256": "a", "counts": t.to_json()} for k, t in tallies.items()
                ],
            }
        )
    )


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_table_1_by_hand(tmp_path):
    whole, given = declared(tmp_path, "table1")
    whole = replace(whole, runs=tuple(replace(run, lists=2, episodes=1) for run in whole.runs))
    campaign = choose(whole, "table1", "smoke")
    for run in campaign.runs:
        first, second = (run.arm == "published") + 1, run.fold
        write(run, whole, {1: tally((first, 4), (second, 4)), 5: tally((4, 4), (4, 4))})
    text = table_of("table1", "smoke", campaign, whole.results(), "the command")
    head, _, *lines = cells(text)
    assert head == ["method", "shots", "", *FOLDS, "mean", "FB-IoU"]
    by_line = {(line[0], line[1]): lines[n : n + 3] for n, line in enumerate(lines) if line[0]}
    assert [key for key in by_line] == [("PFENet", "1"), ("PFENet", "5"), ("DANet", "1"), ("DANet", "5")]
    paper, here, difference = by_line["DANet", "1"]
    assert paper[2:] == ["paper", "63.28", "70.77", "56.83", "56.64", "61.88", "71.78"]
    # Fold 0: lists of 2/4 and 0/4; fold 1: 2/4 and 1/4; the mean's lists are 2/4 and 1/8.
    zero, one, both = (50, 0), (50, 25), (50, 12.5)
    fb = [50 * (i / 4 + 50 / (54 - i)) for i in (2, 0, 2, 1)]
    fb = [mean((fb[0], fb[2])), mean((fb[1], fb[3]))]
    zero, one, both, fb = (f"{mean(v):.2f} ± {stdev(v):.2f}" for v in (zero, one, both, fb))
    assert here[2:] == ["here", zero, one, "–", "–", both, fb]
    assert difference[2:5] == ["difference", f"{25 - 63.28:+.2f}", f"{37.5 - 70.77:+.2f}"]
    assert difference[5:8] == ["–", "–", f"{31.25 - 61.88:+.2f}"]
    assert by_line["PFENet", "5"][1][3:] == [
        "100.00 ± 0.00",
        "100.00 ± 0.00",
        "–",
        "–",
        "100.00 ± 0.00",
        "100.00 ± 0.00",
    ]
    assert "average 60.73, not 60.80" in text and "Made by `the command`" in text
    assert "over fold 0 and fold 1 alone" in text and "the differences mean nothing" in text
    assert "G, torch T, commit abc" in text and "the network's size" in text


def test_tables_2_and_3_have_a_mean_a_row(tmp_path):
    for table in ("table2", "table3"):
        whole, _ = declare(table, "shapes", tmp_path / table, preset="smoke")
        campaign = choose(whole, table, "smoke")
        found = tally(*[(1, 4)] * 100)
        for run in campaign.runs:
            write(run, whole, {1: found, 5: found})
        head, _, *lines = cells(table_of(table, "smoke", campaign, whole.results(), "c"))
        assert head == ["method", "shots", "", "mean"]
        assert [line[0] for line in lines[::6]] == [row.title for row in TABLES[table]]
        assert {line[3] for line in lines[1::3]} == {"25.00"}
        assert lines[2][3] == f"{25 - TABLES[table][0].scores[1]['mean']:+.2f}"


def test_the_papers_figures_are_as_it_prints_them():
    """Means of folds that it prints, and the gains that its text names."""
    (pfenet, danet) = TABLES["table1"]
    for shots in (1, 5):
        folds = [danet.scores[shots][fold] for fold in FOLDS]
        assert danet.scores[shots]["mean"] == pytest.approx(mean(folds), abs=0.0051)
        for three, one in ((TABLES["table3"][0], pfenet), (TABLES["table3"][-1], danet)):
            assert three.scores[shots]["mean"] == one.scores[shots]["mean"]
    assert mean(pfenet.scores[1][fold] for fold in FOLDS) == pytest.approx(60.725)
    assert gains() == {"pca": (0.23, 0.44), "lda": (0.57, 0.81), "published": (1.08, 1.26)}


def test_results_of_other_settings_are_refused(tmp_path):
    whole, _ = declared(tmp_path)
    write(whole.runs[0], whole, {1: tally((1, 2)), 5: tally((1, 2))})
    assert list(whole.results()) == ["fold-0/pfenet-0"]
    for other, message in (
        (declared(tmp_path, settings=("steps=7",)), "was made with steps = 100, and .* 7"),
        (declared(tmp_path, preset="paper"), "made with size = 128, and .* declares 473"),
        (declared(tmp_path, data="pascal5i:x"), "made with data = 'shapes', and .* 'pascal5i:x'"),
        (declared(tmp_path, "table2"), "fold-0/pfenet-0.json: no run of campaign.toml has this"),
    ):
        with pytest.raises(InputError, match=message):
            other[0].results()


# --- what it costs --------------------------------------------------------------------------------


def test_the_plan_counts_what_is_left(tmp_path):
    whole, _ = declared(tmp_path, settings=SETTINGS)
    campaign = choose(whole, "table3", "smoke", [2])
    with tiny.tiny_backbones():
        text = plan(campaign, {}, tmp_path / "runs", 6)
        (tmp_path / "runs" / "fold-2" / "lda-0").mkdir(parents=True)
        (tmp_path / "runs" / "fold-2" / "lda-0" / "log.csv").write_text("step,loss,val_miou\n4,0.5,\n")
        write(campaign.runs[0], whole, {1: tally((1, 2)), 5: tally((1, 2))})
        later = plan(campaign, whole.results(), tmp_path / "runs", 6)
        double = plan(campaign, whole.results(), tmp_path / "runs", 3)
    before, after, twice = (
        {line[0]: dict(zip(cells(t)[0], line, strict=True)) for line in cells(t)[2:]} for t in (text, later, double)
    )
    assert list(before) == [f"fold-2/{arm}-0" for arm in ("pfenet", "pca", "lda", "published")]
    assert {row["state"] for row in before.values()} == {"to do"}
    assert [row["state"] for row in after.values()] == ["done", "to do", "step 4", "to do"]
    hours = {name: float(row["GPU hours left"]) for name, row in after.items()}
    assert hours["fold-2/pfenet-0"] == 0
    assert 0 < hours["fold-2/lda-0"] < float(before["fold-2/lda-0"]["GPU hours left"])
    assert hours["fold-2/pca-0"] == float(before["fold-2/pca-0"]["GPU hours left"])
    assert float(twice["fold-2/pca-0"]["GPU hours left"]) == pytest.approx(2 * hours["fold-2/pca-0"], rel=0.01)
    assert "4 runs, 0 done" in text and "4 runs, 1 done" in later
    assert {row["steps"] for row in before.values()} == {"6"}


def test_a_dry_run_as_a_whole_process_makes_nothing(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "fss",
            "reproduce",
            "table1",
            "--data",
            "shapes",
            "--preset",
            "smoke",
            "--dry-run",
            "--folds",
            "3",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    names = [line[0] for line in cells(done.stdout)[2:]]
    assert names == ["fold-3/pfenet-0", "fold-3/published-0"]
    assert "2 runs, 0 done" in done.stdout and "--tflops" in done.stdout
    assert list(tmp_path.iterdir()) == []


# --- the whole of it ------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_half_way_and_run_again_it_goes_on(tmp_path):
    boxes = tiny.write_boxes(tmp_path / "data", 6, 6)
    out, launcher, launched = tmp_path / "out", tmp_path / "a launcher", tmp_path / "launched"
    launcher.write_text(f"#!/bin/sh\necho \"$@\" >> '{launched}'; exec '{sys.executable}' \"$@\"\n")
    launcher.chmod(0o755)

    def start():
        return Fss(
            "reproduce",
            "table2",
            "--data",
            f"fss1000:{boxes}",
            "--preset",
            "smoke",
            "--out",
            out,
            "--runs",
            tmp_path / "runs",
            "--quiet",
            "--jobs",
            1,
            "--set",
            *SETTINGS,
            "--launch",
            f"'{launcher}'",
            folder=tmp_path,
        )

    first = out / "fss1000" / "published-vgg16-0.json"
    run = start()
    run.wait_until(first.is_file)
    run.send(signal.SIGTERM)
    assert run.end() == 143 and run.err.endswith("the same command goes on\n")
    assert not (out / "table2.md").exists()
    before = first.stat().st_mtime_ns
    again = start()
    assert again.end() == 0, again.err
    assert first.stat().st_mtime_ns == before
    made = [line.partition("--only ")[2].split()[0] for line in launched.read_text().splitlines()]
    assert made in (["fss1000/published-vgg16-0", *["fss1000/published-resnet50-0"] * times] for times in (1, 2))
    assert (out / "table2.md").read_text() == again.out
    record = json.loads((out / "fss1000" / "published-resnet50-0.json").read_text())
    (one, five, absent) = record["rows"]
    assert (absent["support"], absent["shots"], absent["scored_at"]) == ("absent", 1, "network")
    assert (one["shots"], five["shots"], one["scored_at"]) == (1, 5, "label")
    assert record["settings"]["scoring"] == {"at": "label", "void": "ignore"}
    assert record["machine"]["commit"] is not None and record["log"][-1]["step"] == 6
    here = [line for line in cells(again.out) if line[2] == "here"]
    assert here[3][3] == f"{100 * five['miou']:.2f}"
    assert "do not compare" in again.out  # no lists of FSS-1000 were given
