"""Strokes to masks, undo, and what may be uploaded: without a browser."""

import io

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image
from processes import Fss

from fss.data.pictures import read_rgb
from fss.errors import InputError
from fss.explorer.paint import LARGEST, SMALLEST, TOOLS, UNDOS, Canvas, Stroke, Upload, canvases_in, save_canvases

HEIGHT, WIDTH = 24, 40
RNG = np.random.default_rng(0)


def photo(height=HEIGHT, width=WIDTH):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def canvas():
    return Canvas(photo())


def encoded(image, form="PNG", name=None, **options):
    content = io.BytesIO()
    image.save(content, format=form, **options)
    return Upload(name or f"cat.{form.lower()}", content.getvalue())


# Strokes


def test_brush_paints_a_disc():
    drawn = canvas()
    drawn.paint(Stroke("brush", [(10, 20)], radius=4))
    rows, cols = np.indices(drawn.mask.shape)
    away = np.hypot(rows - 10, cols - 20)
    assert drawn.mask[away <= 3.5].all() and not drawn.mask[away > 5].any()


def test_brush_paints_along_its_way_without_gaps():
    drawn = canvas()
    drawn.paint(Stroke("brush", [(5, 5), (5, 35), (20, 35)], radius=2))
    assert drawn.mask[5, 5:36].all() and drawn.mask[5:21, 35].all()
    assert not drawn.mask[10:, :30].any()


def test_eraser_takes_away():
    drawn = canvas()
    drawn.paint(Stroke("box", [(0, 0), (23, 39)]))
    drawn.paint(Stroke("eraser", [(12, 20)], radius=3))
    assert drawn.mask[12, 20] == 0 and drawn.mask[12, 30] == 1


@pytest.mark.parametrize("corners", [[(4, 6), (9, 15)], [(9, 15), (4, 6)], [(4, 15), (0, 0), (9, 6)]])
def test_box_between_any_two_corners(corners):
    drawn = canvas()
    drawn.paint(Stroke("box", corners))
    expected = np.zeros_like(drawn.mask)
    expected[4:10, 6:16] = 1
    assert np.array_equal(drawn.mask, expected)


def test_polygon_is_filled():
    drawn = canvas()
    drawn.paint(Stroke("polygon", [(2, 2), (2, 30), (20, 2)]))
    assert drawn.mask[3, 3] and drawn.mask[10, 8] and not drawn.mask[18, 25]


def test_a_box_may_begin_outside():
    drawn = canvas()
    drawn.paint(Stroke("box", [(-50, -50), (5, 5)]))
    assert drawn.mask.sum() == 36


strokes = st.builds(
    Stroke,
    st.sampled_from(TOOLS),
    st.lists(st.tuples(st.floats(-20, 50), st.floats(-20, 60)), min_size=3, max_size=6),
    st.floats(0, 20),
)


@given(st.lists(st.one_of(strokes, st.just("clear")), max_size=6), st.integers(0, 8))
def test_undo_is_as_if_the_last_steps_had_never_been(steps, back):
    def after(steps):
        drawn = Canvas(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        for step in steps:
            drawn.clear() if step == "clear" else drawn.paint(step)
        return drawn

    def lies_inside(step):
        try:
            after([step])
        except InputError:
            return False
        return True

    steps = [step for step in steps if step == "clear" or lies_inside(step)]
    drawn, back = after(steps), min(back, len(steps))
    for _ in range(back):
        drawn.undo()
    assert np.array_equal(drawn.mask, after(steps[: len(steps) - back]).mask)
    assert set(np.unique(drawn.mask)) <= {0, 1}


def test_clear_can_be_undone_and_undo_has_an_end():
    drawn = canvas()
    drawn.paint(Stroke("box", [(1, 1), (3, 3)]))
    drawn.clear()
    assert not drawn.mask.any()
    drawn.undo()
    assert drawn.mask.sum() == 9
    drawn.undo()
    with pytest.raises(InputError, match="nothing to undo"):
        drawn.undo()


def test_a_hundred_steps_can_be_undone():
    drawn = canvas()
    for n in range(UNDOS + 2):
        drawn.paint(Stroke("box", [(0, 0), (1, n % WIDTH)]))
    for _ in range(UNDOS):
        drawn.undo()
    assert drawn.mask.sum() == 4  # what the first two painted
    with pytest.raises(InputError, match="nothing to undo"):
        drawn.undo()


@pytest.mark.parametrize(
    ("tool", "points", "radius", "said"),
    [
        ("brsh", [(1, 1)], 8, "did you mean 'brush'"),
        ("brush", [], 8, "at least 1 points"),
        ("box", [(1, 1)], 8, "box needs at least 2"),
        ("polygon", [(1, 1), (2, 2)], 8, "polygon needs at least 3"),
        ("brush", [(1, float("nan"))], 8, "finite"),
        ("brush", [(1, 1, 1)], 8, "finite"),
        ("brush", [(1, 1)], -1, "radius"),
        ("brush", [(1, 1)], 1e9, "radius"),
    ],
)
def test_strokes_that_say_nothing(tool, points, radius, said):
    with pytest.raises(InputError, match=said):
        Stroke(tool, points, radius)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_stroke_outside_the_picture_is_a_clear_line(tool):
    drawn = canvas()
    with pytest.raises(InputError, match="outside the picture"):
        drawn.paint(Stroke(tool, [(90, 90), (95, 90), (95, 99)], radius=3))
    with pytest.raises(InputError, match="nothing to undo"):
        drawn.undo()


def test_render_shows_mask_and_picture():
    drawn = canvas()
    plain = drawn.render()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(plain))), drawn.image)
    drawn.paint(Stroke("box", [(4, 6), (19, 25)]))
    shown = np.asarray(Image.open(io.BytesIO(drawn.render())))
    assert np.array_equal(shown[:4], drawn.image[:4])
    assert not (shown[4:20, 6:26] == drawn.image[4:20, 6:26]).all(-1).any()


