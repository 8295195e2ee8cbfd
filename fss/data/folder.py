"""Pictures of a user's own, in the layout of FSS-1000: `<class>/<n>.jpg` and `<class>/<n>.png`."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
from PIL import Image

from fss.config import DataConfig
from fss.data.dataset import Dataset, Reader, narrowed
from fss.data.lists import lines_of
from fss.data.pictures import letterbox, read_mask, read_pair, stamp
from fss.data.problems import Opening, names_in
from fss.errors import InputError
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
    root: Path, split: str, size: int, *, spec: str, options: DataConfig = DataConfig()
) -> Opening[Dataset]:
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

    Yields a line for a listed class without a folder, a class without pictures, a picture without
    its mask, a mask without its picture, two pictures with one mask, and names that are not UTF-8;
    returns what is sound, be it nothing. Raises `InputError` for a root without classes, a list that
    is not text, and lists of train or val and of test that share a class.
    """
    root = expanded(root)
    if not root.is_dir():
        raise InputError(f"no folder {root}; give the path of the folder that holds the classes")
    # A list made on one system may spell an accent in two code points and the disk in one.
    there = yield from _utf8(root)
    folders = {normalize("NFC", name): name for name in there if (root / name).is_dir()}
    if not folders:
        raise InputError(f"no class folders in {root}; expected {root}/<class>/<n>.jpg and <n>.png")
    lists = root if options.lists is None else expanded(options.lists)
    listed = {name: _read_list(lists, name) for name in LISTS}
    if options.lists is not None and all(names is None for names in listed.values()):
        raise InputError(f"no lists of classes in {lists}; expected trn.txt, val.txt, test.txt")
    shared = sorted({*(listed["train"] or ()), *(listed["val"] or ())} & {*(listed["test"] or ())})
    if shared:
        raise InputError(
            f"{_some(shared)} in {lists}: listed both for training and in test.txt; take them out of one list"
        )
    wanted = _shared_out(folders, listed)[split]
    names = [folders[name] for name in wanted if name in folders]
    absent = [name for name in wanted if name not in folders]
    notes = []
    if absent:
        few = f"{len(absent)} of the {len(wanted)} {split} classes have no folder in {root}: {_some(absent)}"
        if options.allow_missing:
            notes.append(few)
        else:
            yield f"{few}; correct {split}.txt, or add the folders"
    if spec.startswith("fss1000:") and listed[split] is None:
        notes.append(
            f"no list of the {split} classes in {lists}, so they are a fixed share of the sorted "
            "names: scores do not compare with published ones; give the lists in common use by "
            "--lists DIR"
        )
    images = {}
    for name in narrowed(names, options.classes, f"the {split} split of {spec}"):
        images[name] = yield from _pictures(root / name)
    return Dataset(spec, split, None, size, images, FolderReader(root), tuple(notes), all_classes=tuple(names))


def _shared_out(folders: Iterable[str], listed: Mapping[str, list[str] | None]) -> dict[str, list[str]]:
    """The classes of each split in order: those listed, and a share of those in no list."""
    train, val, test = (listed[name] for name in ("train", "val", "test"))
    free = _in_order({*folders} - {name for names in listed.values() for name in names or ()})
    if train is None and test is None:
        cut = max(1, 7 * len(free) // 10)
        train, test = free[:cut], free[cut:]
    train = _in_order({*(free if train is None else train)} - {*(val or ())})
    if val is None:
        val = train[::VAL_EVERY] if len(train) > 1 else []
        train = [name for name in train if name not in val]
    return {"train": train, "val": _in_order({*val}), "test": _in_order({*(free if test is None else test)})}


def _read_list(folder: Path, split: str) -> list[str] | None:
    """The names in a split's list, or None where there is no list."""
    path = next((folder / name for name in LISTS[split] if (folder / name).is_file()), None)
    return None if path is None else [normalize("NFC", line) for _, line in lines_of(path)]


def _utf8(folder: Path) -> Opening[list[str]]:
    """Names in a folder, but for those that are not UTF-8."""
    names = []
    for name in names_in(folder):
        if name == name.encode(errors="ignore").decode():
            names.append(name)
        else:
            yield f"{folder} holds a name that is not UTF-8, {name!a}; rename it"
    return names


def _pictures(folder: Path) -> Opening[tuple[str, ...]]:
    """File names of a class's pictures that have a mask, in order."""
    files = [Path(name) for name in (yield from _utf8(folder))]
    masks = {file.stem for file in files if file.suffix == ".png"}
    pictures: dict[str, str] = {}
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            continue
        if file.stem in pictures:
            yield f"{folder / file} and {pictures[file.stem]} share one mask; rename or remove one"
        pictures[file.stem] = file.name
    if not pictures and not masks:
        yield (
            f"no pictures in {folder}; expected <n>.jpg with its mask <n>.png, "
            "or give the folder that holds the classes"
        )
    for stem in _in_order(set(pictures) - masks):
        yield f"no mask for {folder / pictures[stem]}; add {stem}.png beside it, or remove the picture"
    for stem in _in_order(masks - set(pictures)):
        yield f"no picture for the mask {folder / f'{stem}.png'}; add {stem}.jpg beside it, or remove the mask"
    return tuple(pictures[stem] for stem in _in_order(set(pictures) & masks))


def _in_order(names: Iterable[str]) -> list[str]:
    """Numbers by value, then other names as text."""
    return sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


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
    save_picture(stem.parent / f"{stem.name}.jpg", image)
    save_picture(stem.parent / f"{stem.name}.png", mask)


def save_picture(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 [H, W, 3] or [H, W] as a file of the name's format; `InputError` where that fails."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format=Image.registered_extensions()[path.suffix.lower()], quality=95)
    write_atomically(path, encoded.getvalue())
