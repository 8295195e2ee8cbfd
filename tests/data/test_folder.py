"""A folder of the user's own pictures: classes, splits, pairs, and what is said when one is off."""

import os
import pickle
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from fss.config import DataConfig
from fss.data import open_dataset
from fss.data.folder import FolderReader, open_folder
from fss.errors import InputError

SIZE = 32
SPLITS = ("train", "val", "test")


def add_class(root: Path, name: str, stems=("1",), suffix: str = ".jpg") -> None:
    folder = root / name
    folder.mkdir(parents=True)
    for stem in stems:
        picture = np.full((6, 12, 3), (200, 30, 30), dtype=np.uint8)
        mask = np.zeros((6, 12), dtype=np.uint8)
        mask[:3, :6] = 255
        Image.fromarray(picture).save(folder / f"{stem}{suffix}")
        Image.fromarray(mask).save(folder / f"{stem}.png")


def tree(root: Path, *names: str) -> Path:
    for name in names:
        add_class(root, name)
    return root


def opened(root: Path, split: str):
    return open_dataset(f"folder:{root}", split=split, size=SIZE)


def classes(root: Path, split: str) -> list[str]:
    return list(opened(root, split).classes)


def splits(root: Path) -> tuple[list[str], ...]:
    return tuple(classes(root, split) for split in SPLITS)


def fails(root: Path, split: str, *needles: str) -> None:
    with pytest.raises(InputError) as caught:
        classes(root, split)
    message = str(caught.value)
    assert "\n" not in message
    for needle in needles:
        assert needle in message


LETTERS = list("abcdefghij")


# Reading


def test_pair_is_read_and_letterboxed(tmp_path):
    tree(tmp_path, "cup", "dog")
    data = open_dataset(f"folder:{tmp_path}", split="train", size=SIZE)
    assert (data.spec, data.split, data.fold) == (f"folder:{tmp_path}", "train", None)
    assert data.classes == ("cup",) and data["cup"].names == ("1.jpg",)
    image, mask = data["cup"][0]
    assert image.shape == (3, SIZE, SIZE) and mask.shape == (SIZE, SIZE)
    assert (mask[:8] == 255).all() and (mask[24:] == 255).all()
    inside = mask[8:24]
    assert (inside[:7, :15] == 1).all() and (inside[8:] == 0).all() and (inside[:, 16:] == 0).all()
    assert image[:, 12, 8].tolist() == pytest.approx([200 / 255, 30 / 255, 30 / 255], abs=0.03)
    assert image[0, 4, 4].item() == pytest.approx(127 / 255)


def test_a_mask_of_one_class_says_nothing_of_others(tmp_path):
    reader = opened(tree(tmp_path, "cup", "dog"), "train").reader
    assert reader.shows("cup", "1.jpg", "cup") is True and reader.shows("cup", "1.jpg", "dog") is None
    assert reader.picture("cup", "1.jpg") == "cup/1.jpg" != reader.picture("dog", "1.jpg")
    with pytest.raises(InputError, match=r"'1\.jpg' of 'cup' has no label of 'dog'"):
        reader.read_other("cup", "1.jpg", "dog", SIZE)


def test_both_names_of_the_layout_open(tmp_path):
    tree(tmp_path, "cup", "dog")
    assert open_dataset(f"fss1000:{tmp_path}", split="test", size=SIZE).classes == ("dog",)


@pytest.mark.parametrize("suffix", [".jpeg", ".JPG", ".bmp", ".tif", ".tiff", ".webp"])
def test_suffixes(tmp_path, suffix):
    add_class(tmp_path, "cup", ["1", "2.5"], suffix)
    data = opened(tmp_path, "train")
    assert data["cup"].names == (f"1{suffix}", f"2.5{suffix}")
    assert (data["cup"][1][1] == 1).any()


