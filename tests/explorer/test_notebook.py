"""`report` prints the reader's own value and the expected one; parameters are checked in one line."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from fss.errors import InputError
from fss.explorer.notebook import RESULTS, check_parameters, report

ROOT = Path(__file__).resolve().parents[2]
REMARK = ": not within the tolerance"


@pytest.mark.parametrize(("got", "printed"), [(0.85, "0.85"), (0.83012, "0.8301"), (0.8699, "0.8699")])
def test_within_the_tolerance(got, printed, capsys):
    report("mIoU", got, 0.85, 0.02)
    assert capsys.readouterr().out == f"mIoU: {printed} (expected 0.85 ± 0.02)\n"


@pytest.mark.parametrize(("got", "printed"), [(0.8799, "0.8799"), (0.01, "0.01"), (math.nan, "nan")])
def test_beyond_it_a_remark_says_so(got, printed, capsys):
    report("mIoU", got, 0.85, 0.02)
    assert capsys.readouterr().out == f"mIoU: {printed} (expected 0.85 ± 0.02{REMARK})\n"


@pytest.mark.parametrize(
    ("got", "ref", "same"),
    [(0.851, 0.85, True), (0.869, 0.85, True), (0.871, 0.85, False), (0.851, 0.86, False), (math.nan, 0.85, False)],
)
def test_nbval_compares_the_tolerance_alone(got, ref, same, tmp_path):
    """A bare `pytest --nbval` passes another value within the tolerance, but none beyond it."""
    stored = new_output("stream", text="mIoU: 0.8512 (expected 0.85 ± 0.02)\n")
    source = f"from fss.explorer.notebook import report\nreport('mIoU', float('{got}'), {ref}, 0.02)"
    notebook = new_notebook(cells=[new_code_cell(source, execution_count=1, outputs=[stored])])
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, tmp_path / "one.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, "--nbval", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "1 passed" in done.stdout) == (0 if same else 1, same), done.stdout


@pytest.mark.parametrize(
    ("device", "seed", "choices", "said"),
    [
        ("cuda", 0, {}, "device 'cuda': no usable GPU here; use cpu"),
        ("gpu", 0, {}, "unknown device 'gpu'; use cpu or cuda"),
        ("cpu", -1, {}, "SEED = -1: use a whole number, 0 or more"),
        ("cpu", 0.5, {}, "SEED = 0.5: use a whole number, 0 or more"),
        ("cpu", 0, {"EPISODE": (99, range(16))}, "EPISODE = 99: use 0 to 15"),
        ("cpu", 0, {"EPISODE": (-1, range(16))}, "EPISODE = -1: use 0 to 15"),
        ("cpu", 0, {"EPISODE": (True, range(16))}, "EPISODE = True: use 0 to 15"),
        ("cpu", 0, {"READING": ("printed", ("published", "intended"))}, "use 'published' or 'intended'"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(device, seed, choices, said, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=re.escape(said)) as raised:
        check_parameters(device, seed, **choices)
    assert "\n" not in str(raised.value)


def test_parameters_that_can_be_used_pass():
    check_parameters("cpu", 3, EPISODE=(15, range(16)), READING=("intended", ("published", "intended")))


def test_results_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert json.loads((RESULTS / "bench.json").read_text())["parts"]
