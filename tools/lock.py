"""Write requirements.lock: the newest releases that fit pyproject.toml, as pip finds them today."""

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "notebooks,dev,e2e"
HEADER = """\
# Constraints: the releases that the tests passed with, on Python {python}, for `make setup` and
#   pip install --constraint requirements.lock --editable '.[{extras}]'
# `make lock` writes this file anew from the ranges in pyproject.toml, installs it and runs the
# tests. Left out: the CUDA libraries, which torch's wheel pins itself where it needs them. torch
# and torchvision are capped, not pinned: not every platform's index has each of their releases.
"""
PLATFORM_ONLY = re.compile(r"cuda-|nvidia-|triton$")
CAPPED = {"torch", "torchvision"}


def resolve() -> dict[str, str]:
    """Return name -> version of everything that an empty environment would get."""
    command = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command, "--editable", f"{ROOT}[{EXTRAS}]"],
        check=True,
        stdout=subprocess.PIPE,
    )
    report = json.loads(done.stdout)["install"]
    found = [item["metadata"] for item in report if not item["is_direct"]]
    return {re.sub(r"[-_.]+", "-", each["name"]).lower(): each["version"] for each in found}


def lines(releases: dict[str, str]) -> list[str]:
    """Return one constraint a line, sorted, without a wheel's local version tag (`+cu130`)."""
    return [
        f"{name}{'<=' if name in CAPPED else '=='}{version.partition('+')[0]}"
        for name, version in sorted(releases.items())
        if not PLATFORM_ONLY.match(name)
    ]


if __name__ == "__main__":
    header = HEADER.format(python=platform.python_version(), extras=EXTRAS)
    (ROOT / "requirements.lock").write_text(header + "\n".join(lines(resolve())) + "\n")
