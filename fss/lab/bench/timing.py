"""Times and memory, as every part of the benchmark takes them."""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]


def in_turn(functions: Sequence[Callable[[], object]], repeats: int) -> np.ndarray:
    """Call the functions one after the other, again and again: milliseconds [function, repeat]."""
    ms = np.empty((len(functions), repeats + 1))
    for turn in range(repeats + 1):
        for n, function in enumerate(functions):
            start = time.perf_counter()
            function()
            ms[n, turn] = 1e3 * (time.perf_counter() - start)
    return ms[:, 1:]


def medians(ms: np.ndarray) -> list[float]:
    """Return the median of each function."""
    return [float(median) for median in np.median(ms, axis=1)]


def megabytes(maxrss: int) -> float:
    """Return an ``ru_maxrss`` in MB: it comes in bytes on macOS, else in KiB."""
    return maxrss / 1e6 if sys.platform == "darwin" else maxrss * 1024 / 1e6


def peak_mb() -> float:
    """Return the peak memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, whose ru_maxrss begins with that of the process that started us
        return megabytes(int(status.read_text().partition("VmHWM:")[2].split()[0]))
    return megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
