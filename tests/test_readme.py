"""Commands and code of the README that are marked ``tested`` run exactly as they are printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
SHELLS = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
BLOCK = re.compile(r"^```(bash|python) tested\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    text = README.read_text(encoding="utf-8")
    return [
        pytest.param(match[1], match[2], id=f"line {text.count(chr(10), 0, match.start()) + 1}")
        for match in BLOCK.finditer(text)
    ]


def test_every_block_marked_tested_is_found():
    marked = re.findall(
        r"^ *[`~]{3,}.*\btested\b", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(marked) == len(blocks()) > 0


@pytest.mark.parametrize(("language", "source"), blocks())
def test_block_runs(language, source, tmp_path):
    binaries = str(Path(sys.executable).parent)
    done = subprocess.run(
        [*SHELLS[language], source],
        cwd=tmp_path,
        env=os.environ | {"PATH": os.pathsep.join([binaries, os.environ["PATH"]])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def links():
    text = re.sub(r"^```.*?^```$", "", README.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [link for link in re.findall(r"\]\(([^)\s#]+)", text) if ":" not in link]


def test_links_lead_somewhere():
    assert [link for link in links() if not (README.parent / link).exists()] == []
