import os
import subprocess
import sys

import pytest

from fss.__main__ import main
from fss.cli import COMMANDS
from fss.lab.commands import jobs_of


def test_the_lab_registers_its_commands_and_the_core_alone_has_none_of_them():
    assert list(COMMANDS)[-8:] == ["predict", "check", "download", "bench", "compare", "ablate", "reproduce", "replay"]
    script = (
        "import sys, fss.cli; print(*fss.cli.COMMANDS, *(name for name in sys.modules if 'lab' in name.split('.')))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["train", "eval"]


def test_a_whole_campaign_refuses_a_launcher_and_one_run_does_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for only, message in ([], "use no launcher"), (["--only", "x"], "campaign.toml"):
        with pytest.raises(SystemExit) as end:
            main(["ablate", str(tmp_path / "none"), *only])
        assert end.value.code == 2 and message in capsys.readouterr().err


def test_runs_at_a_time(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    asked = [("cpu", ""), ("cuda", ""), ("cuda:1", ""), ("cuda", "torchrun"), ("cpu", "torchrun")]
    assert [jobs_of(-1, *each) for each in asked] == [2, 3, 1, 1, 1]
    assert [jobs_of(5, *each) for each in asked] == [5] * 5
