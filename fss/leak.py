"""Whether a network has been trained on classes that a test keeps unseen.

Classes of different data sets are compared by name, so that `couch` in somebody's photographs is
VOC's `sofa`. That finds no class inside another (`person` in pictures of clothes, `taxi` among
cars) and no picture that two data sets share.
"""

from typing import Any

from fss.config import DataConfig
from fss.data import open_dataset
from fss.data.dataset import Dataset
from fss.errors import InputError

# COCO's and other common words for VOC's classes, as `_key` spells them.
SYNONYMS = {
    "airplane": "aeroplane",
    "plane": "aeroplane",
    "bike": "bicycle",
    "couch": "sofa",
    "cab": "car",
    "motorcycle": "motorbike",
    "people": "person",
    "plantpot": "pottedplant",
    "television": "tvmonitor",
    "tv": "tvmonitor",
}


def leaked(trained: dict[str, Any], dataset: Dataset) -> list[str] | None:
    """Return the classes of a test that a network was trained on, by their names in the test.

    All classes that the test split keeps unseen count, also those that are not measured: weights
    that have seen one of a fold's five classes are of another fold. A train or val split is
    measured on purpose, so nothing leaks there. None means that nobody knows: the header lists no
    classes, and the data it names cannot be opened here.

    Args:
        trained: a checkpoint's header; empty for an untrained network.
        dataset: what is measured.
    """
    if not trained or dataset.split != "test":
        return []
    classes = trained.get("classes")
    if classes is None:
        try:
            classes = open_dataset(
                trained["data"],
                split="train",
                fold=trained["fold"],
                size=trained["size"],
                options=DataConfig.from_json(trained["options"]),
            ).classes
        except (InputError, KeyError):
            return None
    known = {_key(name) for name in classes}
    return [name for name in dataset.all_classes or dataset.classes if _key(name) in known]


def _key(name: str) -> str:
    plain = "".join(c for c in name.casefold() if c.isalnum()) or name
    return SYNONYMS.get(plain, plain)
