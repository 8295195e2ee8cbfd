import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from processes import Fss
from tiny import tiny_backbones

from fss.config import DANetConfig
from fss.errors import InputError
from fss.lab import bench
from fss.lab.bench.dense import WAYS, attention, full, inputs as given_to_attention
from fss.lab.bench.full_size import two_steps
from fss.lab.bench.timing import megabytes, peak_mb, timed
from fss.lab.bench.training import Workload, floor, steps
from fss.lab.machine import describe

ROOT = Path(__file__).resolve().parents[2]
CONFIG = DANetConfig.published(channels=8)
WORK = Workload("tiny", CONFIG, size=64, batch=2, seconds=0.01)
ROW = {"name": "a", "n": 3, "head_ms": 12.345, "peak_mb": 1234.5, "ratio": 1.0, "repeats": 2}


@pytest.fixture(autouse=True)
def tiny():
    with tiny_backbones():
        yield


def are_measured(row):
    """Every figure is a finite number above zero, and plain enough for JSON."""
    figures = {key: value for key, value in row.items() if not isinstance(value, str)}
    assert json.loads(json.dumps(figures)) == figures
    return all(np.isfinite(value) and value > 0 for value in figures.values())


def test_a_median_leaves_the_first_turn_out():
    waits = iter([0.2])
    row = timed(0.03, slow=lambda: time.sleep(next(waits, 0.01)), none=lambda: None)
    assert 10 <= row["slow_ms"] < 100
    assert row["none_ms"] < row["slow_ms"] and row["repeats"] >= 1


def test_megabytes_of_both_systems(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert megabytes(1000) == 1.024
    monkeypatch.setattr(sys, "platform", "darwin")
    assert megabytes(1_000_000) == 1


def test_renderer():
    (row,) = bench.renderer(size=32, pictures=2, seconds=0.01)
    assert are_measured(row) and row["size_px"] == 32


def test_steps_leave_no_cache(cache):
    (row,) = steps([WORK])
    assert are_measured(row)
    assert [key for key in row if key.endswith("_ms")] == [
        "backbone_ms",
        "head_ms",
        "cached_step_ms",
        "live_step_ms",
    ]
    assert (row["name"], row["batch"]) == ("tiny", 2)
    assert row["cached_step_over_head"] == row["cached_step_ms"] / row["head_ms"]
    assert list(cache.iterdir()) == []


def test_floor_counts_more_for_a_larger_batch():
    small, large = floor([WORK, Workload("larger", CONFIG, size=64, batch=4, seconds=0.01)], side=16)
    assert are_measured(small)
    assert large["giga_multiply_adds"] == pytest.approx(2 * small["giga_multiply_adds"])


def test_full_size_resumes_its_run():
    row = two_steps("resnet50", channels=8, size=65)
    assert are_measured(row)
    assert row["name"] == "resnet50, 65 px, C = 8"
    assert {"backbone_ms", "head_ms", "save_ms", "resume_ms", "peak_mb", "file_mb"} <= row.keys()


@pytest.mark.slow  # a process a way, each of which imports torch
def test_attention_three_ways():
    small, large = attention(sides=(4, 40), channels=16, seconds=0.01)
    assert [small["n"], large["n"]] == [16, 1600]
    assert all({f"{way}_ms", f"{way}_peak_mb"} <= small.keys() for way in WAYS)
    assert are_measured(large)
    assert 0 <= small["full_peak_mb"] < large["full_peak_mb"]


def test_ways_that_disagree_are_refused(monkeypatch):
    monkeypatch.setattr("fss.lab.bench.dense.in_new_process", lambda function, way, sides, channels: [1.0] * len(sides))
    monkeypatch.setattr("fss.lab.bench.dense.chunked", lambda *given: full(*given) + 1e-3)
    with pytest.raises(AssertionError):
        attention(sides=(2, 3), channels=8, seconds=0.01)


def test_fused_takes_the_fused_kernel():
    given = given_to_attention(5, 16)
    with torch.profiler.profile() as seen:
        WAYS["sdpa"](*given)
    assert any("flash_attention_for_cpu" in event.key for event in seen.key_averages())


def test_queries():
    one, five = bench.queries(CONFIG, size=64, shots=(1, 5), seconds=0.01)
    assert are_measured(one) and five["shots"] == 5


def test_clicks():
    one, five = bench.clicks(CONFIG, size=64, shots=(1, 5), seconds=0.01)
    assert are_measured(one) and five["shots"] == 5


def test_machine():
    found = describe()
    assert found.keys() == {"cpu", "cores", "threads", "python", "torch", "commit"}
    assert all(isinstance(value, str) for value in found.values())
    assert found["cpu"] and int(found["cores"]) >= 1
    assert found["threads"] == str(torch.get_num_threads())


def test_an_installed_kit_has_no_commit(monkeypatch, tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr("fss.lab.machine.__file__", str(tmp_path / "site-packages/fss/machine.py"))
    assert describe()["commit"] == ""


def test_tables_come_from_the_json():
    machine = {"cpu": "CPU", "cores": "2", "threads": "1", "torch": "9", "commit": "abc"}
    result = {"machine": machine, "parts": {"steps": [ROW], "startup": [{"seconds": 0.21}]}}
    written = bench.tables(json.loads(json.dumps(result)))
    assert "| name | n | head (ms) | peak (MB) | ratio | repeats |\n" in written
    assert "| a | 3 | 12.3 | 1234 | 1 | 2 |\n" in written
    assert "| 0.21 |\n" in written
    assert "CPU, 2 cores, 1 threads, torch 9, commit abc" in written


def test_unknown_part():
    with pytest.raises(InputError, match="did you mean 'renderer'"):
        bench.measure("render")


def test_command(tmp_path):
    out = tmp_path / "figures.json"
    done = Fss("bench", "--only", "startup", "--json", out, folder=tmp_path)
    assert done.end() == 0, done.err
    result = json.loads(out.read_bytes())
    assert list(result["parts"]) == ["startup"] and are_measured(result["parts"]["startup"][0])
    assert result["machine"] == describe()
    assert done.out == bench.tables(result)


def test_command_with_bad_input(tmp_path):
    for args, said in ((["--only", "x"], "known: renderer"), (["--json", tmp_path], "directory")):
        done = Fss("bench", *args, folder=tmp_path)
        assert done.end() == 2
        assert done.err.startswith("fss: error: ") and said in done.err


def test_notebooks_are_timed_in_processes_of_their_own(tmp_path):
    path = tmp_path / "00_small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")]), path)
    (row,) = _tool("bench").notebooks([path])
    assert are_measured(row) and row["name"] == "00_small"
    assert 20 < row["peak_mb"] < peak_mb()  # a kernel's, which imports no torch as we do


def _tool(name):
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
