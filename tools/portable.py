"""What `make portable` does: notebooks and tests as other processors compute, and how far numbers spread.

    python tools/portable.py                       three passes (25 minutes on two cores)
    python tools/portable.py --full                three more, and the notebook that trains with three other seeds
    python tools/portable.py "SSE41, 1 thread"     the passes and seeds ("seed 1") of these names

Each pass runs every notebook under nbval and the tests marked `numbers`. Processors differ in the order of
their sums: `ATEN_CPU_CAPABILITY`, `ONEDNN_MAX_CPU_ISA` and the number of threads make one machine compute like
others. The values that `report` printed go into results/portability.json, beside those of other machines and
of passes that were not run today; tests/test_portability.py holds the tolerances against them.

pytest loads this file as a plugin, too (`-p tools.portable`): so the values reach its JUnit report.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "portability.json"
BUILD = ROOT / "build" / "portable"
LINE = re.compile(r"^(.*): (\S+) \(expected (\S+) ± ([^\s:)]+)", re.MULTILINE)
"""A line of `fss.explorer.notebook.report`: name, value, expected value, tolerance."""

SSE41 = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
PASSES = {"native, 2 threads": ({}, 2), "SSE41, 1 thread": (SSE41, 1), "AVX2, 2 threads": (AVX2, 2)}
FURTHER = {"native, 1 thread": ({}, 1), "SSE41, 2 threads": (SSE41, 2), "AVX2, 1 thread": (AVX2, 1)}
TRAIN = ("08_train_on_a_fold",)
"""Notebooks that train on the same pictures with any seed: a rounding error grows to as much as a seed makes."""
SEEDS = {f"seed {seed}": seed for seed in (1, 2, 3)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the notebooks' cells, and of the tests those that compare numbers."""
    items[:] = [item for item in items if hasattr(item, "cell") or item.get_closest_marker("numbers")]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Add what a notebook's cell reported to its test's properties."""
    if call.when == "call":
        for output in getattr(item, "test_outputs", None) or ():
            item.user_properties += [(name, " ".join(rest)) for name, *rest in LINE.findall(output.get("text", ""))]


def numbered(rows: Iterator[tuple[str, str, str, str, str]]) -> dict[str, dict[str, Any]]:
    """Make of (notebook, name, value, expected, tolerance) one entry a number, by its place.

    A name that a notebook reports several times is counted: "08_train_on_a_fold: mIoU #2".
    """
    seen: Counter[str] = Counter()
    entries = {}
    for notebook, name, value, expected, tolerance in rows:
        key = f"{notebook}: {name}"
        seen[key] += 1
        key += f" #{seen[key]}" if seen[key] > 1 else ""
        entries[key] = {"expected": float(expected), "tolerance": float(tolerance), "value": float(value)}
    return entries


def of_junit(path: Path) -> dict[str, dict[str, Any]]:
    """Read what a pass reported from pytest's JUnit file."""

    def rows() -> Iterator[tuple[str, str, str, str, str]]:
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            for found in case.iter("property"):
                notebook = case.get("classname", "").split(".")[1]
                value, expected, tolerance = found.get("value", "").split()
                yield notebook, found.get("name", ""), value, expected, tolerance

    return numbered(rows())


def of_notebook(path: Path) -> dict[str, dict[str, Any]]:
    """Read what a notebook reported from its outputs."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    texts = ("".join(output.get("text", "")) for cell in notebook["cells"] for output in cell.get("outputs", ()))
    return numbered((path.stem, *found) for text in texts for found in LINE.findall(text))


def run_pass(name: str, settings: dict[str, str], threads: int) -> tuple[bool, dict[str, dict[str, Any]]]:
    """Run notebooks and tests under one arithmetic; return whether all passed, and what they reported."""
    file = BUILD / f"{name.replace(', ', '-').replace(' ', '-')}.xml"
    # One worker a core: two threads leave room for one worker on the two cores that we count on.
    workers = ["-n", str(max(1, 2 // threads)), "--dist", "loadscope"] if threads == 1 else []
    command = [
        *(sys.executable, "-m", "pytest", "-p", "tools.portable", "tests", "notebooks", "-q"),
        *("--nbval", "--nbval-current-env", "--nbval-cell-timeout", "1200", "--junitxml", str(file)),
        *workers,
    ]
    print(f"== {name}", flush=True)
    start = time.perf_counter()
    with TemporaryDirectory() as cache:  # features of another pass would hide what this one makes of a picture
        environment = os.environ | settings | {"OMP_NUM_THREADS": str(threads), "XDG_CACHE_HOME": cache}
        done = subprocess.run(command, cwd=ROOT, env=environment)
    print(f"== {name}: {time.perf_counter() - start:.0f} s", flush=True)
    return done.returncode == 0, of_junit(file)


def run_seed(seed: int) -> dict[str, dict[str, Any]]:
    """Run the notebooks that train with another seed; return what they reported."""
    out = BUILD / f"seed-{seed}"
    paths = [ROOT / "notebooks" / f"{name}.ipynb" for name in TRAIN]
    command = [sys.executable, str(ROOT / "tools" / "run_notebooks.py"), "build", *map(str, paths)]
    subprocess.run([*command, "--out", str(out), "-p", "SEED", str(seed)], cwd=ROOT, check=True)
    return {key: entry for path in paths for key, entry in of_notebook(out / path.name).items()}


def merge(old: dict[str, Any], runs: dict[str, dict[str, dict[str, Any]]], machine: dict[str, str]) -> dict[str, Any]:
    """Put the runs' values beside those of earlier runs, of numbers that are reported still.

    Numbers of notebooks that these runs left out, as those with another seed do, stay as they are.
    """
    reported = {key: entry for run in runs.values() for key, entry in run.items()}
    ran = {key.partition(":")[0] for key in reported}
    kept = old.get("numbers", {})
    numbers: dict[str, Any] = {key: entry for key, entry in kept.items() if key.partition(":")[0] not in ran}
    for key, entry in sorted(reported.items()):
        before = kept.get(key, {})
        values = before.get("values", {}) if before.get("expected") == entry["expected"] else {}
        values |= {name: run[key]["value"] for name, run in runs.items() if key in run}
        numbers[key] = {"expected": entry["expected"], "tolerance": entry["tolerance"], "values": values}
    made = old.get("runs", {}) | {name: {"commit": machine["commit"], "torch": machine["torch"]} for name in runs}
    command = "python tools/portable.py NAME, for the name of each run"
    return {"command": command, "runs": made, "numbers": dict(sorted(numbers.items()))}


def main() -> None:
    """Run the passes, write the spread, and exit with 1 if anything failed."""
    from fss.files import write_json
    from fss.lab.machine import describe

    every = PASSES | FURTHER
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="; ".join([*every, *SEEDS]), metavar="NAME")
    parser.add_argument("--full", action="store_true", help="all of them")
    options = parser.parse_args()
    chosen = [*every, *SEEDS] if options.full else options.names or [*PASSES]
    if unknown := [name for name in chosen if name not in every | SEEDS]:
        parser.error(f"no pass {unknown[0]!r}; known: {'; '.join([*every, *SEEDS])}")
    BUILD.mkdir(parents=True, exist_ok=True)
    machine, runs, failed = describe(), {}, []
    for name in chosen:
        passed, found = run_pass(name, *every[name]) if name in every else (True, run_seed(SEEDS[name]))
        runs[f"{machine['cpu']}, {name}"] = found
        failed += [] if passed else [name]
    old = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    write_json(RESULT, merge(old, runs, machine))
    sys.exit(f"failed: {'; '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
