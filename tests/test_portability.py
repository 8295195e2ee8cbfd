"""Tolerances of notebooks cover what processors make of a number, and none reaches what would mean "broken"."""

import importlib.util
import json
from pathlib import Path
from statistics import fmean, stdev

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("portable", ROOT / "tools" / "portable.py")
portable = importlib.util.module_from_spec(spec)
spec.loader.exec_module(portable)

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SPREAD = json.loads(portable.RESULT.read_text())["numbers"] if portable.RESULT.is_file() else {}
FEWEST, ROOM = 3, 4  # passes behind a spread; its standard deviations that a tolerance has to hold


def complaints(entry):
    """What is wrong with a number's tolerance, given the values that machines and seeds made of it."""
    expected, tolerance = entry["expected"], entry["tolerance"]
    passes = [value for name, value in entry["values"].items() if ", seed " not in name]
    every, found = list(entry["values"].values()), []
    if len(passes) < FEWEST:
        found.append(f"{len(passes)} passes, fewer than {FEWEST}")
        return found
    # Where processors agree, nothing was trained, and another seed asks about other pictures.
    values = every if stdev(passes) > 1e-3 * abs(fmean(passes)) else passes
    if abs(fmean(values) - expected) + ROOM * stdev(values) > tolerance:
        found.append(f"mean {fmean(values):.4g}, standard deviation {stdev(values):.2g}: beyond the tolerance")
    if expected and tolerance >= abs(expected):
        found.append("the tolerance reaches zero: nothing is tested")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_tolerances_cover_the_spread(path):
    reported = portable.of_notebook(path)
    known = {key: entry for key, entry in SPREAD.items() if key.startswith(f"{path.stem}:")}
    assert reported.keys() == known.keys(), "make portable FULL=1"
    stale = [k for k in known if any(known[k][part] != reported[k][part] for part in ("expected", "tolerance"))]
    assert stale == [], "make portable FULL=1"
    assert {key: found for key, entry in known.items() if (found := complaints(entry))} == {}


def entry(values, seeds=(), expected=0.5, tolerance=0.1):
    named = {f"cpu, pass {n}": value for n, value in enumerate(values)}
    named |= {f"cpu, seed {n}": value for n, value in enumerate(seeds)}
    return {"expected": expected, "tolerance": tolerance, "values": named}


NEAR, WIDE = [0.49, 0.5, 0.51, 0.5, 0.49, 0.51], [0.45, 0.5, 0.55, 0.5, 0.45, 0.55]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (entry(NEAR), []),
        (entry(NEAR[:2]), ["2 passes, fewer than 3"]),
        (entry(WIDE), ["beyond the tolerance"]),
        (entry([value + 0.08 for value in NEAR]), ["beyond the tolerance"]),
        (entry(NEAR, seeds=[0.2, 0.8]), ["beyond the tolerance"]),  # trained: the seeds count
        (entry([0.5] * 6, seeds=[0.2, 0.8]), []),  # computed: another seed is another question
        (entry(NEAR, tolerance=0.5), ["the tolerance reaches zero"]),
        (entry([0.0] * 6, expected=0.0), []),
    ],
)
def test_a_tolerance_that_tests_nothing_is_found(given, said):
    found = complaints(given)
    assert len(found) == len(said) and all(part in whole for part, whole in zip(said, found, strict=True))


def test_a_line_of_report_is_read(tmp_path, capsys):
    from fss.explorer.notebook import report

    for value in (0.51, 0.7, float("nan")):
        report("mIoU: best", value, 0.5, 0.1)
    cell = {"outputs": [{"output_type": "stream", "text": capsys.readouterr().out.splitlines(keepends=True)}]}
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps({"cells": [{}, cell]}))
    entries = portable.of_notebook(path)
    assert list(entries) == ["one: mIoU: best", "one: mIoU: best #2", "one: mIoU: best #3"]
    assert [entry["value"] for entry in entries.values()][:2] == [0.51, 0.7]
    assert entries["one: mIoU: best"] == {"expected": 0.5, "tolerance": 0.1, "value": 0.51}


def test_values_of_other_machines_stay_while_the_number_does():
    machine = {"commit": "abc", "torch": "2.9", "cpu": "new"}
    old = {"runs": {"old, native": {}}, "numbers": {}}
    for key, expected in (("n: a", 1.0), ("n: b", 2.0), ("n: gone", 3.0), ("not run: c", 4.0)):
        old["numbers"][key] = {"expected": expected, "tolerance": 0.1, "values": {"old, native": expected}}
    now = {key: {"expected": 1.0, "tolerance": 0.2, "value": 1.1} for key in ("n: a", "n: b")}
    merged = portable.merge(old, {"new, native": now}, machine)
    assert merged["numbers"]["n: a"] == {
        "expected": 1.0,
        "tolerance": 0.2,
        "values": {"old, native": 1.0, "new, native": 1.1},
    }
    assert merged["numbers"]["n: b"]["values"] == {"new, native": 1.1}  # it expects another value now
    assert "n: gone" not in merged["numbers"] and merged["runs"].keys() == {"old, native", "new, native"}
    assert merged["numbers"]["not run: c"] == old["numbers"]["not run: c"]