# Pictures that are uploaded


@pytest.mark.parametrize("kind", ["L", "RGBA", "CMYK", "P", "I;16"])
def test_any_kind_of_picture_becomes_rgb(kind):
    image = Image.fromarray(photo())
    if kind == "I;16":
        upload = encoded(Image.fromarray(photo()[..., 0].astype(np.uint16) * 257))
    else:
        upload = encoded(image.convert(kind), "TIFF" if kind == "CMYK" else "PNG")
    read = Canvas.read(upload)
    assert read.image.shape == (HEIGHT, WIDTH, 3) and read.image.dtype == np.uint8
    assert read.name == upload.name


def test_a_photograph_on_its_side_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    upload = encoded(Image.fromarray(photo()), "JPEG", exif=exif)
    assert Canvas.read(upload).image.shape == (WIDTH, HEIGHT, 3)


def test_a_large_picture_is_shrunk_and_takes_a_mask_of_its_own_size():
    read = Canvas.read(encoded(Image.new("RGB", (8000, 400), "red"), compress_level=1))
    assert read.image.shape == (51, LARGEST, 3) and read.original == (400, 8000)
    mask = np.zeros((400, 8000), np.uint8)
    mask[:200, :4000] = 255
    read.load(encoded(Image.fromarray(mask)))
    assert read.mask[:25, : LARGEST // 2].all()
    assert read.mask.mean() == pytest.approx(0.25, abs=0.01)


def test_a_picture_of_one_pixel_is_refused():
    with pytest.raises(InputError, match=rf"dot.png is 1 x 1 pixels; .* {SMALLEST} x {SMALLEST}"):
        Canvas.read(encoded(Image.new("RGB", (1, 1)), name="dot.png"))


def test_an_animation_is_refused():
    frames = [Image.fromarray(photo()) for _ in range(2)]
    upload = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="^cat.gif holds several frames"):
        Canvas.read(upload)


@pytest.mark.parametrize("content", [b"", b"no picture", encoded(Image.new("RGB", (99, 99))).getvalue()[:80]])
def test_an_upload_that_is_no_picture_is_refused_by_its_name(content):
    with pytest.raises(InputError, match="^notes.png "):
        Canvas.read(Upload("notes.png", content))


def test_an_upload_reads_as_its_file(tmp_path):
    upload = encoded(Image.fromarray(photo()))
    (tmp_path / "a.png").write_bytes(upload.getvalue())
    assert np.array_equal(read_rgb(upload), read_rgb(tmp_path / "a.png"))


# Masks that are loaded


def test_a_loaded_mask_replaces_what_was_painted_and_can_be_undone():
    drawn = canvas()
    drawn.paint(Stroke("box", [(0, 0), (3, 3)]))
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[10:, 5:] = 255
    drawn.load(encoded(Image.fromarray(labels)))
    assert np.array_equal(drawn.mask, labels // 255)
    drawn.undo()
    assert drawn.mask.sum() == 16


def test_masks_that_do_not_fit():
    drawn = canvas()
    with pytest.raises(InputError, match="mask m.png is 24 x 40 pixels, its picture .* 40 x 24"):
        drawn.load(encoded(Image.fromarray(np.eye(40, 24, dtype=np.uint8)), name="m.png"))
    with pytest.raises(InputError, match="mask m.png marks no object"):
        drawn.load(encoded(Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)), name="m.png"))


def test_an_empty_and_a_full_mask_are_told():
    drawn = canvas()
    with pytest.raises(InputError, match="the mask of the picture is empty"):
        drawn.check()
    drawn.paint(Stroke("box", [(-1, -1), (99, 99)]))
    with pytest.raises(InputError, match="covers all of it"):
        drawn.check()
    drawn.paint(Stroke("eraser", [(0, 0)], radius=2))
    drawn.check()


# Folders


def painted(n):
    drawn = canvas()
    drawn.paint(Stroke("box", [(3, 3), (12, 9 + n)]))
    return drawn


