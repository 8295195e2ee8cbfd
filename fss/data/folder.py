"""Pictures of a user's own, in the layout of FSS-1000: `<class>/<n>.jpg` and `<class>/<n>.png`."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fss.config import DataConfig
from fss.data.dataset import Dataset, Reader, narrowed
from fss.data.pictures import letterbox, read_mask, read_pair, stamp
from fss.errors import InputError, nearest
from fss.files import expanded, write_atomically

SUFFIXES = (".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # .png is the mask
LISTS = {"train": ("train.txt", "trn.txt"), "val": ("val.txt",), "test": ("test.txt",)}
VAL_EVERY = 8


@dataclass(frozen=True)
class FolderReader(Reader):
    """Reads `root/<class>/<picture>` and the mask of the same stem; see `fss.data.pictures`."""

    root: Path

    def read(self, class_name: str, image_name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture, uint8 [size, size, 3] RGB, and mask, uint8 [size, size] in {0, 1, 255}.

        Both are letterboxed: the aspect is kept, the padding is grey and 255. Raises `InputError`
        that names the file for anything that is not a picture and a mask of its size.
        """
        picture = self.root / class_name / image_name
        return letterbox(*read_pair(picture, picture.with_suffix(".png")), size)

    def own_mask(self, class_name: str, image_name: str) -> np.ndarray:
        """Mask, uint8 [H, W] in {0, 1, 255}, at the picture's own size."""
        return read_mask((self.root / class_name / image_name).with_suffix(".png"))

    def fingerprint(self, class_name: str, image_name: str) -> str:
        """Path within the root, size in bytes and time of change of both files; reads neither."""
        picture = self.root / class_name / image_name
        files = picture, picture.with_suffix(".png")
        return " ".join([f"{class_name}/{image_name}", *map(stamp, files)])


def open_folder(
    root: Path,
    split: str,
    size: int,
    *,
    spec: str,
    options: DataConfig = DataConfig(),
    problems: list[str] | None = None,
) -> Dataset:
    """Open the classes of one split ("train", "val" or "test") of a folder of pictures.

    A class is a folder `root/<class>` of pictures (`.jpg`, `.jpeg`, `.bmp`, `.tif`, `.webp`), each
    with a mask `.png` of the same stem; hidden files and other suffixes are left alone. Pictures
    are named by their file names. Classes and pictures are in order: numbers by value, then
    other names as text.

    The classes of a split stand in `root/<split>.txt` (`trn.txt` will do for training), one a
    line, UTF-8, or in such files of the folder `options.lists`. Where lists are missing, the
    classes in none of them are shared out: to the one of train and test that has no list, or,
    where neither has, the first 70 % in order to train and the others to test. Validation classes
    come out of the training ones, and are never in "train": those in `val.txt`, or every eighth
    from the first on. So the three splits never share a class. `options.classes` narrows a split,
    and with `options.allow_missing` a listed class without a folder is left out and noted.

    Raises `InputError` for a root without classes, a split without classes (an empty list
    matters only to its own split), lists of train or val and of test that share a class, a listed
    class without a folder, a class without pictures, a picture without its mask, a mask without
    its picture, two pictures with one mask, and names that are not UTF-8.

    Where a list of `problems` is given, every bad class and file adds its line to that instead,
    and the data set holds what is sound, be it nothing. A root without classes, a list that is not
    text and lists that share a class are errors still.
    """
    if split not in LISTS:
        raise InputError(f"no split {split!r}; {nearest(split, LISTS)}")
    root = expanded(root)
    lists = root
    if options.lists is not None:
        lists = expanded(options.lists)
        if not any((lists / name).is_file() for names in LISTS.values() for name in names):
            raise InputError(f"no lists of classes in {lists}; expected trn.txt, val.txt, test.txt")
    found: list[str] = []
    names, absent = _classes(root, lists, split, found)
    notes = []
    if absent:
        told = (
            f"{len(absent)} of the {len(names) + len(absent)} {split} classes have no folder in {root}: {_some(absent)}"
        )
        if options.allow_missing:
            notes.append(told)
        else:
            found.append(f"{told}; correct {split}.txt, or add the folders")
    if spec.startswith("fss1000:") and _read_list(lists, split) is None:
        notes.append(
            f"no list of the {split} classes in {lists}, so they are a fixed share of the sorted "
            "names: figures do not compare with published ones; give the lists in common use by "
            "--lists DIR"
        )
    chosen = narrowed(names, options.classes, f"the {split} split of {spec}")
    images = {name: _pictures(root / name, found) for name in chosen}
    if problems is not None:
        problems += found
    elif found:
        more = f" (and {len(found) - 1} more, which fss check lists)" if found[1:] else ""
        raise InputError(found[0] + more)
    elif not images:
        raise InputError(f"no {split} classes in {root}; name some in {split}.txt, one a line, or add folders")
    return Dataset(spec, split, None, size, images, FolderReader(root), tuple(notes), all_classes=tuple(names))


