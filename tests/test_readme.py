"""Commands and code of the README and docs/ that are marked ``tested`` run exactly as they are printed.

The other commands take hours, a GPU or pictures; for those it is only checked that they are understood.
"""

import os
import re
import subprocess
import sys
from functools import wraps
from pathlib import Path

import pytest

import fss.lab.commands  # noqa: F401  registers its commands
from fss.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
SHELLS = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
BLOCK = re.compile(r"^```(bash|python) tested\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    return [
        pytest.param(match[1], match[2], id=f"{name}:{text.count(chr(10), 0, match.start()) + 1}")
        for name, text in PAGES.items()
        for match in BLOCK.finditer(text)
    ]


def test_the_readme_is_short():
    assert len(PAGES["README.md"].split()) <= 1200


def test_every_block_marked_tested_is_found():
    marked = re.findall(r"^ *[`~]{3,}.*\btested\b", "\n".join(PAGES.values()), re.MULTILINE)
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
    for block in UNTESTED.findall("\n".join(PAGES.values())):
        done = subprocess.run(
            ["bash", "-euc", SAY + block],
            env=os.environ | {name: name for name in ("VOC", "PHOTOS", "SCENES")},
            capture_output=True,
            text=True,
            check=True,
        )
        yield from (line.split("\t")[:-1] for line in done.stdout.splitlines())


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_other_commands_are_understood(words, monkeypatch):
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr
        return
    if words[0] == "torchrun":
        assert words[1:5] == ["--nproc_per_node", "4", "-m", "fss"]
        words = words[4:]
    for name, command in COMMANDS.items():
        monkeypatch.setitem(COMMANDS, name, wraps(command)(lambda **options: None))
    main(words[1:])


def prose(name):
    return re.sub(r"^```.*?^```$", "", PAGES[name], flags=re.M | re.S)


def anchors(name):
    """The places of a page that a link can name, as GitHub makes them of its headings."""
    headings = re.findall(r"^#+ (.+)$", prose(name), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if ":" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent.joinpath(path).resolve() if path else ROOT / name
        page = str(target.relative_to(ROOT))
        if not target.exists() or (anchor and anchor not in anchors(page)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/")])
def test_every_page_of_docs_is_linked(name):
    assert name in PAGES["README.md"]
