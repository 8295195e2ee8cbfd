"""The drawing of how the kit is built is true, and a breach of it is an error."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = "docs/architecture.md"


def layers(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / "tools" / "layers.py", *args]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path) -> Path:
    for name in (PAGE, "tools/layers.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "fss", tmp_path / "fss", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_committed_drawing_is_current():
    done = layers(ROOT, "--check")
    assert done.returncode == 0, done.stderr


def test_what_is_not_current_is_named_and_drawn_anew(copy):
    path = copy / "fss" / "resize.py"
    path.write_text(path.read_text().replace("Resizing of maps", "Shrinking of maps"))
    before = (copy / PAGE).read_text()
    done = layers(copy, "--check")
    assert (done.returncode, done.stderr) == (
        1,
        f"{PAGE}: its drawing is not current; run `make tables`\n",
    )
    assert (copy / PAGE).read_text() == before
    assert layers(copy).returncode == layers(copy, "--check").returncode == 0
    text = (copy / PAGE).read_text()
    assert text == before.replace("Resizing of maps", "Shrinking of maps")
    assert text != before


CORE = [
    path
    for path in sorted((ROOT / "fss").rglob("*.py"))
    if path.relative_to(ROOT / "fss").parts[0] not in ("lab", "explorer", "__main__.py")  # which puts all together
]


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_in_the_core_imports_the_lab_or_the_explorer(path):
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    assert not [name for name in names if name.split(".")[:2] in (["fss", "lab"], ["fss", "explorer"])]


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("resize.py", "from fss.train import train", "fss/resize.py: imports train, which"),
        ("data/scan.py", "from fss import model", "fss/data/scan.py: imports model, which"),
        (
            "metrics.py",
            "def f():\n    from fss.lab.report import table",
            "fss/metrics.py: imp",
        ),
        ("cli.py", "import fss.lab.commands", "fss/cli.py: imports lab, which"),
        ("new.py", '"""New."""', "fss/new: in no layer; give it one in tools/layers.py"),
    ],
)
def test_a_breach_is_an_error(copy, name, line, said):
    with (copy / "fss" / name).open("a") as file:
        file.write(f"\n{line}\n")
    before = (copy / PAGE).read_text()
    done = layers(copy)
    assert done.returncode == 1
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
    assert (copy / PAGE).read_text() == before
