"""The map of the network: every box is drawn apart from the others, one is lit, and a wrong name is refused."""

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch

from fss.errors import InputError
from fss.explorer.network_map import ARROWS, BOXES, LIT, network_map


def patches(figure):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]


@pytest.mark.parametrize("lit", [(), ("dense",), ("query", "support"), tuple(BOXES)])
def test_the_named_boxes_are_lit(lit):
    colors = [to_hex(patch.get_facecolor()) == LIT for patch in patches(network_map(*lit))]
    assert colors == [name in lit for name in BOXES]


def test_no_box_lies_over_another_or_over_the_rim_and_texts_fit():
    figure = network_map(*BOXES)  # bold texts are the widest
    figure.canvas.draw()
    boxes = [patch.get_window_extent() for patch in patches(figure)]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for box, text in zip(boxes, figure.axes[0].texts[len(ARROWS) :], strict=True):
        inner = text.get_window_extent()
        assert box.x0 <= inner.x0 and inner.x1 <= box.x1 and box.y0 <= inner.y0 and inner.y1 <= box.y1
        assert 0 <= box.x0 and box.x1 <= figure.bbox.width and 0 <= box.y0 and box.y1 <= figure.bbox.height


def test_a_typo_is_named():
    with pytest.raises(InputError, match="the map has no box 'dens'; did you mean 'dense'"):
        network_map("dens")
