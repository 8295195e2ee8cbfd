"""Pictures with masks of several classes: three ways to name labels, splits, what counts, what is shown."""

import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import Fss
from voc import HALVES, HEIGHT, LARGE, SMALL, WIDTH, labels, write

from fss.config import DataConfig
from fss.data import open_dataset, open_whole
from fss.data.indexed import read_indices
from fss.data.pictures import letterbox_mask
from fss.episodes import EpisodeStream
from fss.errors import InputError

SIZE = 64
NAMES = ("ant", "bee", "cat", "dog", "elk")
BOXES = {
    "a1": {1: LARGE},
    "b1": {2: LARGE},
    "b2": {2: SMALL},
    "cd": {3: HALVES[0], 4: HALVES[1]},
    "ed": {5: LARGE, 4: (2, 0, 1, 1)},
}
MASKS = {name: labels(boxes) for name, boxes in BOXES.items()}
COLOURS = np.array([(0, 0, 0), (250, 0, 0), (0, 250, 0), (0, 0, 250), (9, 9, 9), (250, 250, 0)], np.uint8)
VOID = (224, 224, 192)


def add(
    root: Path, name: str, mask: np.ndarray, folders: tuple[str, str] = ("images", "masks"), mark: str = ""
) -> None:
    """Write a picture and its mask of labels, or of colours."""
    images, masks = (root / folder for folder in folders)
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    picture = np.full((*mask.shape[:2], 3), 99, np.uint8)
    picture[: len(mask) // 2] = 160
    Image.fromarray(picture).save(images / f"{name}.jpg")
    Image.fromarray(mask).save(masks / f"{name}{mark}.png")


def painted(mask: np.ndarray) -> np.ndarray:
    return np.where((mask == 255)[..., None], np.uint8(VOID), COLOURS[mask % 255])


@pytest.fixture
def tree(tmp_path) -> Path:
    """Five classes, in whose lists `cat` and `dog` are for the test; a picture of `elk` shows a pixel of `dog`."""
    root = tmp_path / "own"
    for name, mask in MASKS.items():
        add(root, name, mask)
    write(root / "classes.txt", NAMES)
    fold(root, 0, train=["ant", "elk"], val=["bee"], test=["cat", "dog"])
    return root


def fold(root: Path, number: int, **lists: list[str]) -> None:
    for split, names in lists.items():
        write(root / "folds" / str(number) / f"{split}.txt", names)


def opened(root: Path, split: str = "test", fold: int | None = 0, **options):
    options = {"min_pixels": 1, **options}
    return open_dataset(f"semantic:{root}", split=split, fold=fold, size=SIZE, options=DataConfig(**options))


def fails(root: Path, *needles: str, split: str = "test", fold: int = 0, **options) -> None:
    with pytest.raises(InputError) as caught:
        opened(root, split, fold, **options)
    message = str(caught.value)
    assert "\n" not in message
    for needle in needles:
        assert needle in message


# Layouts


def test_a_class_of_a_mask(tree):
    data = opened(tree)
    assert (data.classes, data.fold) == (("cat", "dog"), 0)
    assert data.images == {"cat": ("cd.jpg",), "dog": ("cd.jpg", "ed.jpg")}
    own = np.where(MASKS["cd"] == 255, 255, MASKS["cd"] == 3).astype(np.uint8)
    assert (own == 255).any() and (own == 1).sum() == HALVES[0][2] * HALVES[0][3]
    np.testing.assert_array_equal(data.reader.own_mask("cat", "cd.jpg"), own)
    image, mask = data.read("cat", "cd.jpg")
    assert image.shape == (3, SIZE, SIZE)
    np.testing.assert_array_equal(mask.numpy(), letterbox_mask(own, SIZE))
    assert pickle.loads(pickle.dumps(data.reader)) == data.reader


@pytest.mark.parametrize("masks", ["masks", "labels", "annotations"])
@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_masks_of_labels(tmp_path, masks, mode):
    """In greys or a palette's indices, whatever the folder is called."""
    write(tmp_path / "classes.txt", NAMES)
    for name, mask in MASKS.items():
        add(tmp_path, name, mask, ("images", masks))
        image = Image.fromarray(mask)
        if mode == "P":
            image.putpalette([7] * 768)
        (image.convert("RGB") if mode == "RGB" else image).save(tmp_path / masks / f"{name}.png")
    reader = opened(tmp_path, "train").reader
    for name, mask in MASKS.items():
        np.testing.assert_array_equal(reader.labels(f"{name}.jpg"), mask)


@pytest.mark.parametrize("bits", [2, 4])
def test_greys_of_few_bits_are_labels_as_they_are_stored(tmp_path, bits):
    """Pillow multiplies them, so that label 1 would read as 85 or 17."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, : WIDTH // 2], mask[:9, -9:] = 1, 3
    binary = ((mask[..., None] >> np.arange(bits)[::-1]) & 1).reshape(HEIGHT, -1)
    rows = np.pad(np.packbits(binary, axis=1), ((0, 0), (1, 0)))  # each begins with its filter, none
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 0, 0, 0, 0),
        b"IDAT": zlib.compress(rows.tobytes()),
        b"IEND": b"",
    }
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks.items())
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    np.testing.assert_array_equal(read_indices(tmp_path / "mask.png", []), mask)


@pytest.mark.parametrize("folders", [("images", "masks"), ("JPEGImages", "SegmentationClass")])
@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_masks_of_cvats_colours(tmp_path, folders, mode):
    """`ignored` is void, whichever line it stands in."""
    colours = [",".join(map(str, colour.tolist())) for colour in COLOURS]
    lines = [f"{name}:{colour}::" for name, colour in zip(("background", *NAMES), colours, strict=True)]
    header = "# label:color_rgb:parts:actions"
    write(tmp_path / "labelmap.txt", [header, *lines, f"ignored:{','.join(map(str, VOID))}::"])
    for name, mask in MASKS.items():
        add(tmp_path, name, mask if mode == "L" else painted(mask), folders)
        if mode == "P":
            path = tmp_path / folders[1] / f"{name}.png"
            Image.open(path).quantize(8).save(path)
    data = opened(tmp_path, "train")
    for name, mask in MASKS.items():
        np.testing.assert_array_equal(data.reader.labels(f"{name}.jpg"), mask)
    assert [name for _, name in data.reader.legend.names] == [*NAMES]
    first = data.fingerprint()
    write(
        tmp_path / "labelmap.txt",
        [header, *lines[:1], *lines[2:], *lines[1:2], f"ignored:{','.join(map(str, VOID))}::"],
    )
    assert opened(tmp_path, "train").fingerprint() != first, "the same files, other labels"


@pytest.mark.parametrize("parts", [("",), ("train", "valid")])
def test_roboflows_masks_beside_the_pictures(tmp_path, parts):
    """Of one folder, or of the splits of an export: the classes are split, not the pictures."""
    for part in parts:
        for name, mask in MASKS.items():
            add(tmp_path / part, name, mask, ("", ""), "_mask")
        table = ["Pixel Value, Class", " 0, background", *(f" {n}, {name}" for n, name in enumerate(NAMES, 1))]
        write(tmp_path / part / "_classes.csv", table)
    data = opened(tmp_path, lists=str(listed(tmp_path / "lists")))
    prefixes = [f"{part}/" if part else "" for part in parts]
    assert data.images["cat"] == tuple(f"{prefix}cd.jpg" for prefix in prefixes)
    for prefix in prefixes:
        np.testing.assert_array_equal(data.reader.labels(f"{prefix}cd.jpg"), MASKS["cd"])
    if parts[1:]:
        write(tmp_path / "valid" / "_classes.csv", table[:-1])
        fails(tmp_path, "_classes.csv", "differ")


def listed(folder: Path, **lists: list[str]) -> Path:
    for split, names in (lists or {"train": ["ant", "elk"], "val": ["bee"], "test": ["cat", "dog"]}).items():
        write(folder / f"{split}.txt", names)
    return folder


def test_a_first_line_that_names_the_background(tree):
    write(tree / "classes.txt", ["background", *NAMES])
    assert opened(tree).images["cat"] == ("cd.jpg",)


# Splits


def test_folds(tree):
    fold(tree, 2, train=["cat"], val=["dog"], test=["ant"])
    for number, expected in ((None, "cat dog"), (0, "cat dog"), (2, "ant")):
        data = opened(tree, fold=number)
        assert (" ".join(data.classes), data.fold) == (expected, number or 0)
    assert opened(tree, "train").classes == ("ant", "elk") and opened(tree, "val").classes == ("bee",)
    fails(tree, "no fold 1 in", "choose among 0, 2", fold=1)


def test_lists_that_are_asked_for_go_before_folds(tree, tmp_path):
    data = opened(tree, lists=str(listed(tmp_path / "lists", test=["bee"], train=["cat"])))
    assert (data.classes, data.fold) == (("bee",), None)
    data = opened(tree, lists=str(tmp_path / "lists"), classes="bee")
    assert data.all_classes == ("bee",)


def test_without_lists_the_classes_are_shared_out(tree):
    for path in (tree / "folds" / "0").iterdir():
        path.unlink()
    fails(tree, "no lists of classes in")
    (tree / "folds" / "0").rmdir()
    (tree / "folds").rmdir()
    splits = {split: opened(tree, split) for split in ("train", "val", "test")}
    assert {split: data.classes for split, data in splits.items()} == {
        "train": ("bee", "cat"),
        "val": ("ant",),
        "test": ("dog", "elk"),
    }
    for split, data in splits.items():
        assert any(f"no list of the {split} classes, so they are a fixed share" in note for note in data.notes)
        assert data.fold is None


# What counts


def test_pixels_that_count(tree):
    assert opened(tree, "val", min_pixels=None).images["bee"] == ("b1.jpg",)
    for least, expected in ((600, ("b1.jpg", "b2.jpg")), (601, ("b1.jpg",)), (2401, ())):
        assert opened(tree, "val", min_pixels=least).images["bee"] == expected
    rows, cols = 16, 64  # 1,024 px, whatever the picture's size
    add(tree, "b3", labels({2: (10, 10, rows, cols)}))
    assert opened(tree, "val", min_pixels=None).images["bee"] == ("b1.jpg", "b3.jpg")


def test_training_pictures_that_show_a_test_class(tree):
    """A single pixel of `dog` is enough, whatever counts; `bee`, of the validation, does no harm."""
    add(tree, "ab", labels({1: LARGE, 2: (2, 0, 1, 1)}))
    for novel, pictures in (("background", ("ed.jpg",)), ("drop", ())):
        for least in (1, None):
            data = opened(tree, "train", novel=novel, min_pixels=least)
            assert data.images == {"ant": ("a1.jpg", "ab.jpg"), "elk": pictures}
    assert opened(tree, novel="drop").images["dog"] == ("cd.jpg", "ed.jpg"), "the test keeps its own"
    mask = opened(tree, "train").reader.own_mask("elk", "ed.jpg")
    assert mask[2, 0] == 0 and (mask == 1).sum() == LARGE[2] * LARGE[3]


# What a picture shows


def test_what_else_a_picture_shows(tree):
    reader = opened(tree).reader
    assert reader.shows("elk", "ed.jpg", "elk") and reader.shows("elk", "ed.jpg", "dog"), "one pixel"
    assert reader.shows("elk", "ed.jpg", "cat") is None
    assert any("that a picture lacks a class is not verified" in note for note in opened(tree).notes)
    np.testing.assert_array_equal(
        reader.read_other("cat", "cd.jpg", "dog", SIZE), reader.read("dog", "cd.jpg", SIZE)[1]
    )
    with pytest.raises(InputError, match="no pixel of bee"):
        reader.read_other("cat", "cd.jpg", "bee", SIZE)
    assert reader.picture("cat", "cd.jpg") == reader.picture("dog", "cd.jpg") == "cd.jpg"


def test_pictures_whose_labels_are_complete(tree):
    write(tree / "labelled.txt", ["a*: bee", "e?: cat  ant", "cd.jpg: ant, elk"])
    data = opened(tree)
    shown = {other: [data.reader.shows("x", f"{name}.jpg", other) for name in ("a1", "ed", "cd")] for other in NAMES}
    assert shown == {
        "ant": [True, False, False],
        "bee": [False, None, None],
        "cat": [None, False, True],
        "dog": [None, True, True],
        "elk": [None, True, False],
    }
    assert data.notes == ()
    mask = MASKS["a1"].copy()
    mask[:5, :7] = 2  # the picture has been labelled anew
    Image.fromarray(mask).save(tree / "masks" / "a1.png")
    assert data.reader.shows("x", "a1.jpg", "bee")


def test_classes_that_are_complete_have_to_be_known(tree):
    for line, needle in (("a*: bee cot", "'cot' in"), ("a* bee", "write PATTERN: CLASS ..."), ("a*:", "is no class")):
        write(tree / "labelled.txt", ["e*: ant", line])
        fails(tree, "labelled.txt, line 2", needle)


def test_classes_with_spaces_and_names_in_two_spellings(tree):
    write(tree / "classes.txt", ["ant", "bee", "sea cat", "dog", "elk"])
    write(tree / "folds/0/test.txt", ["sea cat", "dog"])
    write(tree / "labelled.txt", ["u\u0308*: sea cat", "\u00e4*: dog, sea cat"])  # one accent apart, one in one piece
    for name in ("\u00fc1", "a\u03081"):
        add(tree, name, MASKS["a1"])
    reader = opened(tree).reader
    assert reader.shows("ant", "\u00fc1.jpg", "sea cat") is False and reader.shows("ant", "\u00fc1.jpg", "dog") is None
    assert reader.shows("ant", "a\u03081.jpg", "dog") is False


def test_where_labels_are_complete_in_no_picture_nothing_is_known_to_be_absent(tree):
    add(tree, "dc", MASKS["cd"])
    write(tree / "labelled.txt", ["z*: cat dog"])
    with pytest.raises(InputError, match="known not to show .* --support absent and a training's absent=SHARE need"):
        EpisodeStream(opened(tree), shots=1, seed=0, length=9, absent=0.9)[:]


# What a user gets wrong


def test_missing_parts(tree, tmp_path):
    fails(tmp_path / "nowhere", "no folder", "nowhere")
    (tree / "masks").rename(tree / "mask")
    fails(tree, "no folder of masks in", "expected masks or labels or annotations")
    (tree / "mask").rename(tree / "masks")
    (tree / "images").rename(tree / "photos")
    fails(tree, "no folder of pictures in", "expected images")
    (tree / "classes.txt").unlink()
    fails(tree, "nothing in", "names the labels", "classes.txt", "labelmap.txt", "_classes.csv")


def test_pictures_and_masks_that_lack_each_other(tree):
    (tree / "masks" / "a1.png").unlink()
    fails(tree, f"no mask for {tree / 'images' / 'a1.jpg'}; add a1.png in {tree / 'masks'}")
    (tree / "images" / "a1.jpg").rename(tree / "images" / "b1.png")
    fails(tree, "share one mask")
    (tree / "images" / "b1.png").unlink()
    (tree / "images" / "b2.jpg").unlink()
    fails(tree, f"no picture for the mask {tree / 'masks' / 'b2.png'}; add b2.jpg in {tree / 'images'}")


def test_labels_without_a_name(tree):
    opened(tree)
    write(tree / "classes.txt", [*NAMES[:4]])  # what was counted before does not hide it
    fold(tree, 0, train=["ant"])
    fails(tree, "ed.png holds the label 5", "classes.txt does not name it")
    write(tree / "classes.txt", [*NAMES[:3], "", NAMES[4]])
    fold(tree, 0, train=["ant", "elk"], test=["cat"])
    fails(tree, "cd.png holds the label 4")


def test_colours_without_a_name(tmp_path):
    write(tmp_path / "labelmap.txt", ["background:0,0,0::", "ant:250,0,0::"])
    mask = painted(MASKS["a1"] % 255)
    mask[3, 4] = 1, 2, 3
    add(tmp_path, "a1", mask)
    fails(tmp_path, "a1.png is RGB with the colour (1, 2, 3), which stands for no label", split="train")


def test_sizes_that_differ(tree):
    Image.fromarray(MASKS["cd"].T.copy()).save(tree / "masks" / "cd.png")
    with pytest.raises(
        InputError, match=rf"cd.png is {HEIGHT} x {WIDTH} pixels, its picture cd.jpg {WIDTH} x {HEIGHT}"
    ):
        opened(tree).read("cat", "cd.jpg")


@pytest.mark.parametrize(
    ("name", "lines", "needle"),
    [
        ("classes.txt", [], "has to name one class or more"),
        ("classes.txt", ["background"], "has to name one class or more"),
        ("classes.txt", ["ant", "bee", "ant"], "lists ant twice"),
        ("classes.txt", [f"c{n}" for n in range(1, 256)], "with labels from 1 to 254"),
        ("labelmap.txt", ["background:0,0,0::", "ant:1,2::"], "line 2: 'ant:1,2::' is not as in other files"),
        ("labelmap.txt", ["background:0,0,0::", "ant:1,2,3::", "bee:1,2,3::"], "lists (1, 2, 3) twice"),
        ("_classes.csv", ["Pixel Value, Class", "1, ant", "1, bee"], "lists 1 twice"),
        ("_classes.csv", ["Pixel Value, Class", "0, ant"], "with labels from 1 to 254"),
        ("_classes.csv", ["Pixel Value, Class", "ant"], "line 2: 'ant' is not as in other files"),
    ],
)
def test_names_that_are_not_sound(tree, name, lines, needle):
    (tree / "classes.txt").unlink()
    write(tree / name, lines)
    fails(tree, name, needle)


@pytest.mark.parametrize(
    ("lists", "needle"),
    [
        ({"train": ["ant"], "test": ["ant"]}, "ant in "),
        ({"train": ["ant", "bee"], "val": ["bee"]}, "bee in "),
        ({"val": ["cat"], "test": ["cat"]}, "cat in "),
        ({"test": ["cot"]}, "no class 'cot'"),
    ],
)
def test_lists_that_are_not_sound(tree, tmp_path, lists, needle):
    fails(tree, needle, str(tmp_path / "lists"), lists=str(listed(tmp_path / "lists", **lists)))


def test_options_that_say_nothing(tree):
    fails(tree, "--allow-missing says nothing about 'semantic' data", allow_missing=True)


# The report


def test_report(tree):
    lines, _, _ = open_whole(f"semantic:{tree}", size=64, options=DataConfig(min_pixels=1))
    area = HEIGHT * WIDTH
    assert lines[:-1] == [  # the last is a note
        "5 pictures, 5 classes; a picture counts from 1 pixels on",
        f"ant: pictures 1, share of their area {100 * 2400 / area:.1f} %",
        f"bee: pictures 2, share of their area {100 * 3000 / 2 / area:.1f} %",
        f"cat: pictures 1, share of their area {100 * 1800 / area:.1f} %",
        f"dog: pictures 2, share of their area {100 * 2001 / 2 / area:.1f} %",
        f"elk: pictures 1, share of their area {100 * 2400 / area:.1f} %",
        "fold 0: pictures with two classes: 0 of train, 0 of val, 1 of test; without a test class: 3",
    ]


def test_check_in_a_process(tree, tmp_path):
    picture, mask = tree / "images" / "a1.jpg", tree / "masks" / "b1.png"
    check = ("check", "--data", f"semantic:{tree}", "--workers", 1, "--quiet")
    process = Fss(*check, folder=tmp_path)
    assert process.end() == 0 and process.err == ""
    lines = process.out.splitlines()
    assert lines[0] == "5 pictures, 5 classes; a picture counts from 1,024 pixels on" and lines[-1].endswith(
        "every picture is sound"
    )
    for path in (picture, mask):
        path.write_bytes(path.read_bytes()[:-30])
    process = Fss(*check, folder=tmp_path)
    assert process.end() == 1 and process.err == ""
    assert process.out.splitlines()[-1].endswith("2 problems")
    for path in (picture, mask):
        assert len([line for line in process.out.splitlines() if str(path) in line]) == 1
