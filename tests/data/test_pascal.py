"""Pascal-5i from a tree of VOC: masks of every kind, folds, lists, filters, the scan's cache."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import voc as trees
from PIL import Image
from processes import Fss
from scipy.io import savemat
from voc import HALVES, HEIGHT, LARGE, SMALL, WIDTH, add, pair_lists, save_mask, write

from fss.config import DataConfig
from fss.data import open_dataset, open_whole
from fss.data.lists import labels_of
from fss.data.pictures import letterbox_mask
from fss.data.scan import scan
from fss.data.voc import CLASSES, Voc, palette, read_labels
from fss.episodes import EpisodeList, check_shots
from fss.errors import InputError

SIZE = 64


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A sound tree without lists; nobody writes into it."""
    return trees.voc(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def tree(tmp_path, whole) -> Path:
    """A copy to spoil, with HSNet's lists."""
    copy = shutil.copytree(whole, tmp_path / "VOC2012")
    pair_lists(copy)
    return copy


def opened(tree: Path, split: str = "test", fold: int = 0, **options):
    return open_dataset(f"pascal5i:{tree}", split=split, fold=fold, size=SIZE, options=DataConfig(**options))


def fails(tree: Path, *needles: str, split: str = "test", fold: int = 0, **options) -> None:
    with pytest.raises(InputError) as caught:
        opened(tree, split, fold, **options)
    message = str(caught.value)
    assert "\n" not in message
    for needle in needles:
        assert needle in message


# Masks


def test_palette_is_vocs():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    for label, colour in (known | {255: (224, 224, 192)}).items():
        assert tuple(palette()[label]) == colour
    assert len(np.unique(palette(), axis=0)) == 256


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_masks_of_every_mode_hold_the_same_labels(tmp_path, mode):
    mask = trees.labels({8: SMALL, 20: (40, 50, 9, 11)})
    assert set(np.unique(mask)) == {0, 8, 20, 255}
    save_mask(mask, tmp_path / "m.png", mode)
    np.testing.assert_array_equal(read_labels(tmp_path / "m.png"), mask)


def test_masks_of_sbd(tmp_path):
    mask = trees.labels({3: SMALL})
    savemat(tmp_path / "m.mat", {"GTcls": {"Segmentation": mask, "Boundaries": [[]]}})
    np.testing.assert_array_equal(read_labels(tmp_path / "m.mat"), mask)
    (tmp_path / "broken.mat").write_bytes((tmp_path / "m.mat").read_bytes()[:50])
    with pytest.raises(InputError, match=r"broken\.mat is no mask of SBD"):
        read_labels(tmp_path / "broken.mat")


@pytest.mark.parametrize(
    ("mask", "needle"),
    [
        (np.full((6, 8), 21, np.uint8), "label 21"),
        (np.full((6, 8, 3), (1, 2, 3), np.uint8), r"colour \(1, 2, 3\)"),
        (np.full((6, 8), 300, np.uint16), "8 bits"),
    ],
)
def test_other_masks_are_refused(tmp_path, mask, needle):
    Image.fromarray(mask).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=needle):
        read_labels(tmp_path / "m.png")


def test_reading_one_class_keeps_255(tree):
    data = opened(tree, fold=1)
    image, mask = data["bus"][data["bus"].names.index("v-mixed")]
    assert image.shape == (3, SIZE, SIZE)
    labels = trees.labels({6: HALVES[0], 7: HALVES[1]})
    own = np.where(labels == 255, 255, labels == 6).astype(np.uint8)
    assert (own == 255).any() and own.shape == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(data.reader.own_mask("bus", "v-mixed"), own)
    np.testing.assert_array_equal(mask.numpy(), letterbox_mask(own, SIZE))
    assert pickle.loads(pickle.dumps(data.reader)) == data.reader


def test_vocs_labels_are_complete(tree):
    reader = opened(tree, fold=1).reader
    shown = [reader.shows("bus", "v-mixed", other) for other in CLASSES]
    assert shown == [other in ("bus", "car") for other in CLASSES]
    np.testing.assert_array_equal(
        reader.read_other("bus", "v-mixed", "car", SIZE), reader.read("car", "v-mixed", SIZE)[1]
    )
    assert reader.picture("bus", "v-mixed") == reader.picture("car", "v-mixed") == "v-mixed"


