import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from fss import viz
from fss.errors import InputError

HEIGHT, WIDTH = 24, 36
YELLOW, BLUE, VERMILION = (np.array(to_rgb(c)) for c in (viz.MISS, viz.HIT, viz.FALSE_ALARM))


def picture(level=0.5, shape=(3, HEIGHT, WIDTH)):
    return torch.full(shape, float(level))


def box(top, bottom, left, right, shape=(HEIGHT, WIDTH)):
    mask = torch.zeros(shape, dtype=torch.uint8)
    mask[..., top:bottom, left:right] = 1
    return mask


def as_bytes(fractions):
    return np.rint(255 * np.asarray(fractions)).astype(np.uint8)


def pictures_of(figure):
    return [image.get_array() for axis in figure.axes for image in axis.get_images()]


def episode(batch=(), shots=1, ignored=False):
    target = box(5, 15, 8, 20, (*batch, HEIGHT, WIDTH))
    if ignored:
        target[..., 0, :] = 255
    return (
        picture(0.5, (*batch, shots, 3, HEIGHT, WIDTH)),
        box(4, 12, 6, 18, (*batch, shots, HEIGHT, WIDTH)),
        picture(0.5, (*batch, 3, HEIGHT, WIDTH)),
        target,
        box(7, 17, 8, 20, (*batch, HEIGHT, WIDTH)),
    )


# outline


def test_outline_draws_the_border_a_rim_and_nothing_else():
    drawn = viz.outline(picture(), box(5, 15, 8, 20), "#0072B2", width=2)
    assert drawn.dtype == np.uint8 and drawn.shape == (HEIGHT, WIDTH, 3)
    expected = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    expected[5:15, 8:20] = as_bytes(BLUE)
    expected[7:13, 10:18] = 0
    expected[8:12, 11:17] = 128
    assert np.array_equal(drawn, expected)


def test_outline_closes_along_the_frame():
    drawn = viz.outline(picture(), box(0, HEIGHT, 0, 10), viz.MISS, width=1)
    for row, col in [(0, 5), (HEIGHT - 1, 5), (12, 0), (12, 9)]:
        assert np.array_equal(drawn[row, col], as_bytes(YELLOW))
    assert np.array_equal(drawn[12, 10], [128] * 3)


def test_outline_of_ignored_or_of_nothing_leaves_the_picture():
    mask = 255 * box(5, 15, 8, 20)
    assert np.array_equal(viz.outline(picture(), mask), np.full((HEIGHT, WIDTH, 3), 128))


