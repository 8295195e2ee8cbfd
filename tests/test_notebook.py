"""`report` prints the same line for every value within the tolerance, and the truth beyond it."""

import math

import pytest

from fss.notebook import report


@pytest.mark.parametrize("got", [0.85, 0.8301, 0.8699])
def test_within_the_tolerance_the_reference_is_printed(got, capsys):
    report("mIoU", got, 0.85, 0.02)
    assert capsys.readouterr().out == "mIoU: 0.85 (± 0.02)\n"


@pytest.mark.parametrize(("got", "printed"), [(0.8799, "0.8799"), (0.01, "0.01"), (math.nan, "nan")])
def test_beyond_it_the_value_is_printed(got, printed, capsys):
    report("mIoU", got, 0.85, 0.02)
    assert capsys.readouterr().out == f"mIoU: {printed} (expected 0.85 ± 0.02)\n"
