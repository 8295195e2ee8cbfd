"""What the kit costs on this machine, beside what it would have to cost.

A part is a list of rows, plain dicts whose keys end in a unit where they have one. Times are
medians, by ``torch.utils.benchmark``.
"""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from fss.config import DANetConfig
from fss.data import open_dataset
from fss.errors import InputError, nearest
from fss.explorer import Explorer
from fss.explorer.scenes import drawn
from fss.lab.bench.dense import attention
from fss.lab.bench.full_size import full_size
from fss.lab.bench.timing import Rows, timed
from fss.lab.bench.training import floor, steps
from fss.lab.machine import describe
from fss.lab.report import results_table
from fss.model import DANet

SECONDS = 2.0


def renderer(size: int = 224, pictures: int = 50, seconds: float = SECONDS) -> Rows:
    """Draw pictures of the shapes world in one process, which keeps one core busy."""
    dataset = open_dataset("shapes", split="test", fold=0, size=size)
    names = dataset.classes[:pictures]
    read = dataset.reader.read
    times = timed(seconds, drawing=lambda: [read(name, "0", size) for name in names])
    rate = 1e3 * len(names) / times["drawing_ms"]
    return [{"size_px": size, "pictures_per_core_and_second": rate, "repeats": times["repeats"]}]


@torch.inference_mode()
def queries(
    config: DANetConfig | None = None, size: int = 224, shots: Sequence[int] = (1, 5), seconds: float = SECONDS
) -> Rows:
    """Time a query against a support set encoded once, and against one encoded anew."""
    torch.manual_seed(0)
    model = DANet(config or DANetConfig.published(), pretrained=False).eval()
    query = torch.rand(1, 3, size, size)
    rows = []
    for k in shots:
        support, mask = torch.rand(1, k, 3, size, size), torch.ones(1, k, size, size)
        code = model.encode_support(support, mask)
        times = timed(
            seconds,
            encoded_anew=partial(model, query, support, mask),
            encoded_once=partial(model.segment, query, code),
        )
        rows.append({"shots": k, "ratio": times["encoded_anew_ms"] / times["encoded_once_ms"], **times})
    return rows


def clicks(
    config: DANetConfig | None = None, size: int = 224, shots: Sequence[int] = (1, 5), seconds: float = SECONDS
) -> Rows:
    """Time the explorer's answer to a new place: one row of the dense map, and the picture."""
    torch.manual_seed(0)
    model = DANet(config or DANetConfig.published(), pretrained=False).eval()
    rows = []
    for k in shots:
        explorer = Explorer(model, drawn("shape-0042", shots=k, size=size))
        height, width = explorer.attended.grid
        places = itertools.cycle(itertools.product(range(height), range(width)))

        def click(explorer: Explorer = explorer, places: Iterator = places) -> None:
            explorer.select(*next(places))
            explorer.text()
            explorer.render(query=False)

        rows.append({"shots": k, **timed(seconds, answer=click)})
    return rows


def startup(seconds: float = SECONDS) -> Rows:
    """Time ``fss --help`` as a whole process."""
    command = [sys.executable, "-m", "fss", "--help"]
    times = timed(seconds, help=lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))
    return [{"command": "fss --help", "seconds": times["help_ms"] / 1e3, "repeats": times["repeats"]}]


PARTS: Mapping[str, tuple[str, Callable[[], Rows] | None]] = {
    "renderer": ("Drawing the shapes world", renderer),
    "steps": ("A training step of one shot; aim: a cached step at most 1.15 times its head alone", steps),
    "floor": ("The head's step beside its multiply-adds at a matrix product's rate; aim: within 3", floor),
    "full_size": ("A step of preset paper from nothing, saved, and one in the resumed run", full_size),
    "attention": ("Dense attention over N positions, 64 channels: time, and memory at its peak", attention),
    "queries": ("A query by a support set encoded anew, or once", queries),
    "clicks": ("The explorer's answer to a click, numbers and picture; aim: within 150 ms", clicks),
    "startup": ("Start-up", startup),
    "notebooks": ("Notebooks, fast: time, and memory of the largest process at its peak", None),
}
"""Name -> heading, and what measures it; the notebooks are measured by tools/bench.py."""
UNITS = {"ms": "ms", "mb": "MB", "px": "px"}


def measure(only: str | None = None) -> dict[str, Any]:
    """Measure all parts, or one.

    Raises:
        InputError: no part of that name.
    """
    parts = {name: part for name, (_, part) in PARTS.items() if part}
    if only is not None and only not in parts:
        raise InputError(f"unknown measurement {only!r}; {nearest(only, parts)}")
    return {"machine": describe(), "parts": {name: part() for name, part in parts.items() if only in (None, name)}}


def tables(result: Mapping[str, Any]) -> str:
    """Return what ``measure`` gave as Markdown, a table a part and a line on the machine."""
    parts = [
        f"{PARTS[name][0]}:\n\n" + results_table([{_title(key): _short(row[key]) for key in row} for row in rows])
        for name, rows in result["parts"].items()
    ]
    machine = result["machine"]
    return "\n".join(parts) + (
        f"\nMedians of so many repeats. {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, torch {machine['torch']}, commit {machine['commit']}.\n"
    )


def _title(key: str) -> str:
    name, _, unit = key.rpartition("_")
    return f"{name} ({UNITS[unit]})" if unit in UNITS else key


def _short(value: Any) -> Any:
    """Write a number with three digits, or whole."""
    if not isinstance(value, float):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