def test_default_line_grows_with_the_picture():
    def line(scale):
        shape = (HEIGHT * scale, WIDTH * scale)
        drawn = viz.outline(picture(0.5, (3, *shape)), torch.ones(shape, dtype=torch.uint8))
        return (drawn[:, shape[1] // 2] == as_bytes(YELLOW)).all(-1).sum() // 2

    assert line(1) == 1
    assert line(20) == round(HEIGHT * 20 / 75)


def test_float_and_byte_pictures_give_the_same_and_are_not_changed():
    floats = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    bytes_ = as_bytes(floats.permute(1, 2, 0))
    before = bytes_.copy()
    mask, heat = box(5, 15, 8, 20), np.arange(6.0).reshape(2, 3)
    for draw in (
        lambda image: viz.outline(image, mask),
        lambda image: viz.outline(image, mask.bool().numpy()),
        lambda image: viz.overlay(image, heat),
        lambda image: viz.error_map(image, mask, mask),
    ):
        assert np.array_equal(draw(floats), draw(bytes_))
        assert np.array_equal(draw(floats.numpy()), draw(bytes_))
    assert np.array_equal(bytes_, before)


# overlay


def test_overlay_is_brightest_where_the_heat_is():
    heat = torch.zeros(4, 6)
    heat[1, 4] = 3
    drawn = viz.overlay(picture(0), heat, alpha=1)
    assert drawn.dtype == np.uint8 and drawn.shape == (HEIGHT, WIDTH, 3)
    luma = drawn @ np.array([0.299, 0.587, 0.114])
    row, col = np.unravel_index(luma.argmax(), luma.shape)
    # cell (1, 4) of 4 x 6 covers rows 6..11 and columns 24..29
    assert 6 <= row < 12 and 24 <= col < 30
    assert luma[20, 5] == luma.min()


def test_overlay_takes_the_ends_of_viridis_and_the_share_of_alpha():
    heat = torch.tensor([[2.0, 2.0], [5.0, 5.0]])
    pure = viz.overlay(picture(1), heat, alpha=1)
    assert np.array_equal(pure[0, 0], as_bytes(to_rgb("#440154")))
    assert np.array_equal(pure[-1, 0], as_bytes(to_rgb("#fde725")))
    assert (viz.overlay(picture(1), heat, alpha=0) == 255).all()
    half = viz.overlay(picture(1), heat, alpha=0.5)
    assert np.abs(half[0, 0] - (pure[0, 0] / 2 + 127.5)).max() <= 1


def test_overlay_is_smooth_between_cells():
    drawn = viz.overlay(picture(0), torch.tensor([[0.0, 1.0]]), alpha=1)
    green = drawn[0, :, 1].astype(int)
    assert (np.diff(green) >= 0).all() and len(set(green)) > WIDTH // 3
    assert (drawn == drawn[:1]).all()


def test_flat_heat_takes_the_low_end():
    drawn = viz.overlay(picture(0), torch.full((3, 4), 0.25), alpha=1)
    assert (drawn == as_bytes(to_rgb("#440154"))).all()


def test_heated_is_an_overlay_from_nothing_to_its_largest_under_a_white_outline():
    heat, mask = torch.tensor([[0.2, 0.2, 0.4]]), box(5, 15, 8, 20)
    drawn = viz.heated(picture(), mask, heat)
    same = viz.overlay(picture(), heat, limits=(0, 0.4))
    assert np.array_equal(drawn, viz.outline(same, mask, "white"))
    assert not np.array_equal(same, viz.overlay(picture(), heat))  # 0.2 is not nothing


def test_heated_takes_the_top_of_its_scale_and_its_strength():
    heat, mask = torch.tensor([[0.2, 0.4]]), box(5, 15, 8, 20)
    drawn = viz.heated(picture(), mask, heat, top=0.8, alpha=0.3)
    same = viz.overlay(picture(), heat, limits=(0, 0.8), alpha=0.3)
    assert np.array_equal(drawn, viz.outline(same, mask, "white"))


def test_a_tint_mixes_a_colour_in_where_it_shall():
    grey, where = np.full((HEIGHT, WIDTH, 3), 128, np.uint8), box(5, 15, 8, 20).bool().numpy()
    drawn = viz.tinted(grey, where, viz.HIT, 0.25)
    assert (grey == 128).all() and (drawn[~where] == 128).all()
    assert (drawn[where] == np.rint(255 * BLUE * 0.25 + 128 * 0.75)).all()


# strip, cross


def test_a_strip_draws_all_pictures_in_rows():
    pictures = {f"picture {n}": np.full((HEIGHT, WIDTH, 3), n, np.uint8) for n in range(6)}
    figure, axes = viz.strip(pictures, width=6, rows=2)
    assert isinstance(figure, viz.NotebookFigure) and figure.get_figwidth() == 6
    assert [axis.get_title() for axis in axes] == list(pictures)
    for drawn, given in zip(pictures_of(figure), pictures.values(), strict=True):
        assert np.array_equal(drawn, given)
    figure.draw_without_rendering()
    tops = [round(axis.get_position().y1, 3) for axis in axes]
    assert len(set(tops[:3])) == len(set(tops[3:])) == 1 and tops[0] > tops[3]


@pytest.mark.parametrize(("count", "rows"), [(5, 2), (0, 1)])
def test_a_strip_wants_full_rows(count, rows):
    pictures = {str(n): np.zeros((4, 4, 3), np.uint8) for n in range(count)}
    with pytest.raises(InputError, match=f"{count} pictures do not fill {rows} rows"):
        viz.strip(pictures, rows=rows)


def test_a_cross_lies_in_the_middle_of_its_place():
    _, (axis,) = viz.strip({"": np.zeros((HEIGHT, WIDTH, 3), np.uint8)})
    viz.cross(axis, (1, 4), (4, 6))  # rows 6..11 and columns 24..29
    for line in axis.get_lines():
        assert line.get_xdata() == pytest.approx([26.5])
        assert line.get_ydata() == pytest.approx([8.5])
    assert [line.get_color() for line in axis.get_lines()] == ["black", "white"]


# error_map


def test_error_map_colors_every_kind_of_pixel():
    target = box(5, 15, 8, 20)
    target[20:] = 255
    prediction = box(10, 24, 8, 20)
    drawn = viz.error_map(picture(0), prediction, target)
    share = viz.STRENGTH
    assert np.array_equal(drawn[12, 10], as_bytes(share * BLUE))
    assert np.array_equal(drawn[6, 10], as_bytes(share * YELLOW))
    assert np.array_equal(drawn[17, 10], as_bytes(share * VERMILION))
    assert np.array_equal(drawn[0, 0], [0, 0, 0])
    ignored = drawn[20:].reshape(-1, 3)
    assert {tuple(p) for p in ignored.tolist()} == {
        tuple(as_bytes([grey] * 3).tolist()) for grey in viz.IGNORED_STRIPES
    }
    counts = {
        name: (drawn == as_bytes(share * color)).all(-1).sum()
        for name, color in [("hit", BLUE), ("miss", YELLOW), ("false alarm", VERMILION)]
    }
    assert counts == {"hit": 5 * 12, "miss": 5 * 12, "false alarm": 5 * 12}


def test_error_map_keeps_the_picture_in_grey():
    red = torch.stack([torch.ones(HEIGHT, WIDTH), *torch.zeros(2, HEIGHT, WIDTH)])
    drawn = viz.error_map(red, box(0, 0, 0, 0), box(0, 0, 0, 0))
    assert (drawn == round(255 * 0.6 * 0.299)).all()


def test_legend_names_the_colors_of_the_error_map():
    handles = {patch.get_label(): patch for patch in viz.error_legend()}
    assert list(handles) == ["hit", "miss", "false alarm", "ignored"]
    for name, color in [("hit", BLUE), ("miss", YELLOW), ("false alarm", VERMILION)]:
        assert np.allclose(handles[name].get_facecolor()[:3], color)
    assert handles["ignored"].get_hatch()


# Severe cases of Machado, Oliveira and Fernandes (2009), on linear RGB.
COLOR_BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("kind", COLOR_BLINDNESS)
def test_error_colors_are_told_apart_with_every_color_vision(kind):
    from skimage.color import deltaE_ciede2000, rgb2lab

    def seen(color):
        linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
        linear = np.clip(np.array(COLOR_BLINDNESS[kind]) @ linear, 0, 1)
        srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
        return rgb2lab(srgb[None, None])[0, 0]

    blue, yellow, vermilion = seen(BLUE), seen(YELLOW), seen(VERMILION)
    # red and green of equal lightness fall to about 10
    for pair in [(blue, yellow), (blue, vermilion), (yellow, vermilion)]:
        assert deltaE_ciede2000(*pair) > 20


# Figures


@pytest.mark.parametrize(("shots", "head"), [(1, "support"), (3, "3 supports"), (5, "5 supports")])
def test_episode_panel_has_one_column_a_step(shots, head):
    figure = viz.episode_panel(*episode(shots=shots), title="a title")
    assert isinstance(figure, Figure)
    heads = [axis.get_title() for axis in figure.axes]
    assert heads == [head, "query", "truth", "prediction", "errors"]
    assert figure.get_suptitle() == "a title"
    _, query, truth, prediction, errors = pictures_of(figure)
    _, _, asked, target, predicted = episode()
    assert (query == 128).all()
    assert np.array_equal(truth, viz.outline(asked, target, viz.MISS))
    assert np.array_equal(prediction, viz.outline(asked, predicted, viz.FALSE_ALARM))
    assert np.array_equal(errors, viz.error_map(asked, predicted, target))


def test_episode_panel_shows_five_of_more_supports():
    support, masks, *rest = episode(shots=7)
    support = torch.stack([picture(n / 10) for n in range(7)])
    figure = viz.episode_panel(support, 0 * masks, *rest)
    assert figure.axes[0].get_title() == "5 of 7 supports"
    levels = set(np.unique(pictures_of(figure)[0]).tolist())
    assert levels == {*as_bytes(np.arange(5) / 10).tolist(), 255}


def test_episode_panel_draws_a_row_an_episode():
    figure = viz.episode_panel(*episode(batch=(3,), shots=2))
    assert len(pictures_of(figure)) == 15
    assert [axis.get_title() for axis in figure.axes[5:]] == [""] * 10


@pytest.mark.parametrize("ignored", [False, True])
def test_panel_legend_names_ignored_pixels_only_where_there_are_some(ignored):
    figure = viz.episode_panel(*episode(ignored=ignored))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["hit", "miss", "false alarm"] + ["ignored"] * ignored


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_nothing_in_a_panel_is_cut_off_or_overlaps(shots):
    figure = viz.episode_panel(*episode(batch=(2,), shots=shots, ignored=True), title="a title")
    figure.draw_without_rendering()
    page = figure.bbox
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    boxes += [figure.legends[0].get_window_extent()]
    for n, one in enumerate(boxes):
        assert page.x0 <= one.x0 and one.x1 <= page.x1
        assert page.y0 <= one.y0 and one.y1 <= page.y1
        assert not any(one.overlaps(other) for other in boxes[:n])
    assert sum(one.width for one in boxes[:5]) > 0.85 * page.width


def test_figures_draw_themselves_in_jupyter_and_leave_pyplot_alone():
    from matplotlib import pyplot

    figure = viz.episode_panel(*episode())
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == []


# Bad input


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (picture(0.5, (1, 3, HEIGHT, WIDTH)), r"\[1, 3, 24, 36\]"),
        (np.zeros((HEIGHT, WIDTH, 3)), r"float64 \[24, 36, 3\]"),
        (picture(-2.0), "not normalised"),
        (picture(200.0), "0..1"),
        (picture(float("nan")), "0..1"),
    ],
)
def test_other_pictures_are_refused(image, message):
    with pytest.raises(InputError, match=message):
        viz.outline(image, box(5, 15, 8, 20))


def test_other_maps_are_refused():
    mask = box(5, 15, 8, 20)
    with pytest.raises(InputError, match=r"mask is uint8 \[36, 24\]"):
        viz.outline(picture(), mask.T)
    with pytest.raises(InputError, match="prediction is float32"):
        viz.error_map(picture(), mask.float(), mask)
    with pytest.raises(InputError, match="finite map"):
        viz.overlay(picture(), torch.zeros(1, 4, 6))
    with pytest.raises(InputError, match="finite map"):
        viz.overlay(picture(), torch.full((4, 6), float("nan")))
    support, masks, *rest = episode()
    with pytest.raises(InputError, match=r"leading axis B; got .*\[1, 3, 24, 36\]"):
        viz.episode_panel(support[0], masks, *rest)
