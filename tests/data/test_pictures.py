"""Reading pictures and masks from disk, and letterboxing there and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from fss.data.dataset import to_tensor
from fss.data.pictures import (
    letterbox,
    letterbox_image,
    letterbox_mask,
    read_mask,
    read_pair,
    read_rgb,
    resize_labels,
    unletterbox,
)
from fss.errors import InputError

pytestmark = pytest.mark.numbers

HEIGHT, WIDTH = 6, 9
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
OBJECT = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)  # top left: both flips and a transpose show
OBJECT[1:4, 2:4] = 1


def save(path: Path, array: np.ndarray, mode: str | None = None, **options) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def save_indices(path: Path, indices: np.ndarray, palette: list[int]) -> Path:
    image = Image.new("P", indices.shape[::-1])
    image.putpalette(palette)
    image.putdata(indices.ravel().tolist())
    image.save(path)
    return path


def fails(function, path: Path, *needles: str) -> None:
    """The message is one line that names the file, and holds every needle."""
    with pytest.raises(InputError) as caught:
        function(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    for needle in needles:
        assert needle in message


# Pictures


def test_a_picture_as_a_network_takes_it():
    tensor = to_tensor(RGB[:, ::-1])
    assert tensor.shape == (3, HEIGHT, WIDTH) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert tensor[2, 1, 0].item() == pytest.approx(RGB[1, -1, 2] / 255)
    assert torch.equal((tensor * 255).round().permute(1, 2, 0), torch.from_numpy(RGB[:, ::-1].copy()).float())


def test_rgb_png_is_read_as_it_is(tmp_path):
    read = read_rgb(save(tmp_path / "a.png", RGB))
    assert read.dtype == np.uint8 and read.flags.writeable
    np.testing.assert_array_equal(read, RGB)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "bmp", "tif", "webp"])
def test_any_suffix_and_the_content_decides(tmp_path, suffix):
    flat = np.full((HEIGHT, WIDTH, 3), (200, 90, 30), dtype=np.uint8)
    read = read_rgb(save(tmp_path / f"a.{suffix}", flat))
    assert read.shape == flat.shape
    assert np.abs(read.astype(int) - flat).max() <= 4
    save(tmp_path / "b.png", RGB)
    (tmp_path / "b.png").rename(tmp_path / "b.jpg")
    np.testing.assert_array_equal(read_rgb(tmp_path / "b.jpg"), RGB)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, lambda a: np.rot90(a))],
)
def test_exif_orientation_is_applied(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.tif"
    Image.fromarray(RGB).save(path, exif=exif)
    np.testing.assert_array_equal(read_rgb(path), turn(RGB))


def test_grey_and_black_and_white(tmp_path):
    grey = RGB[..., 0]
    read = read_rgb(save(tmp_path / "grey.png", grey))
    np.testing.assert_array_equal(read, np.stack([grey] * 3, axis=2))
    bits = read_rgb(save(tmp_path / "bits.png", OBJECT.astype(bool)))
    np.testing.assert_array_equal(bits, np.stack([OBJECT * 255] * 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_span_the_whole_range(tmp_path, suffix):
    grey = np.tile(np.array([0, 128, 129, 257, 32896, 65535], dtype=np.uint16), (4, 1))
    read = read_rgb(save(tmp_path / f"a.{suffix}", grey))
    assert read.shape == (4, 6, 3)
    np.testing.assert_array_equal(read[0, :, 1], [0, 0, 1, 1, 128, 255])


def test_cmyk(tmp_path):
    ink = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    ink[..., 0] = 255  # cyan takes red away
    Image.frombytes("CMYK", (WIDTH, HEIGHT), ink.tobytes()).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = read_rgb(tmp_path / "a.jpg").reshape(-1, 3).mean(axis=0)
    assert red < 10 and green > 245 and blue > 245


def test_palette_picture_shows_its_colours(tmp_path):
    path = save_indices(tmp_path / "a.png", OBJECT, [10, 20, 30, 200, 150, 100])
    read = read_rgb(path)
    assert read[0, 0].tolist() == [10, 20, 30] and read[1, 2].tolist() == [200, 150, 100]


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_transparent_areas_are_white(tmp_path, kind):
    path = tmp_path / "a.png"
    if kind == "P":
        image = Image.new("P", (WIDTH, HEIGHT))
        image.putpalette([0, 0, 0, 60, 60, 60])
        image.putdata(OBJECT.ravel().tolist())
        image.save(path, transparency=0)
    else:
        colour = OBJECT * 60
        alpha = OBJECT * 255
        bands = [colour] * (len(kind) - 1) + [alpha]
        Image.merge(kind, [Image.fromarray(band) for band in bands]).save(path)
    read = read_rgb(path)
    assert read.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(read[..., 0], np.where(OBJECT, 60, 255))


def test_half_transparent_is_blended_with_white(tmp_path):
    Image.new("RGBA", (WIDTH, HEIGHT), (0, 100, 200, 51)).save(tmp_path / "a.png")
    assert read_rgb(tmp_path / "a.png")[2, 3].tolist() == [204, 224, 244]  # 1/5 of it


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_truncated_jpeg(tmp_path, keep):
    noise = RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    path = save(tmp_path / "a.jpg", noise)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    fails(read_rgb, path, "truncated", "save the file again")


def test_broken_png(tmp_path):
    path = save(tmp_path / "a.png", RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[60:4000] = bytes(3940)
    path.write_bytes(content)
    fails(read_rgb, path, "cannot be read")
    fails(read_mask, path, "cannot be read")


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_no_picture_at_all(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    fails(read_rgb, path, "is no picture", "convert it")


@pytest.mark.parametrize("factor", [1.1, 2.5])  # where pillow warns, and where it refuses
def test_a_picture_beyond_the_limit(tmp_path, monkeypatch, factor):
    path = save(tmp_path / "a.png", np.zeros((60, 90), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(60 * 90 / factor))
    fails(read_rgb, path, f"more than {int(60 * 90 / factor):,} pixels", "make it smaller")
    fails(read_mask, path, "make it smaller")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 90)
    assert read_rgb(path).shape == (60, 90, 3)


def test_missing_file_and_folder(tmp_path):
    fails(read_rgb, tmp_path / "none.jpg", "No such file", "correct the path")
    fails(read_mask, tmp_path, "cannot be read")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_animations_are_refused(tmp_path, suffix):
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    fails(read_rgb, path, "several frames", "on its own")


def test_a_phones_jpeg_with_a_preview_is_read(tmp_path):
    first, preview = (Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    red, _, blue = read_rgb(tmp_path / "a.jpg").reshape(-1, 3).mean(axis=0)
    assert red > 240 and blue < 20


def test_floating_point_pictures_are_refused(tmp_path):
    path = save(tmp_path / "a.tif", RGB[..., 0].astype(np.float32) / 255)
    fails(read_rgb, path, "8 bits")
    path = save(tmp_path / "b.tif", np.full((HEIGHT, WIDTH), 70000, dtype=np.int32))
    fails(read_rgb, path, "8 bits")


# Masks


@pytest.mark.parametrize("high", [1, 15, 127, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_two_values(tmp_path, high, channels):
    values = OBJECT * np.uint8(high)
    stored = values if channels == 1 else np.stack([values] * 3, axis=2)
    read = read_mask(save(tmp_path / "m.png", stored))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, OBJECT)


def test_black_and_white_and_sixteen_bits(tmp_path):
    np.testing.assert_array_equal(read_mask(save(tmp_path / "1.png", OBJECT.astype(bool))), OBJECT)
    deep = OBJECT.astype(np.uint16) * 65535
    np.testing.assert_array_equal(read_mask(save(tmp_path / "16.png", deep)), OBJECT)


@pytest.mark.parametrize("value", [1, 255])
def test_a_picture_full_of_object(tmp_path, value):
    full = np.full((HEIGHT, WIDTH), value, dtype=np.uint8)
    assert (read_mask(save(tmp_path / "m.png", full)) == 1).all()


def test_index_mask_keeps_ignore(tmp_path):
    labels = OBJECT.copy()
    labels[0] = 255
    np.testing.assert_array_equal(read_mask(save(tmp_path / "grey.png", labels)), labels)
    voc = [0, 0, 0, 128, 0, 0] + [0] * 253 * 3 + [224, 224, 192]
    np.testing.assert_array_equal(read_mask(save_indices(tmp_path / "p.png", labels, voc)), labels)


def test_palette_mask_is_read_by_index_not_by_colour(tmp_path):
    dark_red = [0, 0, 0, 10, 0, 0]  # convert("L") would make index 1 a 3, and 0 and 1 alike
    read = read_mask(save_indices(tmp_path / "1.png", OBJECT, dark_red))
    np.testing.assert_array_equal(read, OBJECT)
    alike = [90, 90, 90] * 256
    read = read_mask(save_indices(tmp_path / "255.png", OBJECT * np.uint8(255), alike))
    np.testing.assert_array_equal(read, OBJECT)
    read = read_mask(save_indices(tmp_path / "15.png", OBJECT * np.uint8(15), alike))
    np.testing.assert_array_equal(read, OBJECT)


def test_palette_that_contradicts_its_indices_is_refused(tmp_path):
    path = save_indices(tmp_path / "m.png", OBJECT, [255, 255, 255, 0, 0, 0])
    fails(read_mask, path, "index 0 lighter than index 1", "save it as grey")


@pytest.mark.parametrize("channels", [1, 3])
def test_soft_edges_are_cut_at_half_of_the_maximum(tmp_path, channels):
    values = OBJECT * np.uint8(240)
    values[0, 2], values[4, 2], values[2, 4], values[5, 8] = 121, 120, 60, 1
    stored = values if channels == 1 else np.stack([values] * 3, axis=2)
    expected = OBJECT.copy()
    expected[0, 2] = 1  # 121 is above half of 240, 120 is not
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", stored)), expected)


def test_object_shown_by_transparency(tmp_path):
    white = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    image = Image.merge("LA", [Image.fromarray(white), Image.fromarray(OBJECT * 255)])
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), OBJECT)


def test_no_object(tmp_path):
    fails(read_mask, save(tmp_path / "m.png", OBJECT * 0), "no object", "remove the pair")


def several(*values: int) -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[:4].flat[: 4 * len(values)] = np.repeat(values, 4)
    return labels


@pytest.mark.parametrize("values", [(1, 2), (1, 2, 3), (15, 1), (2, 3, 255)])
def test_class_numbers_are_refused(tmp_path, values):
    labels = several(*values)
    shown = ", ".join(map(str, sorted({0, *values})))
    for path in (
        save(tmp_path / "grey.png", labels),
        save_indices(tmp_path / "p.png", labels, list(range(256)) * 3),
    ):
        fails(read_mask, path, f"values {shown},", "0 = background, 1 = object, 255 = ignore")


def test_class_number_with_a_border_is_no_soft_edge(tmp_path):
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[1:5, 1:8], labels[1, 1:8] = 15, 255  # thresholded, the border would be the object
    fails(read_mask, save(tmp_path / "m.png", labels), "0, 15, 255")


def test_soft_palette_and_no_background_are_refused(tmp_path):
    grey = [level for level in range(256) for _ in range(3)]
    fails(read_mask, save_indices(tmp_path / "p.png", several(128, 255, 255), grey), "128")
    fails(read_mask, save(tmp_path / "m.png", OBJECT + np.uint8(1)), "1, 2")


def test_coloured_and_floating_masks_are_refused(tmp_path):
    red = np.stack([OBJECT * 255, OBJECT * 0, OBJECT * 0], axis=2)
    red[0, 0] = 0, 255, 0
    fails(read_mask, save(tmp_path / "m.png", red), "coloured", "save it as grey")
    fails(read_mask, save(tmp_path / "m.tif", OBJECT.astype(np.float32)), "floating-point")


# Pairs


def test_black_and_one_colour_is_one_object(tmp_path):
    """As CVAT writes a set with one label; with two colours nothing says which is meant."""
    inside = np.zeros((9, 6), bool)
    inside[2:5, 1:4] = True
    coloured = np.where(inside[..., None], (250, 50, 83), 0).astype(np.uint8)
    Image.fromarray(coloured).save(tmp_path / "1.png")
    assert np.array_equal(read_mask(tmp_path / "1.png"), inside)
    coloured[7, 5] = 50, 250, 83
    Image.fromarray(coloured).save(tmp_path / "1.png")
    with pytest.raises(InputError, match="is coloured .* several classes are read by semantic:PATH"):
        read_mask(tmp_path / "1.png")


def test_a_mask_that_was_a_jpeg_is_no_mask_of_specks(tmp_path):
    """JPEGs of quality 100 hold 0, 1 and 255 alone now and then: 1 in specks, 255 where the object is."""
    values = np.zeros((30, 40), np.uint8)
    values[8:20, 10:25] = 255
    values[7, 10:13] = values[20:22, 23:25] = 1
    Image.fromarray(values).save(tmp_path / "1.png")
    with pytest.raises(InputError, match="specks of 1 and areas of 255, as a JPEG makes"):
        read_mask(tmp_path / "1.png")
    values[10:13, 12:15] = 1  # an object within what nobody knows
    Image.fromarray(values).save(tmp_path / "1.png")
    assert np.array_equal(read_mask(tmp_path / "1.png"), values)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_as_its_picture(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = np.zeros((24, 32, 3), np.uint8)
    picture[4:10, 5:20] = 255
    Image.fromarray(picture).save(tmp_path / "1.tif", exif=exif)
    Image.fromarray(picture[..., 0]).save(tmp_path / "1.png", exif=exif)
    image, mask = read_pair(tmp_path / "1.tif", tmp_path / "1.png")
    assert np.array_equal(mask == 1, image[..., 0] == 255) and mask.sum() == 90


def test_pair(tmp_path):
    image, mask = read_pair(save(tmp_path / "1.bmp", RGB), save(tmp_path / "1.png", OBJECT * 255))
    np.testing.assert_array_equal(image, RGB)
    np.testing.assert_array_equal(mask, OBJECT)


def test_pair_of_two_sizes(tmp_path):
    picture = save(tmp_path / "1.bmp", RGB)
    mask = save(tmp_path / "1.png", OBJECT[:5])
    fails(lambda path: read_pair(picture, path), mask, "9 x 5", "1.bmp 9 x 6", "picture's size")


def test_mask_of_a_turned_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = tmp_path / "1.jpg"
    Image.fromarray(RGB).save(picture, exif=exif)
    mask = save(tmp_path / "1.png", OBJECT)
    fails(lambda path: read_pair(picture, path), mask, "9 x 6", "6 x 9", "EXIF")
    assert read_pair(picture, save(mask, np.rot90(OBJECT, -1).copy()))[0].shape == (9, 6, 3)


# Letterbox


def test_letterbox_by_hand():
    image = np.zeros((2, 4, 3), dtype=np.uint8)
    image[:, 2:] = 200
    mask = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], dtype=np.uint8)
    square, labels = letterbox(image, mask, 8)
    assert square.shape == (8, 8, 3) and square.dtype == labels.dtype == np.uint8
    assert (square[:2] == 127).all() and (square[6:] == 127).all()
    assert square[3, 0, 0] == 0 and square[3, 7, 0] == 200
    padding = [[255] * 8] * 2
    assert labels.tolist() == [*padding, *[[0] * 4 + [1] * 4] * 4, *padding]
    tall, upright = letterbox(image.transpose(1, 0, 2), mask.T, 8)
    np.testing.assert_array_equal(tall, square.transpose(1, 0, 2))
    np.testing.assert_array_equal(upright, labels.T)


def test_letterbox_of_the_same_size_changes_nothing():
    image, mask = RGB[:, :HEIGHT].copy(), OBJECT[:, :HEIGHT].copy()
    mask[0, 0] = 255
    square, labels = letterbox(image, mask, HEIGHT)
    np.testing.assert_array_equal(square, image)
    np.testing.assert_array_equal(labels, mask)


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 32, 3), dtype=np.uint8)
    stripes[::2] = 255
    inner = letterbox_image(stripes, 16)[2:14, 5:11]
    assert np.abs(inner.astype(int) - 127).max() <= 2


def test_resized_labels_take_the_majority():
    labels = np.zeros((8, 12), dtype=np.uint8)
    labels[:, 8:] = 255
    labels[:, 3:8] = 1  # three quarters of columns 2-3 are not it: the edge lies at 1.5 of 6
    resized = resize_labels(labels, 4, 6)
    np.testing.assert_array_equal(resized[0, 2:], [1, 1, 255, 255])
    assert resized[0, 0] == 0 and set(np.unique(resized)) == {0, 1, 255}


@pytest.mark.parametrize("other", [0, 255])
def test_a_tiny_object_survives_where_it_is(other):
    labels = np.full((300, 500), other, dtype=np.uint8)
    labels[200, 400] = 1
    small = letterbox_mask(labels, 50)
    assert np.argwhere(small == 1).tolist() == [[10 + 20, 40]]


def test_extreme_aspect_keeps_a_row():
    labels = letterbox_mask(np.ones((2, 900), dtype=np.uint8), 32)
    assert (labels == 1).sum() == 32 and (labels == 255).sum() == 31 * 32


@given(
    height=st.integers(3, 60),
    width=st.integers(3, 60),
    size=st.integers(32, 48),
    seed=st.integers(0, 2**16),
)
def test_there_and_back(height, width, size, seed):
    rng = np.random.default_rng(seed)
    (top, bottom), (left, right) = (sorted(rng.choice(side + 1, 2, replace=False)) for side in (height, width))
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    square = letterbox_mask(mask, size)
    assert square.shape == (size, size) and (square == 1).any()
    padding = letterbox_image(np.zeros((height, width, 3), dtype=np.uint8), size)[..., 0] == 127
    np.testing.assert_array_equal(square == 255, padding)  # picture and mask lie alike

    back = unletterbox(square, (height, width))
    assert back.shape == mask.shape and back.dtype == np.uint8
    assert set(np.unique(back)) <= {0, 1}
    # Each edge moves by less than a pixel of the coarser grid, here 60 / 32 < 2.
    away = np.argwhere(back != mask)
    if len(away):
        edges_y, edges_x = np.array([top, bottom]), np.array([left, right])
        off = np.minimum(
            np.abs(away[:, :1] + 0.5 - edges_y).min(axis=1),
            np.abs(away[:, 1:] + 0.5 - edges_x).min(axis=1),
        )
        assert off.max() < 2


def test_back_is_exact_where_nothing_shrank():
    mask = np.zeros((30, 17), dtype=np.uint8)
    mask[4:20, 3:9] = 1
    np.testing.assert_array_equal(unletterbox(letterbox_mask(mask, 90), mask.shape), mask)
