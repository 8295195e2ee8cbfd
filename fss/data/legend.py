"""What the labels of masks are called: by `classes.txt`, or by the files that CVAT and Roboflow write."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from unicodedata import normalize

from fss.data.lists import lines_of
from fss.data.pictures import IGNORE
from fss.errors import InputError

Row = tuple[int, str, tuple[int, ...]]  # label, name, and colour (red, green, blue) or nothing
GROUND, VOID = ("background", "_background_"), ("void", "ignore", "ignored")  # names of the labels 0 and 255


@dataclass(frozen=True)
class Legend:
    """What labels mean.

    Attributes:
        source: the file that says so.
        names: the labels of classes, 1 to 254, each with its name.
        colours: labels with the colours that masks show them by; none where masks hold the labels.
    """

    source: Path
    names: tuple[tuple[int, str], ...]
    colours: tuple[tuple[int, tuple[int, ...]], ...]


def find_legend(root: Path) -> Legend:
    """Read a folder's `classes.txt`, else its `labelmap.txt`, else a `_classes.csv` (see `tables`).

    Line n of `classes.txt` names label n; where the first line is `background`, it names label 0.
    In `labelmap.txt`, `background` is label 0, `void`, `ignore` and `ignored` are label 255, and the
    other labels are counted from 1. Raises `InputError` for a folder without any of these files,
    for a line of another form, a name, label or colour that stands twice, a class at 0 or beyond 254,
    and a file that names no class.
    """
    files = [path for path in (root / "classes.txt", root / "labelmap.txt", *tables(root)) if path.is_file()]
    if not files:
        raise InputError(
            f"nothing in {root} names the labels; add classes.txt, whose line n names label n, "
            "CVAT's labelmap.txt or Roboflow's _classes.csv"
        )
    source = files[0]
    lines = [(number, normalize("NFC", line)) for number, line in lines_of(source)]
    rows = {"classes.txt": _plain, "labelmap.txt": _cvat}.get(source.name, _roboflow)(source, lines)
    for column in zip(*rows, strict=True):
        for value, times in Counter(column).items():
            if times > 1 and value not in (IGNORE, ()):
                raise InputError(f"{source} lists {value} twice; give every class a name, label and colour of its own")
    for label, name, _ in rows:
        if not 0 < label < IGNORE and name.casefold() not in (VOID if label else GROUND):
            raise InputError(
                f"{source} gives {name} the label {label}; classes have 1 to 254, 0 is background, 255 void"
            )
    names = tuple((label, name) for label, name, _ in rows if 0 < label < IGNORE)
    if not names:
        raise InputError(f"{source} names no class; write one name a line, that of label n in line n")
    return Legend(source, names, tuple((label, colour) for label, _, colour in rows if colour))


def tables(root: Path) -> list[Path]:
    """Roboflow's `_classes.csv`: that of a folder, else those of its subfolders, an export's splits.

    Raises `InputError` where those of the subfolders differ.
    """
    files = sorted(root.glob("_classes.csv")) or sorted(root.glob("*/_classes.csv"))
    if len({file.read_bytes() for file in files}) > 1:
        raise InputError(f"the files _classes.csv in the folders of {root} differ; open each folder by itself")
    return files


def _plain(source: Path, lines: list[tuple[int, str]]) -> list[Row]:
    first = int(bool(lines) and lines[0][1].casefold() in GROUND)
    return [(number - first, name, ()) for number, name in lines]


def _cvat(source: Path, lines: list[tuple[int, str]]) -> list[Row]:
    rows: list[Row] = []
    free = count(1)
    for number, line in lines:
        found = re.fullmatch(r"([^:]+):(\d+),(\d+),(\d+)(:.*)?", line)
        if found:
            plain = found[1].casefold()
            label = 0 if plain in GROUND else IGNORE if plain in VOID else next(free)
            rows.append((label, found[1], (int(found[2]), int(found[3]), int(found[4]))))
        elif not line.startswith("#"):
            raise InputError(f"{source}, line {number}: {line!r} is not of the form name:red,green,blue::")
    return rows


def _roboflow(source: Path, lines: list[tuple[int, str]]) -> list[Row]:
    rows: list[Row] = []
    for number, line in lines[1:]:  # the first one is the header
        found = re.fullmatch(r"(\d+)\s*,\s*(.+)", line)
        if not found:
            raise InputError(f"{source}, line {number}: {line!r} is not of the form label, name")
        rows.append((int(found[1]), found[2], ()))
    return rows
