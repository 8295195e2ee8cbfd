"""Openers yield every problem that they meet, and return what is sound; so one code opens and checks.

`fss check` lists all that an opener yields, and `open_dataset` raises the first as an `InputError`.
"""

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeAlias, TypeVar

from fss.errors import InputError

T = TypeVar("T")
Opening: TypeAlias = Generator[str, None, T]  # yields problems, a line each; returns what is sound


def gathered(opening: Opening[T]) -> tuple[list[str], T]:
    """Run an opener to its end: every problem once, in order, and what it returns."""
    problems: dict[str, None] = {}
    while True:
        try:
            problems[next(opening)] = None
        except StopIteration as end:
            return list(problems), end.value


def sound(opening: Opening[T]) -> T:
    """Return what an opener returns; raises `InputError` for its first problem."""
    problems, opened = gathered(opening)
    if problems:
        more = f" (and {len(problems) - 1} more, which fss check lists)" if problems[1:] else ""
        raise InputError(problems[0] + more)
    return opened


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, sorted, but for hidden ones; raises `InputError` if it cannot be read."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); correct its permissions") from error
