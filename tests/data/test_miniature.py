"""The drawn tree in VOC's layout: read as any VOC, the same again, and with what a test is for."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from fss.config import DataConfig
from fss.data import open_dataset
from fss.data.lists import labels_of
from fss.data.miniature import HEIGHT, WIDTH, draw_tree, paste, save
from fss.data.pictures import read_rgb
from fss.data.scan import scan
from fss.data.voc import Voc


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    path = tmp_path_factory.mktemp("drawn") / "VOC2012"
    draw_tree(path, {"train": 2, "val": 1}, seed=3)
    return path


def names(tree, listed):
    return (tree / "ImageSets" / "Segmentation" / f"{listed}.txt").read_text().split()


def test_it_is_a_voc(tree):
    voc = Voc.find(tree)
    training, tested = names(tree, "trainaug"), names(tree, "val")
    assert (len(training), len(tested)) == (40, 20)
    assert voc.pictures() == voc.labelled() == {*training, *tested}
    assert read_rgb(voc.path(tested[0])).shape == (HEIGHT, WIDTH, 3)
    for n, name in enumerate(tested):  # the class that it is drawn for lies on top
        assert n + 1 in np.unique(voc.labels(name))


def test_it_opens_as_pascal_and_shows_test_classes_in_training(tree):
    sizes = {}
    for novel in ("background", "drop"):
        options = DataConfig(lists="scan", min_pixels=1, novel=novel)
        train = open_dataset(f"pascal5i:{tree}", split="train", fold=1, size=64, options=options)
        sizes[novel] = len({name for images in train.images.values() for name in images})
    assert 0 < sizes["drop"] < sizes["background"]
    shown = scan(Voc.find(tree), names(tree, "trainaug"))
    assert any(len(found.keys() & {*range(1, 21)}) == 3 for found in shown.values())
    assert any(found.keys() & {*labels_of(1)} for found in shown.values())


def test_a_tree_is_drawn_again_by_its_seed(tree, tmp_path):
    same, other = tmp_path / "same", tmp_path / "other"
    draw_tree(same, {"train": 2, "val": 1}, seed=3)
    draw_tree(other, {"train": 2, "val": 1}, seed=4)
    files = [path.relative_to(tree) for path in sorted(tree.rglob("*")) if path.is_file()]
    assert len(files) == 2 * 60 + 2
    assert all((same / file).read_bytes() == (tree / file).read_bytes() for file in files)
    assert any((other / file).read_bytes() != (tree / file).read_bytes() for file in files)


def test_a_border_of_255_lies_around_every_object():
    unknown = {}
    for border in (1, 4):
        image, labels = paste([3, 7], 5, np.random.default_rng(0), border=border)
        assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == labels.dtype == np.uint8
        assert {*np.unique(labels)} == {0, 3, 7, 255}
        objects = np.isin(labels, (3, 7))
        assert not (binary_dilation(objects, iterations=border) & (labels == 0)).any()
        unknown[border] = labels == 255
    assert unknown[4][unknown[1]].all() and unknown[4].sum() > 2 * unknown[1].sum()


def test_a_border_of_no_pixels_lies_within():
    _, labels = paste([3, 7], 5, np.random.default_rng(0), border=0)
    _, wide = paste([3, 7], 5, np.random.default_rng(0), border=1)
    assert {*np.unique(labels)} == {0, 3, 7, 255}
    assert (labels == 255).sum() < (wide == 255).sum()
    assert np.array_equal(np.isin(labels, (3, 7)), np.isin(wide, (3, 7)))


def test_the_last_one_lies_on_top():
    _, under = paste([3], 5, np.random.default_rng(0))
    _, both = paste([3, 7], 5, np.random.default_rng(0))
    hidden = (under == 3) & (both != 3)
    assert hidden.any() and {*np.unique(both[hidden])} <= {7, 255}


def test_save_keeps_the_labels(tmp_path):
    labels = np.array([[0, 20, 255], [1, 15, 0]], np.uint8)
    save(tmp_path / "toy", "A", np.zeros((2, 3, 3), np.uint8), labels)
    assert np.array_equal(Voc.find(tmp_path / "toy").labels("A"), labels)