def test_saved_is_read_back(tmp_path):
    first = save_canvases(tmp_path, "it's a cup", [painted(0), painted(1)])
    assert [path.name for path in first] == ["1.jpg", "2.jpg"]
    assert [path.name for path in save_canvases(tmp_path, "it's a cup", [painted(2)])] == ["3.jpg"]
    back = canvases_in(tmp_path / "it's a cup")
    assert [np.array_equal(c.mask, painted(n).mask) for n, c in enumerate(back)] == [True] * 3


def test_what_is_saved_again_is_not_there_twice(tmp_path):
    canvases = [painted(0), painted(1)]
    save_canvases(tmp_path, "cup", canvases)
    pictures = {path: path.read_bytes() for path in (tmp_path / "cup").glob("*.jpg")}
    kept = (tmp_path / "cup" / "2.png").stat().st_mtime_ns
    canvases[0].paint(Stroke("box", [(0, 0), (20, 30)]))
    saved = save_canvases(tmp_path, "cup", [*canvases, painted(2)])
    assert [path.name for path in saved] == ["1.jpg", "2.jpg", "3.jpg"]
    assert len(list((tmp_path / "cup").iterdir())) == 6
    assert all(path.read_bytes() == content for path, content in pictures.items())
    assert (tmp_path / "cup" / "2.png").stat().st_mtime_ns == kept
    back = canvases_in(tmp_path / "cup")
    assert np.array_equal(back[0].mask, canvases[0].mask)
    assert [path.name for path in save_canvases(tmp_path, "pot", canvases)] == ["1.jpg", "2.jpg"]
    (tmp_path / "cup" / "2.jpg").unlink()
    assert save_canvases(tmp_path, "cup", back)[1].name == "4.jpg"


def test_a_mended_mask_goes_back_beside_its_picture(tmp_path):
    """Also beside a picture that is larger than it is painted on."""
    height, width = LARGEST // 2, 2 * LARGEST
    large = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = np.zeros((height, width), np.uint8)
    labels[:100, :200] = 255
    Image.fromarray(large).save(tmp_path / "photo.jpeg")
    Image.fromarray(labels).save(tmp_path / "photo.png")
    Image.fromarray(photo()).save(tmp_path / "unlabelled.jpg")
    before = (tmp_path / "photo.jpeg").read_bytes()
    canvases = canvases_in(tmp_path)
    canvases[0].paint(Stroke("box", [(50, 0), (99, LARGEST // 2 - 1)]))
    canvases[1].paint(Stroke("box", [(3, 3), (12, 9)]))
    saved = save_canvases(tmp_path.parent, tmp_path.name, canvases)
    assert [path.name for path in saved] == ["photo.jpeg", "unlabelled.jpg"]
    assert (tmp_path / "photo.jpeg").read_bytes() == before
    mask = np.asarray(Image.open(tmp_path / "photo.png"))
    assert mask.shape == (height, width)
    assert mask[:100, :200].all() and mask[100:198, :1000].all() and not mask[210:].any()
    assert np.array_equal(canvases_in(tmp_path)[1].mask, canvases[1].mask)
    assert len(list(tmp_path.iterdir())) == 4


def test_canvases_of_pictures_without_masks(tmp_path):
    Image.fromarray(photo()).save(tmp_path / "b.jpg")
    Image.fromarray(photo()).save(tmp_path / "a.jpeg")
    (tmp_path / "notes.txt").write_text("x")
    found = canvases_in(tmp_path)
    assert [c.name for c in found] == ["a.jpeg", "b.jpg"] and not found[0].mask.any()


def test_bad_folders_and_names(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        canvases_in(tmp_path / "nothing")
    with pytest.raises(InputError, match="no pictures in"):
        canvases_in(tmp_path)
    for name in ("", " ", "a/b", "..", ".hidden"):
        with pytest.raises(InputError, match="use a plain word"):
            save_canvases(tmp_path, name, [painted(0)])
    with pytest.raises(InputError, match="no labelled picture"):
        save_canvases(tmp_path, "cup", [])
    with pytest.raises(InputError, match="is empty"):
        save_canvases(tmp_path, "cup", [painted(0), canvas()])
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        save_canvases(tmp_path / "file", "cup", [painted(0)])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_commands_take_what_was_saved(tmp_path):
    for name in ("cup", "pot", "jug"):
        save_canvases(tmp_path / "mine", name, [painted(n) for n in range(3)])
    data = ["--data", f"folder:{tmp_path / 'mine'}"]
    small = ["steps=1", "size=32", "val_every=1", "val_episodes=1", "channels=8"]
    out = ["--out", tmp_path / "run", "--arm", "base", "--set", *small]
    train = Fss("train", *data, *out, folder=tmp_path)
    assert train.end() == 0, train.err
    test = Fss("eval", *data, "--checkpoint", tmp_path / "run", "--episodes", "2", folder=tmp_path)
    assert test.end() == 0, test.err
