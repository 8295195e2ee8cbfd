"""Commands and code of the README that are marked ``tested`` run exactly as they are printed.

The other commands take hours, a GPU or pictures; those are only asked whether they are understood.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fss.lab.commands  # noqa: F401  registers its commands
from fss.cli import _parse

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
    marked = re.findall(r"^ *[`~]{3,}.*\btested\b", README.read_text(encoding="utf-8"), re.MULTILINE)
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


UNTESTED = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAY = "".join(f"{name}() {{ printf '%s\\t' {name} \"$@\"; echo; }}\n" for name in ("fss", "torchrun", "make"))


def commands():
    """The words of every other command, as the shell gives them to it."""
    for block in UNTESTED.findall(README.read_text(encoding="utf-8")):
        done = subprocess.run(
            ["bash", "-euc", SAY + block],
            env=os.environ | {"VOC": "VOC"},
            capture_output=True,
            text=True,
            check=True,
        )
        yield from (line.split("\t")[:-1] for line in done.stdout.splitlines())


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_other_commands_are_understood(words):
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=README.parent, capture_output=True)
        assert done.returncode == 0, done.stderr
        return
    if words[0] == "torchrun":
        assert words[1:5] == ["--nproc_per_node", "4", "-m", "fss"]
        words = words[4:]
    _parse(words[1:])


def links():
    text = re.sub(r"^```.*?^```$", "", README.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [link for link in re.findall(r"\]\(([^)\s#]+)", text) if ":" not in link]


def test_links_lead_somewhere():
    assert [link for link in links() if not (README.parent / link).exists()] == []
