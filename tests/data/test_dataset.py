"""A data set by the names of its classes and pictures, whatever it is read from."""

from pathlib import Path

import numpy as np
import pytest
import torch
import voc
from PIL import Image
from tiny import write_boxes

from fss.data import Dataset, open_dataset
from fss.data.dataset import to_tensor
from fss.errors import InputError


def write_semantic(root: Path) -> Path:
    """Two pictures of each of four classes."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for n in range(8):
        labels = voc.labels({1 + n // 2: voc.LARGE})
        Image.fromarray(voc.palette()[labels]).save(root / "images" / f"{n}.jpg")
        Image.fromarray(labels).save(root / "masks" / f"{n}.png")
    voc.write(root / "classes.txt", "abcd")
    return root


@pytest.fixture(params=["shapes", "folder", "semantic", "pascal5i"])
def data(request, tmp_path) -> Dataset:
    paths = {
        "folder": lambda: f"folder:{write_boxes(tmp_path / 'own', classes=4, pictures=3)}",
        "semantic": lambda: f"semantic:{write_semantic(tmp_path / 'several')}",
        "pascal5i": lambda: f"pascal5i:{voc.voc(tmp_path / 'voc')}",
    }
    spec = paths.get(request.param, lambda: "shapes")()
    return open_dataset(spec, split="test", size=48)


def test_a_picture_is_read_by_its_name(data):
    for class_name in data.classes[:3]:
        for n, name in enumerate(data.images[class_name]):
            image, mask = data.read(class_name, name)
            assert image.shape == (3, 48, 48) and image.dtype == torch.float32
            assert mask.shape == (48, 48) and mask.dtype == torch.uint8 and (mask == 1).any()
            raw, labels = data.reader.read(class_name, name, 48)
            assert torch.equal(image, to_tensor(raw)) and np.array_equal(mask.numpy(), labels)
            listed = data[class_name][n]
            assert torch.equal(listed[0], image) and torch.equal(listed[1], mask)


def test_names_that_do_not_exist_are_errors_of_one_line(data):
    class_name = data.classes[0]
    name = data.images[class_name][0]
    for asked, said in (
        ((class_name, f"{name}_"), f"no picture '{name}_' in class {class_name!r} of {data.spec}; did you mean"),
        ((class_name, "%%%"), f"no picture '%%%' in class {class_name!r} of {data.spec}; dataset["),
        (("%%%", name), f"no class '%%%' in the test split of {data.spec}; known: {class_name}"),
    ):
        with pytest.raises(InputError) as error:
            data.read(*asked)
        assert str(error.value).startswith(said)
        assert "\n" not in str(error.value)
