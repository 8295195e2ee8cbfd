"""Data sets by name: `open_dataset("shapes", split="test", fold=0, size=224)`."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from fss.data import shapes
from fss.data.dataset import ClassImages, Dataset, Reader
from fss.errors import InputError, nearest

__all__ = ["ClassImages", "Dataset", "Reader", "open_dataset"]

KINDS = ("shapes", "folder", "fss1000")
SPLITS = ("train", "val", "test")


def open_dataset(
    spec: str,
    *,
    split: str,
    fold: int | None = None,
    size: int,
    problems: list[str] | None = None,
) -> Dataset:
    """Open one split of a data set.

    `spec` is `shapes`, `shapes:knob=value,...` (the knobs are the fields of `shapes.World`),
    `folder:PATH` or `fss1000:PATH`. `split` is train, val or test; `fold` 0..3 matters where
    the data set has folds (None means 0) and is ignored elsewhere. Pictures are read at
    `size` x `size` px. Raises `InputError` for anything it cannot open; where a list of
    `problems` is given, single bad classes and files of a folder are appended to it instead.
    """
    kind, colon, rest = spec.partition(":")
    if kind not in KINDS:
        raise InputError(f"unknown data set {spec!r}; {nearest(kind, KINDS)}")
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; {nearest(split, SPLITS)}")
    if fold is not None and fold not in range(shapes.FOLDS):
        raise InputError(f"fold {fold} does not exist; choose 0..{shapes.FOLDS - 1}")
    if size < 32:
        raise InputError(f"size {size} px is too small; choose at least 32")
    if kind == "shapes":
        world = _world(rest, spec) if colon else shapes.World()
        images = shapes.pictures_of(split, fold or 0, world.extra)
        return Dataset(spec, split, fold or 0, size, images, shapes.Shapes(world))
    if not rest:
        raise InputError(f"data set {spec!r} names no folder; write '{kind}:PATH'")
    from fss.data.folder import open_folder  # here, since it costs Pillow's import

    return open_folder(Path(rest), split, size, spec=spec, problems=problems)


def _world(text: str, spec: str) -> shapes.World:
    """Read `knob=value,knob=value`."""
    default = shapes.World()
    types = {knob.name: type(getattr(default, knob.name)) for knob in fields(default)}
    knobs: dict[str, int | float | str] = {}
    for part in text.split(","):
        knob, equals, value = part.strip().partition("=")
        if knob not in types:
            raise InputError(f"unknown knob {knob!r} in {spec!r}; {nearest(knob, types)}")
        if not equals or knob in knobs:
            raise InputError(f"knob {knob!r} in {spec!r} must be set once, as {knob}=value")
        try:
            knobs[knob] = types[knob](value)
        except ValueError:
            kind = types[knob].__name__
            raise InputError(f"{knob}={value!r} in {spec!r} is not of type {kind}") from None
    return replace(default, **knobs)  # type: ignore[arg-type]
