"""Times and memory, as every part of the benchmark takes them."""

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Rows = list[dict[str, Any]]


def timed(seconds: float, **calls: Callable[[], object]) -> dict[str, Any]:
    """Time each call for so many seconds, on the threads that torch has here.

    Returns:
        ``<name>_ms``, the median of a call, and ``repeats``, the fewest that one was timed; the
        first turn of each does not count.
    """
    from torch.utils.benchmark import Timer  # here: it may log a line on CUDA, where tables are only written

    measured = {
        name: Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads()).blocked_autorange(
            min_run_time=seconds
        )
        for name, call in calls.items()
    }
    medians = {f"{name}_ms": 1e3 * each.median for name, each in measured.items()}
    return {**medians, "repeats": min(len(each.times) for each in measured.values())}


def in_new_process(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a fresh process, whose memory at its peak is that of the call."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def megabytes(maxrss: int) -> float:
    """Return an ``ru_maxrss`` in MB: it comes in bytes on macOS, else in KiB."""
    return maxrss / 1e6 if sys.platform == "darwin" else maxrss * 1024 / 1e6


def peak_mb() -> float:
    """Return the peak memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, whose ru_maxrss begins with that of the process that started us
        return megabytes(int(status.read_text().partition("VmHWM:")[2].split()[0]))
    return megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
