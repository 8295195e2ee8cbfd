# ruff: noqa: F811  fixtures are imported
"""``fss predict``: masks of one query or of a folder of them, of one object or of several classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from bad_input import said  # noqa: F401  a fixture
from matplotlib.colors import to_rgb
from PIL import Image
from tiny import network, write_boxes

from fss.checkpoint import save_checkpoint
from fss.data import open_dataset
from fss.data.pictures import read_pair, read_rgb
from fss.errors import InputError
from fss.lab.label import label_files
from fss.predict import encode, label, predict_array
from fss.viz import FALSE_ALARM, HIT

OTHER = "it's class 0/2.jpg"


@pytest.fixture
def folder(tmp_path):
    write_boxes(tmp_path, classes=1, pictures=2)
    write_boxes(tmp_path / "tall", classes=1, pictures=1, height=90, width=50)
    return tmp_path


def pairs(folder):
    home = folder / "it's class 0"
    return [(home / f"{n}.jpg", home / f"{n}.png") for n in (1, 2)], folder / "tall" / home.name / "1.jpg"


def test_the_file_is_a_mask_of_0_and_255(folder):
    support, query = pairs(folder)
    out = folder / "new" / "mask.PNG"
    model = network()
    ((made, line),) = label_files(model, support, query, out, size=64)
    with Image.open(out) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (50, 90))
        found = np.asarray(image)
    expected = predict_array(model, [read_pair(*pair) for pair in support], read_rgb(query), 64)
    assert np.array_equal(found, expected * 255)
    assert made and line == f"{out}: {100 * expected.mean():.1f} % of the picture is object"


@pytest.mark.parametrize("label", [0, 1])
def test_the_command_says_what_was_found_or_that_nothing_was(folder, said, label):
    model = network()
    model.decoder.classify[-1].weight.data.zero_()
    model.decoder.classify[-1].bias.data.copy_(torch.eye(2)[label])  # every pixel is of that label
    save_checkpoint(model, folder / "one.safetensors", trained={"size": 64})
    support, query = pairs(folder)
    out = folder / "mask.png"
    ask = ("predict", "--checkpoint", folder / "one.safetensors", "--query", query, "--out", out)
    found = said(*ask, "--support", *support[0])
    with Image.open(out) as mask:
        assert mask.size == (50, 90)
        assert (np.asarray(mask) == 255 * label).all()
    if label:
        assert found == (0, f"{out}: 100.0 % of the picture is object\n", "")
        return
    nothing = f"nothing found: no pixel of {query} is marked; the query may not show what the support's mask marks\n"
    assert found == (0, nothing, "")


def test_inputs_are_never_overwritten(folder):
    support, query = pairs(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    home = support[0][0].parent
    (folder / "link.png").symlink_to(support[0][1])
    for out in (support[1][1], home / ".." / home.name / "1.png", folder / "link.png", query.with_suffix(".png")):
        with pytest.raises(InputError, match="is one of the inputs, or the mask beside the query"):
            list(label_files(network(), support, query, out, size=64))
    assert before.items() <= {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}.items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(out="mask.jpg"), r"mask\.jpg: masks are written as PNG"),
        (dict(out="mask"), "mask: masks are written as PNG"),
        (dict(query="it's class 0/2.jpg"), r"2\.jpg: is both support and query"),
        (dict(query="it's class 0/../it's class 0/2.jpg"), "is both support and query"),
        (dict(query="none.jpg"), r"none\.jpg cannot be read"),
        (dict(size=31), "size 31 px is too small; choose at least 32"),
        (dict(size=-5), "size -5 px is too small"),
        (
            dict(support=[("tall/it's class 0/1.jpg", "it's class 0/1.png")], query=OTHER),
            r"mask .*1\.png is 80 x 60 pixels, its picture 1\.jpg 50 x 90",
        ),
        (dict(support=[("it's class 0/1.jpg", "none.png")]), r"none\.png cannot be read"),
        (dict(support=[("it's class 0/1.jpg", "text.png")]), r"text\.png is no picture"),
        (dict(out="text.png/mask.png"), r"text\.png/mask\.png: cannot be written"),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(folder, change, message):
    (folder / "text.png").write_text("no picture")
    support, query = pairs(folder)
    before = sorted(folder.rglob("*"))
    arguments = {
        "support": [tuple(folder / p for p in pair) for pair in change.get("support", [])] or support,
        "query": folder / change["query"] if "query" in change else query,
        "out": folder / change.get("out", "mask.png"),
        "size": change.get("size", 64),
    }
    with pytest.raises(InputError, match=message) as error:
        list(label_files(network(), **arguments))
    assert "\n" not in str(error.value)
    assert sorted(folder.rglob("*")) == before


# Several classes, and folders


def coloured(root, names=("red", "blue")):
    """A model that marks the colour of its support's object: (model, pictures by name)."""
    pictures = {}
    for n, name in enumerate(names):
        image = np.full((40, 60, 3), 128, np.uint8)
        mask = np.zeros((40, 60), np.uint8)
        mask[10:30, 10 + 20 * n : 25 + 20 * n] = 255
        image[mask > 0] = (250, 0, 0) if n == 0 else (0, 0, 250)
        for suffix, pixels in ((".bmp", image), (".png", mask)):
            Image.fromarray(pixels).save(root / f"{name}{suffix}")
        pictures[name] = (root / f"{name}.bmp", root / f"{name}.png")
    model = network()
    model.backbone.forward = lambda pictures: pictures
    model.encode_support = lambda support, mask: (
        (support[0] * (mask == 1)[0][:, None]).sum((0, 2, 3)) / (mask == 1).sum()
    )

    def segment(query, colour, size):
        near = 0.5 - (query - colour[None, :, None, None]).abs().sum(1)
        return type("Said", (), {"logits": torch.stack([0 * near, near], 1)})()

    model.segment_features = segment
    return model, pictures


