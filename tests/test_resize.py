import pytest
import torch

from fss.resize import resize, share_of

pytestmark = pytest.mark.numbers

H, W = 3, 5


def test_the_same_size_is_the_same_tensor():
    x = torch.rand(2, 4, H, W)
    assert resize(x, (H, W), aligned=True) is x
    assert resize(x, torch.Size([H, W]), aligned=False) is x


@pytest.mark.parametrize("aligned", [True, False])
def test_leading_dimensions_are_kept(aligned):
    x = torch.rand(2, 3, 4, H, W)
    out = resize(x, (5, 7), aligned=aligned)
    assert out.shape == (2, 3, 4, 5, 7)
    each = resize(x[1, 2][None], (5, 7), aligned=aligned)[0]
    torch.testing.assert_close(out[1, 2], each)
    torch.testing.assert_close(out[0, 1, 3], resize(x[0, 1, 3], (5, 7), aligned=aligned))


def test_aligned_corners_coincide():
    out = resize(torch.tensor([[0.0, 2.0], [4.0, 6.0]]), (3, 5), aligned=True)
    expected = [[0, 0.5, 1, 1.5, 2], [2, 2.5, 3, 3.5, 4], [4, 4.5, 5, 5.5, 6]]
    assert out.tolist() == expected


def test_otherwise_cells_coincide():
    """The middles of four cells lie at 1/8, 3/8, 5/8, 7/8 of the middles' 1/4 and 3/4."""
    out = resize(torch.tensor([[0.0, 4.0]]), (1, 4), aligned=False)
    assert out.tolist() == [[0, 1, 3, 4]]


def test_a_map_of_cells_is_where_its_cells_are():
    """A ramp over 16 px, averaged over 2 cells and brought back, is still the ramp inside."""
    ramp = torch.arange(16.0).expand(8, 16)
    cells = ramp.reshape(1, 8, 2, 8).mean((1, 3))
    back = resize(cells, (1, 16), aligned=False)
    torch.testing.assert_close(back[0, 4:12], ramp[0, 4:12])


def test_share_of_a_label():
    labels = torch.tensor([[[1, 1, 0, 255], [1, 0, 0, 1]]], dtype=torch.uint8)
    like = torch.zeros(1, 7, 1, 2)
    assert share_of(labels, 1, like, aligned=False).tolist() == [[[[0.75, 0.25]]]]
    assert share_of(labels, 0, like, aligned=False).tolist() == [[[[0.25, 0.5]]]]
    corners = torch.zeros(1, 7, 2, 2)
    assert share_of(labels, 1, corners, aligned=True).tolist() == [[[[1, 0], [1, 1]]]]


def test_a_small_object_is_not_lost_between_cells():
    labels = torch.zeros(2, 3, 224, 96, dtype=torch.uint8)
    labels[..., 100:104, 40:44] = 1
    like = torch.zeros(2, 3, 5, 7, 3)
    cells = share_of(labels, 1, like, aligned=False)
    assert cells.shape == (2, 3, 1, 7, 3)
    assert cells.sum().item() == pytest.approx(6 * 16 / 32**2)
