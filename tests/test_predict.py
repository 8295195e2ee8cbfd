# ruff: noqa: F811  fixtures are imported
import numpy as np
import pytest
import torch
from bad_input import said  # noqa: F401  a fixture
from PIL import Image
from tiny import Boxes, network, write_boxes

from fss.checkpoint import save_checkpoint
from fss.data.pictures import letterbox_image, letterbox_mask, read_pair, read_rgb
from fss.errors import InputError
from fss.predict import predict_array, predict_files


def picture(height: int, width: int, name: str = "1") -> tuple[np.ndarray, np.ndarray]:
    image, mask = Boxes().read("red", name, max(height, width, 16))
    return image[:height, :width], mask[:height, :width]


OTHER = "it's class 0/2.jpg"
SUPPORT = [picture(60, 90, "1"), picture(80, 50, "2")]


@pytest.fixture
def folder(tmp_path):
    write_boxes(tmp_path, classes=1, pictures=2)
    write_boxes(tmp_path / "tall", classes=1, pictures=1, height=90, width=50)
    return tmp_path


def pairs(folder):
    home = folder / "it's class 0"
    return [(home / f"{n}.jpg", home / f"{n}.png") for n in (1, 2)], folder / "tall" / home.name / "1.jpg"


@pytest.mark.parametrize(("height", "width"), [(40, 100), (100, 40), (64, 64), (7, 200), (1, 1)])
def test_the_mask_has_the_querys_own_size(height, width):
    found = predict_array(network(), SUPPORT, picture(height, width, "3")[0], 64)
    assert found.shape == (height, width)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) <= {0, 1}


def test_it_is_what_the_network_says_of_the_fitted_pictures():
    model = network(channels=8)
    # The prediction is made to depend on the picture, so that a turned mask would be found.
    logits = {}

    def said(query, support, mask):
        logits["seen"] = query, support, mask
        bright = query.mean(1)
        return type("Said", (), {"mask": lambda self: (bright > 0.5).long()})()

    model.forward = said
    query = np.zeros((30, 60, 3), np.uint8)
    query[5:25, 40:] = 255
    found = predict_array(model, SUPPORT, query, 60)
    assert np.array_equal(found, (query[..., 0] > 0).astype(np.uint8))
    seen, support, mask = logits["seen"]
    assert seen.shape == (1, 3, 60, 60) and support.shape == (1, 2, 3, 60, 60)
    for k, (image, labels) in enumerate(SUPPORT):
        fitted = torch.from_numpy(letterbox_image(image, 60)).permute(2, 0, 1) / 255
        torch.testing.assert_close(support[0, k], fitted)
        assert np.array_equal(mask[0, k].numpy(), letterbox_mask(labels, 60))
    assert (mask == 255).any()  # the padding is nobody's


def test_the_file_is_a_mask_of_0_and_255(folder):
    support, query = pairs(folder)
    out = folder / "new" / "mask.PNG"
    model = network()
    share = predict_files(model, support, query, out, 64)
    with Image.open(out) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (50, 90))
        found = np.asarray(image)
    expected = predict_array(model, [read_pair(*pair) for pair in support], read_rgb(query), 64)
    assert np.array_equal(found, expected * 255)
    assert share == pytest.approx(expected.mean())


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
            predict_files(network(), support, query, out, 64)
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
        predict_files(network(), **arguments)
    assert "\n" not in str(error.value)
    assert sorted(folder.rglob("*")) == before