@pytest.fixture
def street(tmp_path):
    """A query with a red and a blue object and one that has neither, as a folder; and a model."""
    queries = tmp_path / "street"
    queries.mkdir()
    image = np.full((50, 80, 3), 128, np.uint8)
    Image.fromarray(image).save(queries / "2.bmp")
    image[5:25, 5:25], image[20:45, 40:70] = (250, 0, 0), (0, 0, 250)
    Image.fromarray(image).save(queries / "1.bmp")
    Image.fromarray(image[..., 0]).save(queries / "1.png")  # its own label, not a query
    Image.fromarray(image).save(queries / "10.png")  # no picture of its name: a query
    return queries, *coloured(tmp_path)


def named(pictures):
    return [(pictures[name][0].with_name(f"{name}.bmp"), mask) for name, (_, mask) in pictures.items()], [
        (f"{name}={image}", mask) for name, (image, mask) in pictures.items()
    ]


def as_paths(support):
    return [(Path(image), mask) for image, mask in support]


def test_a_label_map_reads_back_by_its_numbers_names_and_colours(street, tmp_path):
    queries, model, pictures = street
    support = as_paths(named(pictures)[1])
    out = tmp_path / "labels.png"
    ((made, line),) = label_files(model, support, queries / "1.bmp", out, size=160, overlay=tmp_path / "look.png")
    with Image.open(out) as image:
        assert image.mode == "P" and image.size == (80, 50)
        labels, shown = np.asarray(image), np.asarray(image.convert("RGB"))
    truth = np.zeros((50, 80), np.uint8)
    truth[5:25, 5:25], truth[20:45, 40:70] = 1, 2
    wrong = labels != truth
    assert wrong.mean() < 0.05 and set(np.unique(labels)) == {0, 1, 2}
    assert (shown[labels == 0] == 0).all()
    for n, color in enumerate((HIT, FALSE_ALARM), 1):
        assert (shown[labels == n] == np.round(np.multiply(to_rgb(color), 255))).all()
    assert (tmp_path / "labels.txt").read_text() == "red\nblue\n"
    shares = [100 * (labels == n).mean() for n in (1, 2)]
    assert made and line == f"{out}: {shares[0]:.1f} % red, {shares[1]:.1f} % blue"
    with Image.open(tmp_path / "look.png") as look:
        assert min(look.size) > 300


def test_semantic_reads_what_a_folder_of_queries_becomes(street, tmp_path):
    queries, model, pictures = street
    out = tmp_path / "new" / "masks"
    found = list(label_files(model, as_paths(named(pictures)[1]), queries, out, size=160))
    assert [made for made, _ in found] == [True] * 3 and "nothing found" in found[1][1]
    assert sorted(path.name for path in out.iterdir()) == ["1.png", "10.png", "2.png", "classes.txt", "overview.png"]
    root = tmp_path / "new"
    (root / "images").mkdir()
    for name in ("1", "2"):
        (queries / f"{name}.bmp").rename(root / "images" / f"{name}.bmp")
    (queries / "10.png").rename(root / "images" / "10.png")
    (out / "overview.png").unlink()
    (out / "classes.txt").rename(root / "classes.txt")
    data = open_dataset(f"semantic:{root}", split="test", size=64)
    assert {*data.reader.legend.names} == {(1, "red"), (2, "blue")}


def test_one_bad_picture_does_not_stop_the_rest(street, tmp_path):
    queries, model, pictures = street
    (queries / "3.jpg").write_bytes(b"no picture")
    found = list(label_files(model, [pictures["red"]], queries, tmp_path / "masks", size=64))
    assert [made for made, _ in found] == [True, True, False, True]
    assert found[2][1].startswith(f"left out: {queries / '3.jpg'} is no picture")
    assert not (tmp_path / "masks" / "3.png").exists() and not (tmp_path / "masks" / "classes.txt").exists()
    assert set(np.unique(np.asarray(Image.open(tmp_path / "masks" / "1.png")))) == {0, 255}


