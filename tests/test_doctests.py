"""The examples in docstrings give what they say."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["config", "episodes", "metrics", "resize"])
def test_the_examples_hold(name):
    found = doctest.testmod(import_module(f"fss.{name}"))
    assert found.attempted and not found.failed
