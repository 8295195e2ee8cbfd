"""Lets pytest find what pyproject.toml names from whatever folder it is called in."""

from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the path of nbval's rules for outputs absolute."""
    if given := config.getoption("nbval_sanitize_with", None):
        config.option.nbval_sanitize_with = str(Path(__file__).parent / given)
