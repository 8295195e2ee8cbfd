"""Data sets by name: `open_dataset("shapes", split="test", fold=0, size=224)`."""

from pathlib import Path
from typing import Any

from fss.config import DataConfig
from fss.data import shapes
from fss.data.dataset import ClassImages, Dataset, Reader, narrowed
from fss.data.folder import open_folder
from fss.data.pascal import Pascal
from fss.data.semantic import Semantic
from fss.errors import InputError, nearest
from fss.settings import read_value

__all__ = ["ClassImages", "Dataset", "Reader", "open_dataset", "open_whole"]

KINDS = ("shapes", "folder", "semantic", "fss1000", "pascal5i")
SCANNED: dict[str, type[Pascal | Semantic]] = {"pascal5i": Pascal, "semantic": Semantic}
SPLITS = ("train", "val", "test")


def open_dataset(
    spec: str,
    *,
    split: str,
    fold: int | None = None,
    size: int,
    options: DataConfig = DataConfig(),
) -> Dataset:
    """Open one split of a data set.

    `spec` is `shapes`, `shapes:knob=value,...` (the knobs are the fields of `shapes.World`),
    `folder:PATH`, `semantic:PATH`, `fss1000:PATH` or `pascal5i:PATH` (a VOCdevkit). `split` is
    train, val or test; `fold` matters where the data set has folds (None means 0) and is ignored
    elsewhere: 0..3, or a folder of `PATH/folds` for `semantic`. Pictures are read at `size` x `size`
    px, and `options` choose among pictures and classes. Raises `InputError` for anything it cannot
    open, and for a split without classes.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; {nearest(split, SPLITS)}")
    problems: list[str] = []
    dataset = _open(spec, split, fold or 0, size, options, problems)
    if problems:
        more = len({*problems}) - 1
        raise InputError(problems[0] + (f" (and {more} more, which fss check lists)" if more else ""))
    if not dataset.images:
        raise InputError(
            f"no {split} classes in {spec.partition(':')[2]}; name some in {split}.txt, one a line, or add folders"
        )
    return dataset


def open_whole(
    spec: str, *, fold: int | None = None, size: int, options: DataConfig = DataConfig()
) -> tuple[list[str], list[Dataset], list[str]]:
    """Open all there is to check: every split, and of pascal5i and semantic the pictures of every fold.

    Returns what there is to say of the data (what each fold of pascal5i and semantic shows, and the
    notes of each split), the data sets of what is sound, and every problem.
    """
    kind, _, rest = _parts(spec, options, fold)
    splits = {"pascal5i": ("train", "val"), "semantic": ("train",)}.get(kind, SPLITS)
    problems: list[str] = []
    fold = None if kind in SCANNED else fold
    datasets = [_open(spec, split, fold, size, options, problems) for split in splits]
    lines = SCANNED[kind](Path(rest), options, problems).report() if kind in SCANNED else []
    return [*lines, *(note for dataset in datasets for note in dataset.notes)], datasets, problems


def _open(spec: str, split: str, fold: int | None, size: int, options: DataConfig, problems: list[str]) -> Dataset:
    """Open what is sound of a split, be it nothing, and add a line to `problems` for what is not.

    So one code opens (`open_dataset` raises the first line) and checks (`fss check` prints them all).
    Fold None is all folds, where we scan.
    """
    kind, colon, rest = _parts(spec, options, fold)
    if size < 32:
        raise InputError(f"size {size} px is too small; choose at least 32")
    if kind == "shapes":
        world = _world(rest, spec) if colon else shapes.World()
        images = shapes.pictures_of(split, fold or 0, world.extra)
        chosen = {name: images[name] for name in narrowed([*images], options.classes, f"the {split} split of {spec}")}
        return Dataset(spec, split, fold or 0, size, chosen, shapes.Shapes(world), all_classes=tuple(images))
    if kind in SCANNED:
        return SCANNED[kind](Path(rest), options, problems).open(spec, split, fold, size)
    return open_folder(Path(rest), split, size, spec, options, problems)


def _parts(spec: str, options: DataConfig, fold: int | None = None) -> tuple[str, str, str]:
    """Kind, colon and rest of a spec that can be one, with options that concern it and a fold that exists."""
    kind, colon, rest = spec.partition(":")
    if kind not in KINDS:
        raise InputError(f"unknown data set {spec!r}; {nearest(kind, KINDS)}")
    if kind != "shapes" and not rest:
        raise InputError(f"data set {spec!r} names no folder; write '{kind}:PATH'")
    idle = {"pascal5i": (), "semantic": ("allow_missing",), "shapes": ("lists", "allow_missing", "novel", "min_pixels")}
    for name in idle.get(kind, ("novel", "min_pixels")):
        if getattr(options, name) != getattr(DataConfig(), name):
            raise InputError(f"--{name.replace('_', '-')} says nothing about {kind!r} data; leave it out")
    if fold is not None and kind != "semantic" and fold not in range(shapes.FOLDS):
        raise InputError(f"fold {fold} does not exist; choose 0..{shapes.FOLDS - 1}")
    return kind, colon, rest


def _world(text: str, spec: str) -> shapes.World:
    """Read `knob=value,knob=value`."""
    knobs: dict[str, Any] = {}
    for part in text.split(","):
        knob, equals, value = part.strip().partition("=")
        if not equals or knob in knobs:
            raise InputError(f"{part!r} in {spec!r}: write KNOB=VALUE, each knob once")
        knobs[knob] = value if value == "none" else read_value(value)  # a knob may be "none", not None
    return shapes.World().override(knobs)
