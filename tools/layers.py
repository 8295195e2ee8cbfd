"""Draw how the package is built into docs/architecture.md: its modules in layers, and what each is for.

The layers stand here, the words are the first sentences of the modules' docstrings. A module that
imports from a layer above its own, or that stands in none, is an error. ``--check`` only says
whether the drawing is current.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from fss.files import write_atomically

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- drawing -->\n```\n).*?(```\n<!-- end -->)", re.DOTALL)
LAYERS = {
    "For research": "lab",
    "To explore": "explorer",
    "To begin with": "cli",
    "To train, measure and show": "losses train run evaluate predict viz leak features engine",
    "The network": "model attention relations prototypes decoder backbones checkpoint",
    "The data": "data episodes metrics config arms download",
    "What all rest on": "resize files settings intervals errors",
}
ENTRANCES = ("__init__", "__main__")  # which have no place: they put the others together


def unit(path: Path) -> str:
    """Return what a file of the package belongs to: its folder, or itself where it lies on top."""
    return path.relative_to(ROOT / "fss").parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield the units that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("fss."))


def drawing() -> str:
    """Return the modules by layer, a line each; the layers from the top down.

    Raises:
        SystemExit: a module stands in no layer, or imports from one above it.
    """
    level = {name: n for n, names in enumerate(LAYERS.values()) for name in names.split()}
    files = sorted((ROOT / "fss").rglob("*.py"))
    for path in files:
        if (own := unit(path)) in ENTRANCES:
            continue
        if own not in level:
            sys.exit(f"fss/{own}: in no layer; give it one in tools/layers.py")
        for other in imported(path):
            if level.get(other, level[own]) < level[own]:
                sys.exit(f"{path.relative_to(ROOT)}: imports {other}, which stands above it")
    lines = []
    for layer, names in LAYERS.items():
        lines.append(f"\n{layer}\n")
        for name in names.split():
            package = ROOT / "fss" / name / "__init__.py"
            path = package if package.is_file() else ROOT / "fss" / f"{name}.py"
            shown = f"{name}/" if path == package else path.name
            lines.append(f"  {shown:15}{_purpose(path)}\n")
    return "".join(lines).lstrip()


def _purpose(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = text.partition("\n")[0].replace("`", "")
    return re.split(r"\.(?= |$)", first)[0]


def main() -> None:
    """Rewrite the drawing if it is not current, or with ``--check`` say so and exit with 1."""
    page = ROOT / "docs" / "architecture.md"
    old = page.read_text(encoding="utf-8")
    new = MARKED.sub(lambda match: match[1] + drawing() + match[2], old)
    if "--check" in sys.argv:
        sys.exit("docs/architecture.md: its drawing is not current; run `make tables`" if new != old else 0)
    if new != old:
        write_atomically(page, new.encode())


if __name__ == "__main__":
    main()
