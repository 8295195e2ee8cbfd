"""Titled pictures as one PNG: where everything lies, and that nothing is cut off."""

import io

import numpy as np
import pytest
from PIL import Image

from fss.explorer.panels import FOOT, GAP, HEAD, MARGIN, SIDE, Mark, Panel, percent, sheet
from fss.viz import OUTCOMES


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_sheet_lays_out_what_it_gets():
    grey = np.full((20, 40, 3), 128, np.uint8)
    drawn = pixels(sheet([[Panel(grey, "a"), Panel(grey, "b")], [], [Panel(grey, "c")]], side=80))
    assert drawn.shape == (2 * MARGIN + 2 * (HEAD + 40 + FOOT) + GAP, 2 * MARGIN + 160 + GAP, 3)
    top = MARGIN + HEAD
    for y, x in ((top, MARGIN), (top, MARGIN + 80 + GAP), (top + 40 + FOOT + GAP + HEAD, MARGIN)):
        assert (drawn[y : y + 40, x : x + 80] == 128).all()
    assert (drawn[:, -MARGIN:] == 255).all()


def test_fewer_steps_of_colour_are_nearly_the_same():
    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    fine, coarse = (sheet([[Panel(picture, "a")]], side=60, steps=n) for n in (256, 32))
    assert len(np.unique(pixels(coarse))) == 32 < len(np.unique(pixels(fine)))
    assert np.abs(pixels(coarse).astype(int) - pixels(fine)).max() <= 5
    assert len(coarse) < 0.9 * len(fine)


def test_a_row_of_many_keeps_its_width():
    picture = Panel(np.zeros((50, 50, 3), np.uint8), "")
    four, seven = (pixels(sheet([[picture] * n])).shape[1] for n in (4, 7))
    assert 4 * SIDE < seven <= four


def test_a_mark_frames_its_place_and_leaves_it_visible():
    grey = np.full((100, 100, 3), 128, np.uint8)
    drawn = pixels(sheet([[Panel(grey, "", marks=[Mark(0.4, 0.3, 0.5, 0.6)])]], side=100))
    inner = drawn[MARGIN + HEAD :, MARGIN:][:100, :100]
    assert (inner[40:50, 30:60] == 128).all()
    ring = inner[36:54, 26:64].copy()
    assert {0, 255} <= set(ring[:4].ravel().tolist())
    assert (inner[:36] == 128).all() and (inner[54:] == 128).all()


def test_a_bar_runs_from_dark_to_light():
    drawn = pixels(sheet([[Panel(np.zeros((80, 80, 3), np.uint8), "", bar=("0", "1"))]], side=200))
    strip = drawn[MARGIN + HEAD + 200 + 10, MARGIN + 20 : MARGIN + 180].astype(int)
    luma = strip @ np.array([299, 587, 114])
    assert (np.diff(luma) >= -2000).all() and luma[-1] > 3 * luma[0]


@pytest.mark.parametrize(
    ("share", "said"),
    [(0, "0 %"), (1, "100 %"), (0.4321, "43.2 %"), (0.00141, "0.141 %"), (0.9999, "100 %")],
)
def test_percent(share, said):
    assert percent(share) == said


def test_a_key_shows_every_colour():
    drawn = pixels(sheet([[Panel(np.zeros((80, 80, 3), np.uint8), "", key=OUTCOMES)]], side=SIDE))
    foot = {tuple(pixel) for pixel in drawn[MARGIN + HEAD + SIDE :].reshape(-1, 3).tolist()}
    assert {tuple(bytes.fromhex(color[1:])) for color in OUTCOMES.values()} <= foot
