"""The files around the package say the same thing."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
CONDA_NAMES = {"pytorch": "torch"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {
    each.name: str(each.specifier)
    for each in map(
        Requirement, sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])
    )
}


def conda_packages() -> dict[str, tuple[str, str]]:
    """Return name -> (range, comment) of every package line in environment.yml."""
    text = (ROOT / "environment.yml").read_text().partition("dependencies:\n")[2]
    lines = re.findall(r"^ +- ([\w-]+) ?([<>=!~][^\s#]*)? *(?:# (.+))?$", text, re.MULTILINE)
    return {CONDA_NAMES.get(name, name): (spec, why) for name, spec, why in lines}


def lock() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    return {each.name: each for each in requirements}


def test_conda_has_the_ranges_of_pyproject():
    ranges = {name: spec for name, (spec, _) in conda_packages().items()}
    assert ranges.pop("python") == PROJECT["requires-python"]
    assert ranges.pop("pip") == ""
    assert ranges == REQUIREMENTS


def test_every_conda_package_has_a_reason():
    assert [name for name, (_, why) in conda_packages().items() if not why] == []


@pytest.mark.parametrize("name", sorted(REQUIREMENTS))
def test_lock_fits_the_ranges(name):
    (constraint,) = lock()[name].specifier
    assert Requirement(f"{name}{REQUIREMENTS[name]}").specifier.contains(constraint.version)


def test_lock_is_portable():
    for name, requirement in lock().items():
        (constraint,) = requirement.specifier
        assert constraint.operator == ("<=" if name in ("torch", "torchvision") else "==")
        assert "+" not in constraint.version
        assert requirement.url is None
        assert not re.match("cuda-|nvidia-|triton$", name)
