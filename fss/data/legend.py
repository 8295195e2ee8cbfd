"""What the labels of masks are called: by `classes.txt`, or by the files that CVAT and Roboflow write."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from fss.data.lists import lines_of
from fss.data.pictures import IGNORE
from fss.errors import InputError

LINES = {
    "classes.txt": r"(?P<name>.+)",
    "labelmap.txt": r"(?P<name>[^:]+):(?P<red>\d+),(?P<green>\d+),(?P<blue>\d+)(:.*)?",
    "_classes.csv": r"(?P<label>\d+)\s*,\s*(?P<name>.+)",
}
HEADERS = ("#", "Pixel Value")
NAMED = {"background": 0, "_background_": 0, "void": IGNORE, "ignore": IGNORE, "ignored": IGNORE}


@dataclass(frozen=True)
class Legend:
    """What labels mean.

    Attributes:
        source: the file that says so.
        names: the labels of classes, 1 to 254, each with its name.
        colours: labels with the colours (red, green, blue) that masks show them by; none where masks
            hold the labels.
    """

    source: Path
    names: tuple[tuple[int, str], ...]
    colours: tuple[tuple[int, tuple[int, ...]], ...]


def find_legend(root: Path) -> Legend:
    """Read a folder's `classes.txt`, else its `labelmap.txt`, else a `_classes.csv` (see `tables`).

    Line n of `classes.txt` names label n. `labelmap.txt` has a label a line, after a header. In both,
    lines are counted from the one after a first `background`, which is label 0; `void`, `ignore` and
    `ignored` are label 255. Raises `InputError` for a folder without any of these files, a line of
    another form, a name, label or colour that stands twice, a class at 0 or beyond 254, and a file
    that names no class.
    """
    source = next(
        (path for path in (root / "classes.txt", root / "labelmap.txt", *tables(root)) if path.is_file()), None
    )
    if source is None:
        raise InputError(
            f"nothing in {root} names the labels; add classes.txt, whose line n names label n, "
            "CVAT's labelmap.txt or Roboflow's _classes.csv"
        )
    names: list[tuple[int, str]] = []
    colours: list[tuple[int, tuple[int, ...]]] = []
    start = 0
    for number, line in lines_of(source):
        found = re.fullmatch(LINES[source.name], line)
        if line.startswith(HEADERS):
            start = number
        elif not found:
            raise InputError(f"{source}, line {number}: {line!r} is not as in other files of that name; correct it")
        else:
            parts, name = found.groupdict(), normalize("NFC", found["name"])
            known = NAMED.get(name.casefold())
            if known == 0 and not names:
                start = number
            label = int(parts.get("label") or (number - start if known is None else known))
            if known is None:
                names.append((label, name))
            if "red" in parts:
                colours.append((label, tuple(int(parts[each]) for each in ("red", "green", "blue"))))
    for values in (*zip(*names, strict=True), [colour for _, colour in colours]):
        for value, times in Counter(values).items():
            if times > 1:
                raise InputError(f"{source} lists {value} twice; give every class a name, label and colour of its own")
    if not names or not 0 < min(names)[0] <= max(names)[0] < IGNORE:
        raise InputError(f"{source} has to name one class or more, with labels from 1 to 254")
    return Legend(source, tuple(names), tuple(colours))


def tables(root: Path) -> list[Path]:
    """Roboflow's `_classes.csv`: that of a folder, else those of its subfolders, an export's splits.

    Raises `InputError` where those of the subfolders differ.
    """
    files = sorted(root.glob("_classes.csv")) or sorted(root.glob("*/_classes.csv"))
    if len({file.read_bytes() for file in files}) > 1:
        raise InputError(f"the files _classes.csv in the folders of {root} differ; open each folder by itself")
    return files