@pytest.mark.parametrize("name", ["abe's flyingfish", "naïve café", "猫", "ice cream (old)", "a.b"])
def test_names_with_anything_in_them(tmp_path, name):
    add_class(tmp_path, name, ["one 1", "d'été"])
    data = opened(tmp_path, "train")
    assert data.classes == (name,) and len(data[name]) == 2
    for _, mask in data[name]:
        assert (mask == 1).any()
    (tmp_path / "test.txt").write_text(f"\n{name}  \r\n\n", encoding="utf-8-sig")
    assert classes(tmp_path, "test") == [name]


@pytest.mark.parametrize(("disk", "listed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_match_however_they_are_encoded(tmp_path, disk, listed):
    tree(tmp_path, unicodedata.normalize(disk, "café"), "dog")
    (tmp_path / "test.txt").write_text(unicodedata.normalize(listed, "café"), encoding="utf-8")
    data = opened(tmp_path, "test")
    (name,) = data.classes
    assert data[name][0][0].shape == (3, SIZE, SIZE)
    assert classes(tmp_path, "train") == ["dog"]


def test_order_is_by_number_then_by_text(tmp_path):
    for name in ("b", "10", "9", "a"):
        add_class(tmp_path, name, ["10", "9", "2", "b", "a10", "a9"])
    (tmp_path / "train.txt").write_text("b\n10\na\n9\n")
    (tmp_path / "val.txt").write_text("")
    data = opened(tmp_path, "train")
    assert data.classes == ("9", "10", "a", "b")
    stems = [name.removesuffix(".jpg") for name in data["9"].names]
    assert stems == ["2", "9", "10", "a10", "a9", "b"]


def test_other_files_are_left_alone(tmp_path):
    tree(tmp_path, "cup")
    for stray in ("cup/Thumbs.db", "cup/.DS_Store", "cup/._1.jpg", "cup/notes.txt", "readme.md"):
        (tmp_path / stray).write_text("x")
    (tmp_path / ".cache").mkdir()
    data = opened(tmp_path, "train")
    assert data.images == {"cup": ("1.jpg",)}


def test_home_and_relative_paths(tmp_path, monkeypatch):
    tree(tmp_path / "set", "cup")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert classes(Path("~/set"), "train") == ["cup"]
    monkeypatch.chdir(tmp_path)
    data = opened(Path("set"), "train")
    monkeypatch.chdir("/")  # as a loader's worker or a notebook may
    assert len(data["cup"][0]) == 2


def test_reader_is_picklable_and_reads_the_same(tmp_path):
    tree(tmp_path, "cup")
    reader = FolderReader(tmp_path)
    copy = pickle.loads(pickle.dumps(reader))
    assert copy == reader
    pairs = (each.read("cup", "1.jpg", SIZE) for each in (reader, copy))
    for one, other in zip(*pairs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_fingerprint_follows_content_and_not_the_place(tmp_path):
    root = tree(tmp_path / "one", "cup")
    reader = FolderReader(root)
    first = reader.fingerprint("cup", "1.jpg")
    moved = root.rename(tmp_path / "two")
    assert FolderReader(moved).fingerprint("cup", "1.jpg") == first
    for file in ("1.jpg", "1.png"):
        before = FolderReader(moved).fingerprint("cup", "1.jpg")
        time = (moved / "cup" / file).stat().st_mtime_ns + 1_000_000
        os.utime(moved / "cup" / file, ns=(time, time))
        after = FolderReader(moved).fingerprint("cup", "1.jpg")
        assert after != before
        (moved / "cup" / file).write_bytes(b"x")  # another size, the same time
        os.utime(moved / "cup" / file, ns=(time, time))
        assert FolderReader(moved).fingerprint("cup", "1.jpg") != after


def test_fingerprint_reads_nothing_and_names_a_lost_file(tmp_path):
    tree(tmp_path, "cup")
    (tmp_path / "cup" / "1.jpg").write_bytes(b"no picture")
    assert "cup/1.jpg" in FolderReader(tmp_path).fingerprint("cup", "1.jpg")
    (tmp_path / "cup" / "1.png").unlink()
    with pytest.raises(InputError, match=r"cup/1\.png is gone .* open the data set again"):
        FolderReader(tmp_path).fingerprint("cup", "1.jpg")


# Splits


def test_fractions_without_lists(tmp_path):
    train, val, test = splits(tree(tmp_path, *LETTERS))
    assert train == list("bcdefg") and val == ["a"] and test == list("hij")


def test_every_eighth_training_class_is_val(tmp_path):
    names = [str(n) for n in range(30)]
    train, val, test = splits(tree(tmp_path, *names))
    assert val == ["0", "8", "16"] and test == names[21:]
    assert train == [name for name in names[:21] if name not in val]


def test_lists_are_taken(tmp_path):
    tree(tmp_path, *LETTERS)
    (tmp_path / "train.txt").write_text("j\ni\nh\nb\nb\n")
    (tmp_path / "test.txt").write_text("c\n")
    assert splits(tmp_path) == (["h", "i", "j"], ["b"], ["c"])
    (tmp_path / "val.txt").write_text("j\nd\n")  # one of the training list, one beside it
    assert splits(tmp_path) == (["b", "h", "i"], ["d", "j"], ["c"])


def test_the_other_common_name_of_the_training_list(tmp_path):
    tree(tmp_path, *LETTERS)
    (tmp_path / "trn.txt").write_text("d\ne\n")
    assert splits(tmp_path) == (["e"], ["d"], list("abcfghij"))


def test_the_split_without_a_list_takes_what_is_left(tmp_path):
    tree(tmp_path, *LETTERS)
    (tmp_path / "test.txt").write_text("a\nb\n")
    assert splits(tmp_path) == (list("defghij"), ["c"], ["a", "b"])
    (tmp_path / "test.txt").rename(tmp_path / "train.txt")
    assert splits(tmp_path) == (["b"], ["a"], list("cdefghij"))
    (tmp_path / "train.txt").rename(tmp_path / "val.txt")
    assert splits(tmp_path) == (list("cdefg"), ["a", "b"], list("hij"))


def test_an_empty_list_matters_to_its_own_split_only(tmp_path):
    tree(tmp_path, *LETTERS)
    (tmp_path / "train.txt").write_text("\n")
    assert classes(tmp_path, "test") == LETTERS
    fails(tmp_path, "train", "no train classes", str(tmp_path), "train.txt")
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "val.txt").write_text("")
    assert classes(tmp_path, "train") == ["a", "b"]
    fails(tmp_path, "val", "no val classes", "val.txt")


def test_one_class_trains_and_leaves_nothing_to_test(tmp_path):
    tree(tmp_path, "cup")
    assert classes(tmp_path, "train") == ["cup"]
    fails(tmp_path, "val", "no val classes", "add folders")
    fails(tmp_path, "test", "no test classes", "add folders")


def test_lists_that_share_a_class(tmp_path):
    tree(tmp_path, *LETTERS)
    (tmp_path / "test.txt").write_text("c\nd\ne\nf\n")
    (tmp_path / "val.txt").write_text("c\nd\ne\nf\ng\n")
    for split in SPLITS:
        fails(tmp_path, split, "c, d, e and 1 more", "test.txt", "take them out of one list")


def test_listed_class_without_a_folder(tmp_path):
    tree(tmp_path, *LETTERS)
    (tmp_path / "test.txt").write_text("a\nw\nx\ny\nz\n../a\n")
    fails(tmp_path, "test", "5 of the 6 test classes", str(tmp_path), "../a, w, x", "test.txt")
    assert "a" not in classes(tmp_path, "train")  # the training split opens all the same


def test_lists_of_another_folder(tmp_path):
    root = tree(tmp_path / "set", *LETTERS)
    lists = tmp_path / "lists"
    lists.mkdir()
    for name, text in (("trn", "b\nc\n"), ("val", "d\n"), ("test", "a\nz\n")):
        (lists / f"{name}.txt").write_text(text)

    def opened(split: str, **options):
        config = DataConfig(lists=str(lists), **options)
        return open_dataset(f"fss1000:{root}", split=split, size=SIZE, options=config)

    assert opened("train").classes == ("b", "c") and opened("val").classes == ("d",)
    assert opened("train").notes == () and opened("train", classes="c").classes == ("c",)
    with pytest.raises(InputError, match=r"1 of the 2 test classes have no folder in .*: z"):
        opened("test")
    data = opened("test", allow_missing=True)
    assert data.classes == ("a",) and data.notes == (f"1 of the 2 test classes have no folder in {root}: z",)
    for name in ("trn", "val", "test"):
        (lists / f"{name}.txt").unlink()
    with pytest.raises(InputError, match="no lists of classes in"):
        opened("train")


def test_scores_on_fss1000_without_lists_do_not_compare(tmp_path):
    tree(tmp_path, *LETTERS)
    (note,) = open_dataset(f"fss1000:{tmp_path}", split="test", size=SIZE).notes
    assert "scores do not compare" in note and "--lists DIR" in note
    assert open_dataset(f"folder:{tmp_path}", split="test", size=SIZE).notes == ()


def test_list_in_another_encoding(tmp_path):
    tree(tmp_path, "cup")
    (tmp_path / "train.txt").write_bytes("café".encode("latin-1"))
    fails(tmp_path, "train", str(tmp_path / "train.txt"), "UTF-8")


def test_unknown_split(tmp_path):
    fails(tree(tmp_path, "cup"), "tset", "'tset'", "did you mean 'test'?")


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_splits_never_share_a_class(data):
    name = st.text("ab1 é'", min_size=1, max_size=4).map(str.strip).filter(bool)
    names = data.draw(st.lists(name, min_size=1, max_size=12, unique=True))
    rest, lists = list(names), {}
    for split in data.draw(st.lists(st.sampled_from(SPLITS), unique=True)):
        lists[split] = data.draw(st.lists(st.sampled_from(rest), unique=True)) if rest else []
        rest = [name for name in rest if name not in lists[split]]
    with tempfile.TemporaryDirectory() as folder:
        root = tree(Path(folder), *names)
        for split, listed in lists.items():
            (root / f"{split}.txt").write_text("\n".join(listed), encoding="utf-8")
        found = {}
        for split in SPLITS:
            try:
                found[split] = classes(root, split)
            except InputError as error:
                assert f"no {split} classes" in str(error)
                found[split] = []
    together = [name for split in SPLITS for name in found[split]]
    assert len(together) == len(set(together)) and set(together) <= set(names)
    for split in {"val", "test"} & set(lists):
        assert set(found[split]) == set(lists[split])
    if "train" in lists:
        assert set(found["train"]) <= set(lists["train"])
        if "val" not in lists:
            assert set(found["train"]) | set(found["val"]) == set(lists["train"])
    if not {"train", "test"} <= set(lists):  # then nobody is left out
        assert set(together) == set(names)


# What is wrong with a folder


def test_root_that_is_not_there_or_holds_no_class(tmp_path):
    fails(tmp_path / "none", "train", "no folder", str(tmp_path / "none"), "give the path")
    (tmp_path / "file").write_text("")
    fails(tmp_path / "file", "train", "no folder")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "train", "no class folders", "<class>/<n>.jpg")


def test_class_without_pictures(tmp_path):
    tree(tmp_path / "outer" / "inner", "cup")
    fails(tmp_path / "outer", "train", str(tmp_path / "outer" / "inner"), "holds the classes")


def test_picture_without_its_mask(tmp_path):
    add_class(tmp_path, "cup", ["1", "2", "10"])
    for stem in ("2", "10"):
        (tmp_path / "cup" / f"{stem}.png").unlink()
    fails(
        tmp_path,
        "train",
        f"no mask for {tmp_path / 'cup' / '2.jpg'} and 1 more there; add 2.png beside it, or remove the picture",
    )


def test_mask_without_its_picture(tmp_path):
    add_class(tmp_path, "cup", ["1", "2"])
    (tmp_path / "cup" / "2.jpg").unlink()
    fails(tmp_path, "train", f"mask {tmp_path / 'cup' / '2.png'};", "add 2.jpg")


def test_two_pictures_with_one_mask(tmp_path):
    tree(tmp_path, "cup")
    (tmp_path / "cup" / "1.jpeg").write_bytes(b"")
    fails(tmp_path, "train", str(tmp_path / "cup" / "1.jpg"), "1.jpeg", "share one mask")


def test_broken_pair_is_named_when_it_is_read(tmp_path):
    add_class(tmp_path, "cup", ["1", "2"])
    broken = tmp_path / "cup" / "2.png"
    Image.fromarray(np.zeros((6, 12), dtype=np.uint8)).save(broken)
    data = opened(tmp_path, "train")
    assert (data["cup"][0][1] == 1).any()
    with pytest.raises(InputError, match="no object") as caught:
        data["cup"][1]
    assert str(broken) in str(caught.value)


def test_a_name_that_is_not_utf_8(tmp_path):
    tree(tmp_path, "cup", "dog")
    try:
        os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    except OSError:
        pytest.skip("this disk holds UTF-8 names only")
    fails(tmp_path, "train", "not UTF-8", "caf", "rename it")


# Any folder at all

PNG = st.sampled_from(["sound", "without an object", "of another size", "garbage", None])
JPEG = st.sampled_from([("sound", ".jpg"), ("sound", ".bmp"), ("garbage", ".jpg"), None])
FILES = st.dictionaries(st.sampled_from(["1", "2", "it's 3"]), st.tuples(JPEG, PNG), max_size=3)
ROOTS = st.dictionaries(st.sampled_from(["a", "b", "d'or", ".hidden"]), FILES, max_size=4)
LINES = st.dictionaries(
    st.sampled_from([f"{split}.txt" for split in SPLITS]),
    st.lists(st.sampled_from(["a", "b", "d'or", "none"])),
)


def plant(root: Path, classes: dict, lists: dict) -> None:
    for name, files in classes.items():
        (root / name).mkdir()
        for stem, (picture, mask) in files.items():
            if picture:
                kind, suffix = picture
                path = root / name / f"{stem}{suffix}"
                path.write_text("garbage")
                if kind == "sound":
                    Image.new("RGB", (8, 4), "red").save(path)
            if mask:
                path = root / name / f"{stem}.png"
                path.write_text("garbage")
                if mask != "garbage":
                    value = 0 if mask == "without an object" else 255
                    size = (4, 8) if mask == "of another size" else (8, 4)
                    Image.new("L", size, value).save(path)
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines))


@settings(max_examples=150)
@given(ROOTS, LINES)
def test_a_folder_is_read_whole_or_its_problems_are_listed(classes, lists):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plant(root, classes, lists)
        read, refused, listed, cannot = 0, [], [], False
        for split in SPLITS:
            try:
                data = opened(root, split)
                for name in data.classes:
                    for image, mask in data[name]:
                        assert image.shape == (3, SIZE, SIZE) and (mask == 1).any()
                        read += 1
            except InputError as error:
                refused.append(str(error))
            try:
                sound = open_folder(root, split, SIZE, "x", DataConfig(), listed)
                for name, pictures in sound.images.items():
                    for picture in pictures:
                        try:
                            sound.reader.read(name, picture, SIZE)
                        except InputError as error:
                            listed.append(str(error))
            except InputError:
                cannot = True
        assert all("\n" not in line for line in refused + listed)
        # What stops a reader is in the list; a split without classes is no problem of the others.
        wrong = [line for line in refused if not line.startswith("no ") or "classes in" not in line]
        assert bool(wrong) == bool(listed) or cannot
        assert bool(read or refused)
