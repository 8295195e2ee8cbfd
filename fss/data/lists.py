"""The lists of Pascal-5i that go around: HSNet's name image and class, PFENet's name images."""

import re
from dataclasses import dataclass
from pathlib import Path

from fss.errors import InputError
from fss.files import expanded

FOLDS = 4
CLASSES_A_FOLD = 5
Pair = tuple[str, int]  # picture, label


@dataclass(frozen=True)
class PairLists:
    """HSNet's: `trn_fold0.txt` or `trn/fold0.txt` ..., lines `2007_000033__01`.

    The list of a fold names that fold's classes, so that one trains on the `trn` lists of the
    three other folds.
    """

    folder: Path

    def path(self, part: str, fold: int) -> Path:
        """Return where the list of a part ("trn" or "val") and fold lies; it may be missing."""
        flat = self.folder / f"{part}_fold{fold}.txt"
        return flat if flat.is_file() else self.folder / part / f"fold{fold}.txt"

    def pairs(self, part: str, fold: int) -> list[Pair]:
        """Read a list. Raises `InputError` that names the line for one that is not sound."""
        path = self.path(part, fold)
        pairs: dict[Pair, None] = {}
        for number, line in lines_of(path):
            found = re.fullmatch(r"(\S+)__(\d+)", line)
            if not found:
                raise InputError(f"{path}, line {number}: {line!r} is not of the form image__class")
            pair = (found[1], int(found[2]))
            if pair[1] not in labels_of(fold):
                raise InputError(
                    f"{path}, line {number}: class {pair[1]} is not one of fold {fold} "
                    f"({labels_of(fold)[0]} to {labels_of(fold)[-1]}); correct the list"
                )
            if pair in pairs:
                raise InputError(
                    f"{path}, line {number}: {line} is listed twice, and would count twice; remove one line"
                )
            pairs[pair] = None
        return list(pairs)

    def images(self, part: str) -> list[str]:
        """Read the names of a part's pictures, of all folds."""
        return sorted({name for fold in range(FOLDS) for name, _ in self.pairs(part, fold)})


@dataclass(frozen=True)
class ImageLists:
    """PFENet's: `voc_sbd_merge_noduplicate.txt` for training and `val.txt`, lines of two paths."""

    folder: Path

    def path(self, part: str) -> Path:
        """Return where the list of a part ("trn" or "val") lies."""
        return self.folder / {"trn": "voc_sbd_merge_noduplicate.txt", "val": "val.txt"}[part]

    def images(self, part: str) -> list[str]:
        """Read the names of a part's pictures; see `read_images`."""
        return read_images(self.path(part))


def find_lists(folder: Path) -> PairLists | ImageLists:
    """Tell by the names of its files of which kind a folder's lists are."""
    pairs, images = PairLists(expanded(folder)), ImageLists(expanded(folder))
    if pairs.path("trn", 0).is_file() or pairs.path("val", 0).is_file():
        return pairs
    if images.path("trn").is_file() or images.path("val").is_file():
        return images
    raise InputError(
        f"no lists of Pascal-5i in {images.folder}; expected HSNet's (val_fold0.txt or val/fold0.txt ...) "
        "or PFENet's (voc_sbd_merge_noduplicate.txt and val.txt)"
    )


def read_images(path: Path) -> list[str]:
    """Read the names of pictures: the first word of each line, without folder and suffix.

    Raises `InputError` for a missing list and for a picture that is listed twice.
    """
    names: dict[str, None] = {}
    for number, line in lines_of(path):
        name = Path(line.split()[0]).stem
        if name in names:
            raise InputError(f"{path}, line {number}: {name} is listed twice, and would count twice; remove one line")
        names[name] = None
    return list(names)


def labels_of(fold: int) -> range:
    """Return the labels of a fold: class c belongs to fold (c - 1) // 5."""
    return range(CLASSES_A_FOLD * fold + 1, CLASSES_A_FOLD * (fold + 1) + 1)


def lines_of(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not empty, with their numbers from 1.

    Raises `InputError` for a file that is missing or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"no list {path} ({error.strerror}); add it, or use others") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; save it as UTF-8 text") from error
    return [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
