"""Tables and forest plots of campaigns, and whether the committed ones are current."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from tiny import tally

from fss.errors import InputError
from fss.lab.campaign import Campaign
from fss.lab.report import forest, results_table, table
from fss.viz import FALSE_ALARM, HIT

ROOT = Path(__file__).resolve().parents[2]


def row(arm, shots=1, *, seeds=2, miou=0.5, spread=0.0123, gain=None, interval=None):
    return {
        "data": "d",
        "arm": arm,
        "shots": shots,
        "seeds": seeds,
        "miou": miou,
        "fb_iou": 0.6,
        "spread": spread,
        "miou_interval": None,
        "parent": "base",
        "gain": gain,
        "gain_interval": interval,
    }


ROWS = [
    row("prototype", miou=0.3, spread=None, seeds=1, gain=-0.2, interval=(-0.25, -0.15)),
    row("prototype", 5, miou=0.4, spread=None, seeds=1, gain=-0.2, interval=(-0.25, -0.15)),
    row("base"),
    row("base", 5, miou=0.6),
    row("lda", miou=0.511, gain=0.011, interval=(-0.002, 0.02)),
    row("lda", 5, miou=0.59, gain=-0.01, interval=(-0.02, -0.001)),
    row("mine", seeds=1, miou=0.7, spread=None, gain=0.2, interval=(0.1, 0.3)),
]


def test_a_table_by_hand():
    lines = [line.strip("| ").split(" | ") for line in table(ROWS).splitlines()]
    assert [len(line) for line in lines] == [8] * 6
    assert lines[0] == [
        "arm",
        "seeds",
        "1-shot mIoU (%)",
        "gain [95 %]",
        "the paper's",
        "5-shot mIoU (%)",
        "gain [95 %]",
        "the paper's",
    ]
    assert lines[2] == ["prototype", "–", "30.0", "-20.0 [-25.0, -15.0]", "–", "40.0", "-20.0 [-25.0, -15.0]", "–"]
    assert lines[3] == ["base", "2", "50.0 ± 1.2", "–", "–", "60.0 ± 1.2", "–", "–"]
    assert lines[4] == [
        "lda",
        "2",
        "51.1 ± 1.2",
        "+1.1 [-0.2, +2.0]",
        "+0.57",
        "59.0 ± 1.2",
        "-1.0 [-2.0, -0.1]",
        "+0.81",
    ]
    assert lines[5] == ["mine", "1", "70.0", "+20.0 [+10.0, +30.0]", "–", "–", "–", "–"]
    assert "+20.0 [+10.0, +30.0] over lda |" in table([*ROWS[:-1], ROWS[-1] | {"parent": "lda"}])


def test_a_table_of_single_runs_holds_their_own_intervals_and_no_gains():
    single = [
        row(arm, seeds=1, miou=miou, spread=None, gain=gain) | {"miou_interval": [miou - 0.1, miou + 0.2]}
        for arm, miou, gain in (("base", 0.5, None), ("blind", 0.2, -0.3))
    ]
    lines = [line.strip("| ").split(" | ") for line in table(single).splitlines()]
    assert lines[0] == ["arm", "seeds", "1-shot mIoU (%)"]
    assert lines[2:] == [["base", "1", "50.0 [40.0, 70.0]"], ["blind", "1", "20.0 [10.0, 40.0]"]]


def test_references_alone_have_gains():
    shown = [row("prototype", seeds=1, spread=None), row("em:5", seeds=1, spread=None, gain=0.1, interval=(0.05, 0.2))]
    head, _, first, second = table(shown).splitlines()
    assert "gain [95 %]" in head and first.startswith("| prototype | – | 50.0 | – |")
    assert second.startswith("| em:5 | – | 50.0 | +10.0 [+5.0, +20.0] |")


def test_a_gain_of_too_few_seeds_has_no_interval():
    few = row("mine", seeds=2, gain=0.2)
    assert "+20.0 [–]" in table([row("base"), few])
    (axis,) = forest([few]).axes
    assert [len(line.get_xdata()) for line in axis.lines] == [2, 1, 0]  # zero, the mark, the legend's


def test_a_table_has_the_controls_that_were_measured():
    measured = {"marked": 0.0149, "other": 0.8, "stays": 0.02}
    rows = [row("base") | measured, row("base", 5) | dict.fromkeys(measured), row("mine")]
    lines = [line.strip("| ").split(" | ") for line in table(rows).splitlines()]
    assert lines[0][-3:] == ["absent: marked (%)", "other: mIoU (%)", "stays (%)"]
    assert {len(line) for line in lines} == {11}
    assert [line[-3:] for line in lines[2:]] == [["1.5", "80.0", "2.0"], ["–", "–", "–"]]
    only = table([row("base", 2) | {"marked": 0.1, "other": None}]).splitlines()
    assert only[0] == "| arm | seeds | 2-shot mIoU (%) | gain [95 %] | absent: marked (%) |"


def test_a_table_of_other_shots_says_nothing_of_the_paper():
    head = table([row("base", 2)]).splitlines()[0]
    assert head == "| arm | seeds | 2-shot mIoU (%) | gain [95 %] |"


def test_a_table_of_another_baseline_says_nothing_of_the_paper():
    assert "paper" in table([row("base", 1), row("published", 5)])
    assert "paper" not in table([row("published", 1), row("published", 5)])


def test_a_forest_by_hand():
    figure = forest(ROWS, title="d: arm (seeds)")
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["lda (2)", "mine (1)"]
    assert axis.get_title(loc="left") == "d: arm (seeds)"
    assert axis.get_xlabel().startswith("mIoU minus base's, points")
    lines = [(line.get_xdata(), line) for line in axis.lines]
    spans = [(tuple(x), to_hex(line.get_color())) for x, line in lines if len(x) == 2]
    one, five = HIT.lower(), FALSE_ALARM.lower()
    assert spans[1:] == [
        (pytest.approx((-0.2, 2.0)), one),
        (pytest.approx((10, 30)), one),
        (pytest.approx((-2.0, -0.1)), five),
    ]
    marks = {round(float(x[0]), 6): line.get_markerfacecolor() for x, line in lines if len(x) == 1}
    assert marks == {1.1: "white", 20.0: HIT, -1.0: FALSE_ALARM}


def test_a_forest_of_many_shots():
    rows = [row("lda", k, gain=0.01, interval=(0, 0.02)) for k in (1, 2, 5, 10)]
    (legend,) = forest(rows).legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{k}-shot" for k in (1, 2, 5, 10)]
    with pytest.raises(InputError, match="5 numbers of shots .* choose 4 of 1, 2, 5, 10, 20"):
        forest([*rows, row("lda", 20, gain=0.01, interval=(0, 0.02))])


def tables(root, *args):
    return subprocess.run([sys.executable, root / "tools" / "render_tables.py", *args], capture_output=True, text=True)


def test_the_committed_tables_and_figures_are_current():
    done = tables(ROOT, "--check")
    assert done.returncode == 0, done.stderr


def test_the_committed_picture_of_the_explorer_is_current(tmp_path):
    """All but for what another processor rounds otherwise."""
    drawn = tmp_path / "explorer.png"
    subprocess.run([sys.executable, ROOT / "tools" / "cover.py", drawn], check=True)
    now, committed = (
        np.asarray(Image.open(path).convert("RGB"), float) for path in (drawn, ROOT / "results" / "explorer.png")
    )
    assert now.shape == committed.shape
    assert np.abs(now - committed).mean() < 0.02  # of 255; a frame that moves makes 0.1


DECLARED = """
shots = [1]
[data.shapes]
also = { alike = "shapes:share=texture" }
[arms]
base = { seeds = 3 }
published = { seeds = 3 }
"""
PAGE = """
<!-- table: small/shapes -->
<!-- end -->
<!-- table: small/shapes/alike -->
<!-- end -->
"""


def made(folder, found=1):
    """Write a result for every run of a campaign; `found` pixels more a seed."""
    for run in Campaign.read(folder).runs:
        counted = tally((found + run.seed + len(run.arm) % 4, 20), (5, 20))
        counted.queries = ["a", "b"]
        row = {"shots": 1, "episodes_sha256": "a", "counts": counted.to_json(), "support": "own"}
        absent = {**row, "on": None, "support": "absent", "marked": 0.25, "episodes_sha256": "b"}
        other = {**absent, "support": "other", "miou": 0.5, "stays": 0.125, "pictures": 30}
        machine = {"cpu": "C", "torch": "T"}
        rows = [{**row, "on": None}, {**row, "on": "alike"}, absent, other]
        path = folder / f"{run.name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"settings": run.settings(), "machine": machine, "rows": rows}))


def test_what_is_not_current_is_named_and_corrected(tmp_path):
    small, page = tmp_path / "results" / "small", tmp_path / "README.md"
    for folder in ("docs", "tools", "results/small"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "render_tables.py", tmp_path / "tools")
    (small / "campaign.toml").write_text(DECLARED)
    page.write_text(PAGE)
    assert tables(tmp_path).returncode == 0
    assert page.read_text().count("No run has a result yet; `fss ablate results/small` makes them.") == 2
    assert not (small / "shapes.png").exists()
    made(small)
    stale = "not current: results/small/shapes.png, README.md; run `make tables`\n"
    assert tables(tmp_path, "--check").stderr == stale
    assert tables(tmp_path).returncode == 0
    assert tables(tmp_path, "--check").returncode == 0
    shown, alike = page.read_text().split("<!-- end -->")[:2]
    assert "| absent: marked (%) | other: mIoU (%) | stays (%) |" in shown and "| 25.0 | 50.0 | 12.5 |" in shown
    assert "6 of 6 runs" in shown and "other supports ask 30 pictures" in shown
    assert "| base | 3 |" in alike and "absent" not in alike
    before = (small / "shapes.png").read_bytes()
    made(small, found=2)
    assert tables(tmp_path, "--check").stderr == stale
    made(small)
    (small / "shapes.png").unlink()
    assert tables(tmp_path, "--check").stderr == "not current: results/small/shapes.png; run `make tables`\n"
    assert tables(tmp_path).returncode == 0
    assert (small / "shapes.png").read_bytes() == before


def test_a_table_of_no_campaign_is_named(tmp_path):
    for folder in ("docs", "tools", "results"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "tools" / "render_tables.py", tmp_path / "tools")
    (tmp_path / "README.md").write_text(PAGE)
    done = tables(tmp_path)
    assert done.returncode == 1 and "README.md: " in done.stderr and "campaign.toml: no such file" in done.stderr


def test_results_table_by_hand():
    rows = [
        {"name": "base", "shots": 1, "miou": 0.7404, "miou_interval": [0.72, 0.761]},
        {"name": "a|b", "shots": 5, "miou": 1.0, "fb_iou": 0.85},
        {"name": "absent", "shots": 1, "miou": None, "miou_interval": None, "marked": 0.054, "stays": 1},
    ]
    assert results_table(rows).splitlines() == [
        "| name | shots | mIoU (%) | FB-IoU (%) | marked (%) | stays (%) |",
        "| :--- | ---: | ---: | ---: | ---: | ---: |",
        "| base | 1 | 74.0 [72.0, 76.1] | – | – | – |",
        r"| a\|b | 5 | 100.0 | 85.0 | – | – |",
        "| absent | 1 | – | – | 5.4 | 100.0 |",
    ]


@pytest.mark.parametrize("miou", [74.0, -0.1, float("nan")])
def test_results_table_refuses_what_is_no_fraction(miou):
    with pytest.raises(InputError, match=r"miou of 'base'.*0\.\.1"):
        results_table([{"name": "base", "miou": miou}])
