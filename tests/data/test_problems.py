"""Openers that yield problems: all are gathered once each, or the first is raised."""

import pytest

from fss.data.problems import gathered, names_in, sound
from fss.errors import InputError


def opener(*problems):
    yield from problems
    return "what is sound"


def test_problems_are_gathered_once_and_in_order():
    assert gathered(opener()) == ([], "what is sound")
    assert gathered(opener("b", "a", "b")) == (["b", "a"], "what is sound")


@pytest.mark.parametrize(
    ("problems", "message"),
    [(["b"], "b"), (["b", "b"], "b"), (["b", "a", "c"], "b (and 2 more, which fss check lists)")],
)
def test_the_first_problem_is_raised(problems, message):
    assert sound(opener()) == "what is sound"
    with pytest.raises(InputError) as caught:
        sound(opener(*problems))
    assert str(caught.value) == message


def test_names_in_a_folder(tmp_path):
    for name in ("b", ".hidden", "a"):
        (tmp_path / name).touch()
    assert names_in(tmp_path) == ["a", "b"]
    with pytest.raises(InputError, match=r"a cannot be read \(Not a directory\)"):
        names_in(tmp_path / "a")
