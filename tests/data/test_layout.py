"""Trees as people have them: one line says what each is and what reads it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fss.data import open_dataset, open_whole
from fss.data.layout import recognised
from fss.errors import InputError
from fss.explorer.paint import canvases_in


def pair(picture: Path, mask: Path) -> None:
    """A picture, wider than high, and its mask of 0 and 255."""
    rng = np.random.default_rng(len(picture.name))
    labels = np.zeros((40, 56), np.uint8)
    labels[10:30, 12:40] = 255
    for path, pixels in ((picture, rng.integers(0, 255, (40, 56, 3), np.uint8)), (mask, labels)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def build(root: Path, picture: str, mask: str, *others: str) -> Path:
    """Three pairs whose names hold {}, and further files, empty, or folders where a name ends in "/"."""
    for n in range(1, 4):
        pair(root / picture.format(n), root / mask.format(n))
    for other in others:
        path = root / other
        (path if other.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not other.endswith("/"):
            path.write_text("cat\n")
    return root


TREES = {  # picture, mask, other files; kind that reads it; what the line says
    "classes": (("cat/{}.jpg", "cat/{}.png"), "folder", "a folder for each class"),
    "capitals": (("cat/{}.JPG", "cat/{}.PNG"), "folder", "a folder for each class"),
    "one class": (("{}.jpg", "{}.png"), "", "is a single class; give the folder that holds it"),
    "two folders": (("images/{}.jpg", "masks/{}.png"), "semantic", "once classes.txt names the labels"),
    "all png": (("images/{}.png", "masks/{}.png"), "semantic", "holds images/ and masks/"),
    "with legend": (
        ("images/{}.jpg", "labels/{}.png", "classes.txt"),
        "semantic",
        "images/ and labels/, which semantic:",
    ),
    "a split deeper": (("train/images/{}.png", "train/masks/{}.png"), "semantic", "train holds images/ and masks/"),
    "cvat": (
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "labelmap.txt", "ImageSets/Segmentation/default.txt"),
        "semantic",
        "JPEGImages/ and SegmentationClass/, which semantic:",
    ),
    "voc": (
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "ImageSets/Segmentation/train.txt"),
        "pascal5i",
        "tree of PASCAL VOC",
    ),
    "vocdevkit": (
        ("VOC2012/JPEGImages/{}.jpg", "VOC2012/SegmentationClass/{}.png", "VOC2012/ImageSets/"),
        "pascal5i",
        "tree of PASCAL VOC",
    ),
    "roboflow": (("train/{}.jpg", "train/{}_mask.png", "train/_classes.csv"), "semantic", "export of Roboflow"),
    "marked": (("train/{}.jpg", "train/{}_mask.png"), "", "name them <n>.png"),
    "labelme": (("{}.jpg", "unlike/{}.png", "1.json", "2.json"), "", "polygons of labelme"),
    "fss-1000": (("fewshot_data/cat/{}.jpg", "fewshot_data/cat/{}.png"), "fss1000", "FSS-1000's archive"),
    "unknown": (("a/b/c/{}.jpg", "a/b/c/{}.png"), "", ""),
}


@pytest.mark.parametrize("name", TREES)
def test_what_is_recognised(tmp_path, name):
    parts, kind, said = TREES[name]
    root = build(tmp_path / "mine", *parts)
    found, line = recognised(root)
    assert found == kind and said in line and "\n" not in line
    assert bool(line) == bool(said) and "remove" not in line


@pytest.mark.parametrize("name", [name for name, (_, kind, said) in TREES.items() if said and kind != "folder"])
def test_folder_of_another_layout_is_refused_in_one_line(tmp_path, name):
    parts, _, said = TREES[name]
    root = build(tmp_path / "mine", *parts)
    for opened in (open_dataset, open_whole):
        with pytest.raises(InputError, match=f"^{root}") as caught:
            opened(f"folder:{root}", size=64, **({"split": "test"} if opened is open_dataset else {}))
        assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["semantic", "pascal5i"])
def test_class_folders_for_another_kind_are_recognised(tmp_path, kind):
    root = build(tmp_path, "cat/{}.jpg", "cat/{}.png")
    with pytest.raises(InputError, match=f"a folder for each class, which folder:{root} reads"):
        open_dataset(f"{kind}:{root}", split="train", size=64)


def test_what_lacks_its_other_half_is_one_line_a_folder(tmp_path):
    root = build(tmp_path, "cat/{}.jpg", "cat/{}.png")
    for n in range(4, 30):
        pair(root / "cat" / f"{n}.jpg", root / "cat" / f"{n + 100}.png")
    _, _, problems = open_whole(f"folder:{root}", size=64)
    bare, lone = sorted({*problems})
    assert bare.startswith(f"no mask for {root / 'cat' / '4.jpg'} and 25 more there; add 4.png beside it")
    assert lone.startswith(f"no picture for the mask {root / 'cat' / '104.png'} and 25 more there; add 104.jpg beside")
    assert "remove" not in lone  # it may be a picture


def test_names_in_capitals_are_read_like_small_ones(tmp_path):
    for kind, suffixes in (("small", (".jpg", ".png")), ("capital", (".JPG", ".PNG"))):
        for name in ("a", "b", "c"):
            build(tmp_path / kind, *(f"{name}/{{}}{suffix}" for suffix in suffixes))
    small, capital = (open_dataset(f"folder:{tmp_path / kind}", split="test", size=64) for kind in ("small", "capital"))
    assert small.classes == capital.classes
    for ours, theirs in zip(small.images.values(), capital.images.values(), strict=True):
        assert [name.upper() for name in ours] == [name.upper() for name in theirs]
    name = capital.classes[0]
    assert capital[name][1][1].sum() > 0 and (capital[name][1][1] == small[name][1][1]).all()
    own = capital.reader.own_mask(name, "2.JPG")
    assert own.shape == (40, 56) and own.sum() == 20 * 28
    canvases = canvases_in(tmp_path / "capital" / "a")
    assert [canvas.name for canvas in canvases] == ["1.JPG", "2.JPG", "3.JPG"]
    assert all(canvas.mask.sum() == 20 * 28 for canvas in canvases)


def test_the_paint_box_takes_pictures_in_order_and_leaves_hidden_files_alone(tmp_path):
    for n in (1, 2, 10):
        pair(tmp_path / f"{n}.jpg", tmp_path / f"{n}.png")
    Image.new("RGB", (56, 40)).save(tmp_path / "2.bmp")
    (tmp_path / "._1.jpg").write_bytes(b"what macOS leaves on other disks")
    assert [canvas.name for canvas in canvases_in(tmp_path)] == ["1.jpg", "2.bmp", "2.jpg", "10.jpg"]