def test_the_labels_are_the_argmax_over_the_classes_and_the_ground():
    model = network()
    model.decoder.classify[-1].bias.data += torch.tensor([0.0, 0.05])
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(4)]
    masks = [(rng.random((48, 64)) < 0.4).astype(np.uint8) for _ in range(3)]
    codes = [encode(model, [(image, mask)], 64) for image, mask in zip(pictures, masks, strict=False)]
    got = label(model, codes, pictures[3], 64)
    singly = [
        predict_array(model, [(image, mask)], pictures[3], 64) for image, mask in zip(pictures, masks, strict=False)
    ]
    assert ((got > 0) == np.any(singly, axis=0)).all()  # ground where every class alone is ground
    assert all(singly[n - 1][got == n].all() for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(out="street"), "is a folder, so give another folder for its masks"),
        (dict(out="masks.png"), "is a folder, so give another folder for its masks"),
        (dict(query="empty"), "no pictures in .*empty; they end in .png, .jpg"),
        (dict(mixed=True), "--support: give labelled pictures, as IMAGE MASK, or all of them as NAME=IMAGE MASK"),
        (dict(overlay="red.bmp"), "red.bmp: the overview is a PNG, and none of the masks"),
        (dict(overlay="blue.png"), "blue.png: is one of the inputs"),
        (dict(overlay="masks/2.png"), "2.png: the overview is a PNG, and none of the masks"),
        (dict(named="cat="), "--support 'cat=': write NAME=IMAGE"),
        (dict(named="ca\nt={red}"), "write NAME=IMAGE, a name in one line"),
        (dict(out="kept"), "classes.txt: is there already and names other classes; choose another --out"),
    ],
)
def test_what_a_folder_or_classes_cannot_be(street, tmp_path, change, message):
    queries, model, pictures = street
    (tmp_path / "empty").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "classes.txt").write_text("car\nbus\n")
    support = as_paths(named(pictures)[1])
    if "mixed" in change:
        support[0] = pictures["red"]
    if "named" in change:
        support[0] = (Path(change["named"].format(red=pictures["red"][0])), pictures["red"][1])
    overlay = tmp_path / change["overlay"] if "overlay" in change else None
    query, out = tmp_path / change.get("query", "street"), tmp_path / change.get("out", "masks")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message):
        list(label_files(model, support, query, out, size=64, overlay=overlay))
    assert sorted(tmp_path.rglob("*")) == before


def test_names_are_no_formulas_and_a_look_may_go_into_a_new_folder(street, tmp_path):
    queries, model, pictures = street
    odd = tmp_path / r"a$x_{$ \q.bmp"
    (queries / "1.bmp").rename(odd)
    support = [(Path(f"$\\q$={pictures['red'][0]}"), pictures["red"][1])]
    look = tmp_path / "new" / "look.png"
    ((made, line),) = label_files(model, support, odd, tmp_path / "m.png", size=64, overlay=look)
    assert made and look.is_file() and (tmp_path / "m.txt").read_text() == "$\\q$\n"


def test_two_pictures_of_one_name_would_get_one_mask(street, tmp_path):
    queries, model, pictures = street
    Image.new("RGB", (60, 50)).save(queries / "1.jpg")
    with pytest.raises(InputError, match=r"1\.\w+ and 1\.\w+ would get one mask; rename one"):
        list(label_files(model, [pictures["red"]], queries, tmp_path / "masks", size=64))


def test_the_command_on_a_folder(folder, said):
    model = network()
    save_checkpoint(model, folder / "one.safetensors", trained={"size": 64})
    support, _ = pairs(folder)
    queries = folder / "many"
    queries.mkdir()
    for n in (1, 2):
        Image.new("RGB", (70, 50), (90 * n, 10, 10)).save(queries / f"{n}.jpg")
    ask = ("predict", "--checkpoint", folder / "one.safetensors", "--query", queries, "--quiet")
    (queries / "3.jpg").write_text("no picture")
    code, out, err = said(*ask, "--out", folder / "masks", "--support", f"a={support[0][0]}", support[0][1])
    assert code == 1 and len(out.splitlines()) == 2 and err.startswith("left out: ") and err.count("\n") == 1
    assert (folder / "masks" / "2.png").is_file() and (folder / "masks" / "overview.png").is_file()
    (queries / "3.jpg").unlink()
    assert said(*ask, "--out", folder / "masks", "--support", f"a={support[0][0]}", support[0][1])[0] == 0
