"""Photos of one object and pictures of several in one folder, through the real command."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fss.config import DataConfig
from fss.data import open_dataset

TOOL = Path(__file__).resolve().parent.parent / "tools" / "mix.py"
LABELS = ["cat", "cup", "dog", "hat", "key"]  # key is tested by the photos alone, and in no list


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def half(label, other=0):
    """A mask [40, 80] that shows one label on the left, and another one on the right."""
    mask = np.full((40, 80), other, np.uint8)
    mask[:, :40] = label
    return mask


@pytest.fixture
def photos(tmp_path):
    for name in ("cat", "cup", "dog", "fox", "key"):
        for number in (1, 2, 3):
            save(tmp_path / "photos" / name / f"{number}.jpg", np.full((40, 80, 3), 90, np.uint8))
            save(tmp_path / "photos" / name / f"{number}.png", half(255))
    (tmp_path / "photos" / "train.txt").write_text("cat\ncup\ndog\nfox\n")
    (tmp_path / "photos" / "test.txt").write_text("key\n")
    return tmp_path / "photos"


@pytest.fixture
def scenes(tmp_path):
    shown = {"a1": half(1, 4), "a2": half(1), "a3": half(2), "a4": half(3, 5), "a5": half(4, 5), "a6": half(1, 255)}
    for name, mask in shown.items():
        save(tmp_path / "scenes" / "images" / f"{name}.jpg", np.full((40, 80, 3), 120, np.uint8))
        save(tmp_path / "scenes" / "masks" / f"{name}.png", mask)
    (tmp_path / "scenes" / "classes.txt").write_text("".join(f"{name}\n" for name in LABELS))
    (tmp_path / "scenes" / "labelled.txt").write_text("a*: cat cup hat\n")
    lists = tmp_path / "scenes" / "folds" / "0"
    lists.mkdir(parents=True)
    for split, name in {"train": "cat", "val": "cup", "test": "hat"}.items():
        (lists / f"{split}.txt").write_text(f"{name}\n")
    return tmp_path / "scenes"


def mix(*args):
    return subprocess.run([sys.executable, TOOL, *map(str, args)], capture_output=True, text=True)


def opened(folder, split, **options):
    return open_dataset(f"semantic:{folder}", split=split, fold=0, size=64, options=DataConfig(**options))


def test_training_classes_of_both_without_what_either_tests(photos, scenes, tmp_path):
    (tmp_path / "without.txt").write_text("cat/2\ncup/1\n\n")
    out = tmp_path / "mixed"
    done = mix(photos, scenes, out, "--without", tmp_path / "without.txt", "--alone", "dog", "fox")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}: 13 pictures of 6 classes\n"
    train, val, test = (opened(out, split, novel="drop") for split in ("train", "val", "test"))
    assert {**train.images} == {
        "cat": ("a2.jpg", "a6.jpg", "photos_cat_1.jpg", "photos_cat_3.jpg"),  # a1 shows a hat, which is tested
        "dog": ("photos_dog_1.jpg", "photos_dog_2.jpg", "photos_dog_3.jpg"),  # a4 shows a key, which photos test
        "fox": ("photos_fox_1.jpg", "photos_fox_2.jpg", "photos_fox_3.jpg"),
    }
    assert {**val.images} == {"cup": ("a3.jpg",)} and {**test.images} == {"hat": ("a1.jpg", "a5.jpg")}
    assert (out / "classes.txt").read_text().split() == [*LABELS, "fox"]
    fox = np.asarray(Image.open(out / "masks" / "photos_fox_1.png"))
    np.testing.assert_array_equal(fox, half(6))
    np.testing.assert_array_equal(train.reader.labels("a6.jpg"), half(1, 255))
    assert train.reader.shows("cat", "a2.jpg", "hat") is False
    assert train.reader.shows("fox", "photos_fox_1.jpg", "hat") is None  # nobody labelled the photo for hats
    assert train.reader.shows("fox", "photos_fox_1.jpg", "dog") is False
    assert train.reader.shows("cat", "photos_cat_1.jpg", "dog") is None


def test_alone_is_written_whatever_the_classes_are_called(photos, scenes, tmp_path):
    (photos / "dog").rename(photos / "hot dog")
    (photos / "fox").rename(photos / "fox[1]")
    (photos / "train.txt").write_text("cat\ncup\nhot dog\nfox[1]\n")
    (scenes / "labelled.txt").unlink()  # nothing is known of the scenes, and what is said of photos still counts
    done = mix(photos, scenes, tmp_path / "out", "--alone", "hot dog", "fox[1]")
    assert done.returncode == 0, done.stderr
    reader = opened(tmp_path / "out", "train").reader
    assert reader.shows("hot dog", "photos_hot dog_1.jpg", "fox[1]") is False
    assert reader.shows("fox[1]", "photos_fox[1]_1.jpg", "hot dog") is False
    assert reader.shows("cat", "photos_cat_1.jpg", "hot dog") is None


def test_alone_does_not_speak_for_a_class_whose_name_goes_on(photos, scenes, tmp_path):
    (photos / "fox").rename(photos / "dog_toy")
    (photos / "train.txt").write_text("cat\ncup\ndog\ndog_toy\n")
    done = mix(photos, scenes, tmp_path / "out", "--alone", "dog", "cat")
    assert done.returncode == 1 and "--alone dog: photos of dog_toy begin like its own" in done.stderr
    done = mix(photos, scenes, tmp_path / "out", "--alone", "dog", "cat", "dog_toy")
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_mixed_is_refused(photos, scenes, tmp_path):
    out, lists = tmp_path / "out", scenes / "folds" / "0" / "train.txt"
    (tmp_path / "odd.txt").write_text("cat/9\n")

    def refused(said, *args):
        done = mix(photos, scenes, *(args or (out,)))
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not out.exists()

    refused(f"{photos} is there", photos)
    refused("lies in a folder that is read", scenes / "out")
    refused("odd.txt: no photo cat/9", out, "--without", tmp_path / "odd.txt")
    refused("--alone cow: no class of the photos that train", out, "--alone", "cow")
    (scenes / "labelled.txt").write_text("*: cat cup hat\n")
    refused("_1.jpg, too, which shows one labelled object")
    lists.write_text("cat\nkey\n")
    refused(f"key: {scenes} trains on it and {photos} tests it")
    lists.write_text("cat\n")
    (scenes / "classes.txt").write_text("".join(f"{name}\n" for name in [*LABELS, *(f"c{n}" for n in range(249))]))
    refused("255 classes in all, and a mask holds 254")