def test_listed_without_a_pixel(tree):
    write(tree / "fold_lists" / "val_fold0.txt", ["v02-0__01"])
    with pytest.raises(InputError, match=r"v02-0.*no pixel of aeroplane"):
        opened(tree)["aeroplane"][0]


# Folds and splits


@pytest.mark.parametrize("fold", range(4))
def test_splits_of_a_fold(whole, tmp_path, fold):
    lists = pair_lists(tmp_path)
    novel = {CLASSES[label - 1] for label in labels_of(fold)}
    for options in ({}, {"lists": str(lists)}):
        splits = {split: opened(whole, split, fold, **options) for split in ("train", "val", "test")}
        assert set(splits["test"].classes) == novel
        assert set(splits["train"].classes) == set(splits["val"].classes) == set(CLASSES) - novel
        for split, letter in (("train", "t"), ("val", "v"), ("test", "v")):
            names = [name for names in splits[split].images.values() for name in names]
            assert {name[0] for name in names} == {letter}
        assert splits["test"].fold == fold and splits["test"].notes == ()


def test_the_path_may_be_any_of_three(whole):
    for path in (whole, whole.parent, whole.parent.parent):
        assert opened(path).fingerprint() == opened(whole).fingerprint()


def test_list_order_does_not_change_episodes(tree):
    path = tree / "fold_lists" / "val_fold1.txt"
    first = EpisodeList.sample(opened(tree, fold=1), shots=1, episodes=20, seed=3)
    write(path, path.read_text().split()[::-1])
    again = EpisodeList.sample(opened(tree, fold=1), shots=1, episodes=20, seed=3)
    assert again.sha256 == first.sha256


@pytest.mark.parametrize("policy", ["background", "drop"])
def test_training_pictures_with_a_novel_class(tree, policy):
    # t-mixed shows classes 3 (fold 0) and 8 (fold 1).
    kept = policy == "background"
    assert ("t-mixed" in opened(tree, "train", 0, novel=policy).images["cat"]) == kept
    assert ("t-mixed" in opened(tree, "train", 1, novel=policy).images["bird"]) == kept
    both = opened(tree, "train", 2, novel=policy).images
    assert "t-mixed" in both["cat"] and "t-mixed" in both["bird"]
    if kept:
        mask = opened(tree, "train", 0).reader.own_mask("cat", "t-mixed")
        assert (mask[HALVES[0][0] : HALVES[0][0] + HALVES[0][2], : HALVES[0][3]] == 0).all()


# Lists and the scan


@pytest.mark.parametrize("nested", [False, True])
def test_pair_lists_by_either_name(tree, nested):
    lists = tree / "fold_lists"
    expected = opened(tree, "train", 1).images
    if nested:
        for path in list(lists.iterdir()):
            part, fold = path.stem.split("_")
            (lists / part).mkdir(exist_ok=True)
            path.rename(lists / part / f"{fold}.txt")
    assert opened(tree, "train", 1).images == expected
    assert opened(tree, fold=1).images["bus"] == ("v-mixed", "v06-0", "v06-1")


def test_size_filter(tree):
    add(tree, "v01-0", {1: (10, 10, 32, 63)})  # 2,016 px
    add(tree, "v01-1", {1: (10, 10, 32, 64)})  # 2,048 px
    assert "v01-0" in opened(tree).images["aeroplane"], "as listed"
    for options in ({"lists": "scan"}, {"min_pixels": 2048}):
        names = opened(tree, **options).images["aeroplane"]
        assert "v01-0" not in names and "v01-1" in names
    assert "v01-0" in opened(tree, lists="scan", min_pixels=2016).images["aeroplane"]
    assert opened(tree, lists="scan", min_pixels=1, fold=1).images["bus"][0] == "v-mixed"
    assert "v-mixed" not in opened(tree, lists="scan", fold=1).images["bus"]


def test_pfenets_lists_name_images(tree, tmp_path):
    lists = tmp_path / "pascal"
    for name, part in (("voc_sbd_merge_noduplicate.txt", "t"), ("val.txt", "v")):
        names = sorted(path.stem for path in (tree / "JPEGImages").glob(f"{part}*"))
        assert f"{part}-mixed" in names
        write(lists / name, [f"JPEGImages/{n}.jpg SegmentationClassAug/{n}.png" for n in names[::-1]])
    for split in ("train", "val", "test"):
        listed = opened(tree, split, 1, lists=str(lists), min_pixels=1).images
        assert listed == opened(tree, split, 1, lists="scan", min_pixels=1).images
        assert listed == opened(tree, split, 1).images


