"""The files around the package say the same thing."""

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
CONDA_NAMES = {"pytorch": "torch"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {
    each.name: str(each.specifier)
    for each in map(Requirement, sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"]))
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


STUMBLED_OVER = re.compile(r"\b([Ww]hoever|of its own|is none|[Aa]ll but|[Mm]end(s|ed|ing)?|[Tt]old)\b")
"""Words that newcomers had to read twice."""


def prose(path: Path) -> str:
    """What a file says to a reader: all of a page, and the docstrings of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    statements = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr))
    return "\n".join(str(each.value) for each in statements if isinstance(each, ast.Constant))


READ = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "fss").rglob("*.py")]


@pytest.mark.parametrize("path", sorted(READ), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_words_are_plain(path):
    lines = [" ".join(line.split()) for line in prose(path).splitlines()]
    assert [line for line in lines if STUMBLED_OVER.search(line)] == []


MAKEFILE = (ROOT / "Makefile").read_text().replace("\\\n", " ")


def helped() -> set[str]:
    """The targets that `make help` lists."""
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.split()[1] for line in done.stdout.splitlines() if line.startswith("make ")}


def test_help_lists_every_target():
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert helped() == set(phony.split())


def test_quick_runs_the_tests_that_are_named_after_the_core():
    done = subprocess.run(["make", "-n", "quick"], cwd=ROOT, capture_output=True, text=True, check=True)
    (paths,) = re.findall(r"pytest -q (.*) -m", done.stdout)
    assert {"tests/data", "tests/test_attention.py", "tests/test_train.py"} <= set(paths.split())
    assert not {"tests/test_notebooks.py", "tests/test_engine.py", "tests/test_readme.py"} & set(paths.split())


def test_the_citation_is_of_this_release():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    names = [author["family-names"] for author in citation["references"][0]["authors"]]
    assert names == ["Chen", "Wang", "Zhang", "Zhong"]
    assert all(author.keys() & {"name", "family-names"} for author in citation["authors"])


def test_issue_templates_ask_something():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        template = yaml.safe_load(path.read_text())
        assert template.keys() == {"name", "description", "labels", "body"}
        assert all(field["attributes"]["label"] for field in template["body"])


def test_hooks_run_the_environment_s_own_ruff():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert all(hook["entry"].startswith(".venv/bin/python -m ruff ") for hook in local["hooks"])


def test_the_package_says_that_it_is_typed():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["fss"]
    assert "py.typed" in package and (ROOT / "fss" / "py.typed").is_file()


def test_the_devcontainer_names_what_exists():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    version = container["image"].rpartition(":")[2]
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    program, target = container["postCreateCommand"].split()
    assert program == "make" and target in helped()
    tools = container["customizations"]
    python = tools["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python == "${containerWorkspaceFolder}/.venv/bin/python"
    assert all((ROOT / path).is_file() for path in tools["codespaces"]["openFiles"])


def test_binder_installs_the_kit_with_what_notebooks_need():
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    (editable,) = [line.split()[1] for line in lines if line.startswith("--editable")]
    folder, extra = re.fullmatch(r"(.+)\[(\w+)\]", editable).groups()
    assert folder == "." and extra in PROJECT["optional-dependencies"]  # pip's folder is the root
    name, version = (ROOT / "binder" / "runtime.txt").read_text().strip().split("-")
    assert name == "python" and SpecifierSet(PROJECT["requires-python"]).contains(version)


def test_colab_and_binder_are_asked_for_notebooks_that_exist():
    page = (ROOT / "docs" / "setup.md").read_text()
    (branch,) = re.findall(r"branches: \[(\w+)\]", (ROOT / ".github/workflows/ci.yml").read_text())
    asked = re.findall(r"colab\.research\.google\.com/github/OWNER/NAME/blob/(\w+)/([^`\s]+)", page)
    asked += re.findall(r"mybinder\.org/v2/gh/OWNER/NAME/(\w+)\?labpath=([^`\s]+)", page)
    assert len(asked) == 2
    assert all(on == branch and (ROOT / path).is_file() for on, path in asked)