def _classes(root: Path, lists: Path, split: str, problems: list[str]) -> tuple[list[str], list[str]]:
    """Folders of one split in order, and listed names without one; bad names go to problems."""
    if not root.is_dir():
        raise InputError(f"no folder {root}; give the path of the folder that holds the classes")
    # A list made on one system may spell an accent in two code points and the disk in one.
    folders = {_normal(entry.name): entry.name for entry in _entries(root, problems) if entry.is_dir()}
    if not folders:
        raise InputError(f"no class folders in {root}; expected {root}/<class>/<n>.jpg and <n>.png")
    listed = {name: _read_list(lists, name) for name in LISTS}
    train, val, test = (listed[name] for name in ("train", "val", "test"))
    shared = sorted({*(train or ()), *(val or ())} & set(test or ()))
    if shared:
        raise InputError(
            f"{_some(shared)} in {lists}: listed both for training and in test.txt; take them out of one list"
        )

    named = {name for names in listed.values() for name in names or ()}
    free = _in_order(set(folders) - named)
    if train is None and test is None:
        cut = max(1, 7 * len(free) // 10)
        train, test = free[:cut], free[cut:]
    train = _in_order(set(free if train is None else train) - set(val or ()))
    if val is None:
        val = train[::VAL_EVERY] if len(train) > 1 else []
        train = _in_order(set(train) - set(val))
    test = free if test is None else test

    chosen = _in_order(set({"train": train, "val": val, "test": test}[split]))
    absent = [name for name in chosen if name not in folders]
    return [folders[name] for name in chosen if name in folders], absent


def _entries(folder: Path, problems: list[str]) -> list[Path]:
    """What a folder holds, but for hidden entries."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); correct its permissions") from error
    sound = []
    for entry in sorted(entries):
        try:
            entry.name.encode()
            sound.append(entry)
        except UnicodeEncodeError:
            problems.append(f"{folder} holds a name that is not UTF-8, {entry.name!a}; rename it")
    return sound


def _read_list(root: Path, split: str) -> list[str] | None:
    """The names in a split's list, or None where there is no list."""
    path = next((root / name for name in LISTS[split] if (root / name).is_file()), None)
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; save it as UTF-8 text") from error
    return [_normal(line.strip()) for line in lines if line.strip()]


def _pictures(folder: Path, problems: list[str]) -> tuple[str, ...]:
    """File names of a class's pictures that have a mask, in order; what is wrong to problems."""
    files = [Path(entry.name) for entry in _entries(folder, problems)]
    masks = {file.stem for file in files if file.suffix == ".png"}
    pictures: dict[str, str] = {}
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            continue
        if file.stem in pictures:
            problems.append(f"{folder / file} and {pictures[file.stem]} share one mask; rename or remove one")
        pictures[file.stem] = file.name
    if not pictures and not masks:
        problems.append(
            f"no pictures in {folder}; expected <n>.jpg with its mask <n>.png, "
            "or give the folder that holds the classes"
        )
    for stem in _in_order(set(pictures) - masks):
        problems.append(f"no mask for {folder / pictures[stem]}; add {stem}.png beside it, or remove the picture")
    for stem in _in_order(masks - set(pictures)):
        problems.append(
            f"no picture for the mask {folder / f'{stem}.png'}; add {stem}.jpg beside it, or remove the mask"
        )
    return tuple(pictures[stem] for stem in _in_order(set(pictures) & masks))


def _in_order(names: Iterable[str]) -> list[str]:
    """Numbers by value, then other names as text."""
    return sorted(names, key=lambda name: (not name.isdecimal(), _value(name), name))


def _value(name: str) -> int:
    return int(name) if name.isdecimal() else 0


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _some(names: list[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def save_folder(dataset: Dataset, root: Path, classes: Iterable[str] | None = None) -> None:
    """Write classes of a data set (default: all) as a folder that `open_folder` reads.

    A picture becomes a JPEG of quality 95 and its mask a PNG of 0, 1 and 255 beside it.
    Raises `InputError` for a class that is not in the data set, or where nothing can be written.
    """
    for class_name in dataset.classes if classes is None else classes:
        for name in dataset[class_name].names:
            image, mask = dataset.reader.read(class_name, name, dataset.size)
            save_pair(root / class_name / Path(name).stem, image, mask)


def save_pair(stem: Path, image: np.ndarray, mask: np.ndarray) -> None:
    """Write picture uint8 [H, W, 3] to `stem`.jpg and labels uint8 [H, W] to `stem`.png.

    Raises `InputError` where nothing can be written.
    """
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="JPEG", quality=95)
    write_atomically(stem.parent / f"{stem.name}.jpg", encoded.getvalue())
    save_mask(stem.parent / f"{stem.name}.png", mask)


def save_mask(path: Path, mask: np.ndarray) -> None:
    """Write labels uint8 [H, W] as a PNG; raises `InputError` where nothing can be written."""
    encoded = io.BytesIO()
    Image.fromarray(mask).save(encoded, format="PNG")
    write_atomically(path, encoded.getvalue())