def test_training_pictures_of_the_scan_are_all_but_vocs_validation(tree):
    add(tree, "extra", {4: LARGE})
    assert "extra" in opened(tree, "train", 1, lists="scan").images["boat"]
    write(tree / "ImageSets" / "Segmentation" / "trainaug.txt", ["t04-0"])
    assert opened(tree, "train", 1, lists="scan").images["boat"] == ("t04-0",)


def test_merge_of_voc_and_sbd(tree):
    """VOC's own mask goes first; SBD's fills in, and never reaches the test."""
    shutil.rmtree(tree / "fold_lists")
    (tree / "SegmentationClassAug").rename(tree / "SegmentationClass")
    fails(tree, "VOC's own masks only", "SBD", "fss download", split="train", fold=1)
    assert opened(tree).images["bird"], "the test needs VOC alone"
    few = opened(tree, "train", 1, allow_missing=True)
    assert few.images["bird"]
    (note,) = few.notes
    assert "has VOC's own masks only, a seventh of those to train on" in note
    sbd = tree / "sbd" / "cls"
    sbd.mkdir(parents=True)
    added, own, validation = "t03-0", "t03-1", "v03-0"
    add(tree, own, {3: LARGE}, "SegmentationClass")
    (tree / "SegmentationClass" / f"{added}.png").unlink()
    for name in (added, own, validation):
        savemat(sbd / f"{name}.mat", {"GTcls": {"Segmentation": trees.labels({4: LARGE})}})
    train = opened(tree, "train", 1)
    assert added in train.images["boat"] and added not in train.images["bird"]
    assert own in train.images["bird"] and own not in train.images["boat"]
    assert validation not in train.images["boat"] and validation in opened(tree).images["bird"]
    assert (train.reader.own_mask("boat", added) == 1).sum() == LARGE[2] * LARGE[3]


