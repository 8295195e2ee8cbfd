"""Which classes a split has: those that lists name, and a fixed share of those in no list."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from unicodedata import normalize

from fss.data.lists import lines_of
from fss.errors import InputError

LISTS = {"train": ("train.txt", "trn.txt"), "val": ("val.txt",), "test": ("test.txt",)}
VAL_EVERY = 8
Lists = Mapping[str, list[str] | None]  # split -> its classes, or None where it has no list


def read_lists(folder: Path, *, needed: bool = False) -> Lists:
    """Read the lists of a folder, one class a line, UTF-8; a split may have none.

    Raises `InputError` for a list that is not text, for a class that is listed for the test and for
    another split, and, where a list is `needed`, for a folder without any.
    """
    paths = {split: [folder / name for name in names if (folder / name).is_file()] for split, names in LISTS.items()}
    if needed and not any(paths.values()):
        raise InputError(f"no lists of classes in {folder}; expected trn.txt, val.txt, test.txt")
    listed = {
        split: [normalize("NFC", line) for _, line in lines_of(found[0])] if found else None
        for split, found in paths.items()
    }
    if shared := sorted({*(listed["train"] or ()), *(listed["val"] or ())} & {*(listed["test"] or ())}):
        raise InputError(
            f"{some(shared)} in {folder}: listed both for training and in test.txt; take them out of one list"
        )
    return listed


def shared_out(classes: Iterable[str], listed: Lists) -> dict[str, list[str]]:
    """The classes of each split in order: those listed, and a share of those in no list.

    Classes in no list go to the one of train and test that has no list, or, where neither has, the
    first 70 % in order to train and the others to test. Validation classes come out of the training
    ones, and are never in "train": those listed, or every eighth from the first on.
    """
    train, val, test = (listed[name] for name in ("train", "val", "test"))
    free = in_order({*classes} - {name for names in listed.values() for name in names or ()})
    if train is None and test is None:
        cut = max(1, 7 * len(free) // 10)
        train, test = free[:cut], free[cut:]
    train = in_order({*(free if train is None else train)} - {*(val or ())})
    if val is None:
        val = train[::VAL_EVERY] if len(train) > 1 else []
        train = [name for name in train if name not in val]
    return {"train": train, "val": in_order({*val}), "test": in_order({*(free if test is None else test)})}


def in_order(names: Iterable[str]) -> list[str]:
    """Numbers by value, then other names as text."""
    return sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


def some(names: Collection[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join([*names][:most]) + more
