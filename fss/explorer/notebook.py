"""What notebooks share: parameters that are checked at once, and numbers that are checked and do not flake."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fss.engine import check_device
from fss.errors import InputError

RESULTS = Path(__file__).resolve().parents[2] / "results"
"""The repository's measured results, wherever a notebook's kernel starts."""


def check_parameters(device: str, seed: int, **choices: tuple[Any, Sequence[Any]]) -> None:
    """Stop a notebook in its first cell, with one line, where a parameter cannot be used.

    Args:
        device: ``DEVICE``, which has to be there.
        seed: ``SEED``, a whole number from 0 on.
        choices: by the parameter's name, its value and what it may be: ``EPISODE=(EPISODE, range(16))``.

    Raises:
        InputError: names the parameter and what to use instead.
    """
    check_device(device)
    if type(seed) is not int or seed < 0:
        raise InputError(f"SEED = {seed!r}: use a whole number, 0 or more")
    for name, (value, known) in choices.items():
        if isinstance(value, bool) or value not in known:
            span = f"{known[0]} to {known[-1]}" if isinstance(known, range) else " or ".join(map(repr, known))
            raise InputError(f"{name} = {value!r}: use {span}")


def report(name: str, got: float, ref: float, tol: float) -> None:
    """Print ``got`` beside the expected ``ref``, and say so where they differ by more than ``tol``.

    A notebook's stored outputs are compared with those of the next run. The last digits of a measured number
    differ between machines, so the comparison leaves ``got`` out of the line (``tests/nbval.cfg``); the remark
    that it is not within the tolerance stays in.
    """
    remark = "" if abs(got - ref) <= tol else ": not within the tolerance"
    print(f"{name}: {got:.4g} (expected {ref:g} ± {tol:g}{remark})")