@pytest.mark.parametrize("part", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_and_sbd_are_read_where_their_archives_unpack(tree, tmp_path, part):
    """By whichever folder they are named; an empty folder of masks counts as missing."""
    root = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    root.parent.mkdir(parents=True)
    tree.rename(root)
    shutil.rmtree(root / "fold_lists")
    (root / "SegmentationClassAug").rename(root / "SegmentationClass")
    (root / "SegmentationClassAug").mkdir()
    sbd = tmp_path / "data" / "benchmark_RELEASE" / "dataset" / "cls"
    sbd.mkdir(parents=True)
    given = tmp_path / "data" / part
    assert Voc.find(given).masks == (root / "SegmentationClass",)
    (root / "SegmentationClass" / "t03-0.png").unlink()
    savemat(sbd / "t03-0.mat", {"GTcls": {"Segmentation": trees.labels({4: LARGE})}})
    assert Voc.find(given) == Voc(root, (root / "SegmentationClass", sbd))
    train = opened(given, "train", 1)
    assert train.images["boat"] == ("t03-0", "t04-0") and train.notes == ()
    _, mask = train["boat"][0]
    assert (mask == 1).any()


def test_scan_counts_by_hand_and_is_kept(tree, monkeypatch, cache):
    source = Voc.find(tree)
    counts = scan(source, ["v-mixed", "v01-0"])
    high, low = HALVES
    assert counts["v-mixed"] == {
        0: HEIGHT * WIDTH - high[2] * high[3] - low[2] * low[3] - 2 * WIDTH,
        6: high[2] * high[3],
        7: low[2] * low[3],
        255: 2 * WIDTH,
    }
    read = []
    real = read_labels
    monkeypatch.setattr("fss.data.voc.read_labels", lambda path: read.append(path) or real(path))
    assert scan(source, ["v-mixed", "v01-0"]) == counts and read == []
    add(tree, "v01-0", {1: SMALL})  # written anew
    os.utime(tree / "SegmentationClassAug" / "v01-0.png", (1, 1))  # whatever the clock's grain
    assert scan(source, ["v-mixed", "v01-0"])["v01-0"][1] == SMALL[2] * SMALL[3]
    assert [path.stem for path in read] == ["v01-0"]
    (kept,) = (cache / "fss" / "scans").iterdir()
    for damage in (b"", b"[]", b'{"format": "scan-1", "masks": {}}', kept.read_bytes()[:-9]):
        kept.write_bytes(damage)
        assert scan(source, ["v-mixed"])["v-mixed"] == counts["v-mixed"]


def test_scan_does_without_a_cache(tree, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert scan(Voc.find(tree), ["v01-0"])["v01-0"][1] == LARGE[2] * LARGE[3]


# What a user gets wrong


def test_half_a_tree_names_what_is_missing(tree, tmp_path):
    fails(tmp_path / "nowhere", "no folder")
    fails(
        tmp_path / "empty" if (tmp_path / "empty").mkdir() else tmp_path / "empty",
        "no VOC tree",
        "JPEGImages",
        "SegmentationClassAug",
        "http",
    )
    (tree / "JPEGImages").rename(tree / "pictures")
    fails(tree, "only part of a VOC tree", "without JPEGImages;", "fss download")
    (tree / "pictures").rename(tree / "JPEGImages")
    shutil.rmtree(tree / "fold_lists")
    (tree / "ImageSets" / "Segmentation" / "val.txt").unlink()
    fails(tree, "without ImageSets/Segmentation/val.txt", "--lists DIR")
    for mask in (tree / "SegmentationClassAug").iterdir():
        mask.unlink()
    fails(tree, "without masks (SegmentationClassAug, or SegmentationClass and SBD's cls)")
    shutil.rmtree(tree / "SegmentationClassAug")
    fails(tree, "without masks (SegmentationClassAug, or SegmentationClass and SBD's cls)")


@pytest.mark.parametrize("fold", [-1, 4])
def test_folds_are_0_to_3(tree, fold):
    fails(tree, f"fold {fold} does not exist; choose 0..3", fold=fold)


@pytest.mark.parametrize(
    ("lines", "needle"),
    [
        (["v01-0__01", "v02-0__02", "v01-0__01"], "line 3: v01-0__01 is listed twice"),
        (["v01-0__01", "", "v01-0 01"], "line 3: 'v01-0 01' is not of the form image__class"),
        (["v06-0__06"], "class 6 is not one of fold 0 (1 to 5)"),
    ],
)
def test_unsound_pair_lists(tree, lines, needle):
    write(tree / "fold_lists" / "val_fold0.txt", lines)
    fails(tree, "val_fold0.txt", needle)


def test_unsound_image_lists(tree, tmp_path):
    fails(tree, "no lists of Pascal-5i", lists=str(tmp_path))
    write(tmp_path / "val.txt", ["JPEGImages/a.jpg x", "JPEGImages/b.jpg x", "c/a.jpg x"])
    fails(tree, "line 3: a is listed twice", lists=str(tmp_path))
    fails(tree, "no list", "voc_sbd_merge", split="train", lists=str(tmp_path))
    (tmp_path / "val.txt").write_bytes(b"\xff\xfe")
    fails(tree, "not UTF-8", lists=str(tmp_path))


@pytest.mark.parametrize("lists", [None, "scan"])
def test_absent_files_are_counted_and_named(tree, lists):
    for n, label in enumerate(range(1, 6)):
        (tree / "JPEGImages" / f"v{label:02}-0.jpg").unlink()
        if n % 2:
            (tree / "SegmentationClassAug" / f"v{label:02}-0.png").unlink()
    (tree / "SegmentationClassAug" / "v05-1.png").unlink()
    named = ["v01-0, v02-0, v03-0, v04-0, v05-0, ...", "--allow-missing"]
    if lists == "scan":  # which class a picture without a mask has, nobody knows
        fails(tree, "6 of ", *named, lists=lists)
        assert opened(tree, lists=lists, allow_missing=True).images["bird"] == ("v03-1",)
        return
    fails(tree, "6 of 10 pictures", *named)
    data = opened(tree, allow_missing=True)
    assert data.images["bird"] == ("v03-1",) and data.images["bottle"] == ()
    (note,) = data.notes
    assert note.startswith("test: 4 of 10 listed pairs") and "6 of 10 pictures are missing" in note
    assert opened(tree, classes="aeroplane, bird", allow_missing=True).notes[0].startswith("test: 2 of 4 ")
    assert opened(tree, fold=1).notes == ()


def test_narrowing(tree):
    data = opened(tree, fold=1, classes="cow,cat")
    assert data.classes == ("cat", "cow") and len(data.all_classes) == 5
    fails(tree, "'cta'", "did you mean 'cat'?", fold=1, classes="cta,cow")
    fails(tree, "no class 'aeroplane' in the test split", fold=1, classes="aeroplane")
    fails(tree, "no class ' , '", fold=1, classes=" , ")


def test_a_class_without_pictures_is_no_silent_skip(tree):
    for path in (tree / "JPEGImages").glob("v01-*"):
        path.unlink()
    data = opened(tree, allow_missing=True)
    assert data.images["aeroplane"] == ()
    with pytest.raises(InputError, match="class 'aeroplane' has 0 pictures"):
        check_shots(data, 1)


@pytest.mark.parametrize("spec", ["shapes", "folder:x", "fss1000:x"])
def test_options_that_say_nothing_elsewhere(spec):
    for options in (DataConfig(novel="drop"), DataConfig(min_pixels=1)):
        with pytest.raises(InputError, match=r"says nothing about"):
            open_dataset(spec, split="test", size=SIZE, options=options)


# The report


def report(spec: str, options: DataConfig = DataConfig()) -> list[str]:
    lines, datasets, _ = open_whole(spec, size=64, options=options)
    return lines[: len(lines) - sum(len(dataset.notes) for dataset in datasets)]


def test_report_counts_the_pairs_of_each_fold(tree):
    add(tree, "v01-0", {1: (20, 20, 20, 30)})  # listed, 600 px
    listed = report(f"pascal5i:{tree}")
    assert listed[:4] == [f"fold {n}: {10 + 2 * (n == 1)} validation pairs" for n in range(4)]
    assert listed[4] == f"counted by the lists in {tree / 'fold_lists'}"
    scanned = report(f"pascal5i:{tree}", DataConfig(lists="scan"))
    assert scanned[0] == "fold 0: 9 validation pairs" and scanned[4] == "counted by the own scan"
    masks = [path.stem for path in (tree / "SegmentationClassAug").glob("v*")]
    share = np.mean([Voc.find(tree).labels(name) == 255 for name in masks])
    assert listed[5:] == scanned[5:] == [f"255 (ignored): {100 * share:.1f} % of the pixels of 41 validation masks"]


def test_report_of_part_of_a_tree_takes_the_lists_that_are_given(tree, tmp_path):
    (tree / "fold_lists").rename(tmp_path / "lists")
    (tree / "ImageSets" / "Segmentation" / "val.txt").unlink()
    lines = report(f"pascal5i:{tree}", DataConfig(lists=str(tmp_path / "lists")))
    assert lines[0] == "fold 0: 10 validation pairs" and lines[-1].endswith("of 41 validation masks")


def test_check_in_a_process(tree, tmp_path):
    picture = tree / "JPEGImages" / "v-mixed.jpg"
    picture.write_bytes(picture.read_bytes()[:-300])
    mask = tree / "SegmentationClassAug" / "t01-0.png"
    tested = tree / "SegmentationClassAug" / "v03-0.png"
    for each in (mask, tested):
        each.write_bytes(each.read_bytes()[:-30])
    (tree / "JPEGImages" / "t20-0.jpg").unlink()
    check = ("check", "--data", f"pascal5i:{tree}", "--size", SIZE, "--workers", 1, "--quiet")
    process = Fss(*check, folder=tmp_path)
    assert process.end() == 1 and process.err == ""
    lines = process.out.splitlines()
    assert lines[0] == "fold 0: 10 validation pairs" and lines[-1].endswith("4 problems")
    for told in (str(picture), str(mask), str(tested), "t20-0; add them"):
        assert len([line for line in lines if told in line]) == 1
    for spoilt in (picture, mask, tested):
        spoilt.unlink()
    process = Fss(*check, "--allow-missing", folder=tmp_path)
    assert process.end() == 0, process.err
    lines = process.out.splitlines()
    assert any(line.startswith("train: 20 of 22 listed pairs") for line in lines)
    assert lines[-1].endswith("every picture is sound")
