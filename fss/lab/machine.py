"""Where and with what a number was made."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch


def describe() -> dict[str, str]:
    """Name the processor, the cores we may use, torch's threads, the versions and the commit.

    The commit is empty where the kit does not run from a clone. Where there is a GPU, it is named.
    """
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "cpu": _cpu(),
        "cores": str(usable),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
        **gpu,
    }


def imported() -> dict[str, str]:
    """Return file -> hash of every module of the kit that is imported, and of the lock beside them."""
    root = Path(__file__).parents[2]
    files = [
        Path(module.__file__)
        for name, module in sys.modules.items()
        if name.partition(".")[0] == "fss" and module.__file__
    ]
    files += [lock for lock in (root / "requirements.lock",) if lock.is_file()]
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in sorted(files)
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*:\s*(.+)", info.read_text(), re.MULTILINE) if info.is_file() else []
    return models[0].strip() if models else platform.processor() or platform.machine()


def _commit() -> str:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed: a repository around it would be another's
        return ""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""
