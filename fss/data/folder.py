"""Pictures of a user's own, in the layout of FSS-1000: `<class>/<n>.jpg` and `<class>/<n>.png`."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
from PIL import Image

from fss.config import DataConfig
from fss.data.dataset import Dataset, Reader, narrowed
from fss.data.layout import SUFFIXES, recognised
from fss.data.pictures import either_case, letterbox, read_mask, read_pair, stamp
from fss.data.splits import in_order, read_lists, shared_out, some
from fss.errors import InputError
from fss.files import expanded, names_in, write_atomically


@dataclass(frozen=True)
class FolderReader(Reader):
    """Reads `root/<class>/<picture>` and the mask of the same stem; see `fss.data.pictures`."""

    root: Path

    def read(self, class_name: str, image_name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture, uint8 [size, size, 3] RGB, and mask, uint8 [size, size] in {0, 1, 255}.

        Both are letterboxed: the aspect is kept, the padding is grey and 255. Raises `InputError`
        that names the file for anything that is not a picture and a mask of its size.
        """
        return letterbox(*read_pair(*self._files(class_name, image_name)), size)

    def own_mask(self, class_name: str, image_name: str) -> np.ndarray:
        """Mask, uint8 [H, W] in {0, 1, 255}, at the picture's own size."""
        return read_mask(self._files(class_name, image_name)[1])

    def fingerprint(self, class_name: str, image_name: str) -> str:
        """Path within the root, size in bytes and time of change of both files; reads neither."""
        return " ".join([f"{class_name}/{image_name}", *map(stamp, self._files(class_name, image_name))])

    def _files(self, class_name: str, image_name: str) -> tuple[Path, Path]:
        picture = self.root / class_name / image_name
        return picture, either_case(picture.with_suffix(".png"))


def open_folder(root: Path, split: str, size: int, spec: str, options: DataConfig, problems: list[str]) -> Dataset:
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

    Adds a line to `problems` for a listed class without a folder, a class without pictures, a picture
    without its mask, a mask without its picture, two pictures with one mask, and names that are not
    UTF-8; returns what is sound, be it nothing. Raises `InputError` for a root without classes or of another
    layout (see `fss.data.layout`), a list that is not text, and lists of train or val and of test that share a class.
    """
    root = expanded(root)
    if not root.is_dir():
        raise InputError(f"no folder {root}; give the path of the folder that holds the classes")
    # A list made on one system may spell an accent in two code points and the disk in one.
    kind, layout = recognised(root)
    if layout and kind != "folder":
        raise InputError(layout)
    folders = {normalize("NFC", name): name for name in utf8(root, problems) if (root / name).is_dir()}
    if not folders:
        raise InputError(f"no class folders in {root}; expected {root}/<class>/<n>.jpg and <n>.png")
    lists = root if options.lists is None else expanded(options.lists)
    listed = read_lists(lists, needed=options.lists is not None)
    wanted = shared_out(folders, listed)[split]
    names = [folders[name] for name in wanted if name in folders]
    absent = [name for name in wanted if name not in folders]
    notes = []
    if absent:
        few = f"{len(absent)} of the {len(wanted)} {split} classes have no folder in {root}: {some(absent)}"
        if options.allow_missing:
            notes.append(few)
        else:
            problems.append(f"{few}; correct {split}.txt, or add the folders")
    if spec.startswith("fss1000:") and listed[split] is None:
        notes.append(
            f"no list of the {split} classes in {lists}, so they are a fixed share of the sorted "
            "names: scores do not compare with published ones; give the lists in common use by "
            "--lists DIR"
        )
    chosen = narrowed(names, options.classes, f"the {split} split of {spec}")
    images = {name: paired(root / name, problems) for name in chosen}
    return Dataset(spec, split, None, size, images, FolderReader(root), tuple(notes), all_classes=tuple(names))


def utf8(folder: Path, problems: list[str]) -> list[str]:
    """Names in a folder; those that are not UTF-8 are left out, with a line in `problems` each."""
    names = names_in(folder)
    sound = [name for name in names if name == name.encode(errors="ignore").decode()]
    odd = sorted({*names} - {*sound})
    problems += [f"{folder} holds a name that is not UTF-8, {name!a}; rename it" for name in odd]
    return sound


def paired(folder: Path, problems: list[str], masks: Path | None = None, mark: str = "") -> tuple[str, ...]:
    """File names, in order, of the pictures in a folder that have a mask `<stem><mark>.png`.

    Masks lie in `masks`, or beside the pictures, and then no picture is a `.png`. Adds a line to
    `problems` for pictures without a mask, for masks without a picture, for two pictures with one
    mask, and for a folder without either.
    """
    files = [Path(name) for name in utf8(folder, problems)]
    others = files if masks is None else [Path(name) for name in utf8(masks, problems)]
    suffixes = SUFFIXES if masks is None else (*SUFFIXES, ".png")
    masked = {
        file.stem.removesuffix(mark) for file in others if file.suffix in (".png", ".PNG") and file.stem.endswith(mark)
    }
    pictures: dict[str, str] = {}
    for file in (file for file in files if file.suffix.lower() in suffixes):
        if file.stem in pictures:
            problems.append(f"{folder / file} and {pictures[file.stem]} share one mask; rename or remove one")
        pictures[file.stem] = file.name
    if not pictures and not masked:
        problems.append(
            f"no pictures in {folder}; expected <n>.jpg with its mask <n>.png, "
            "or give the folder that holds the classes"
        )
    beside, where = (f"in {folder}", f"in {masks}") if masks else ("beside it", "beside it")
    if bare := in_order(set(pictures) - masked):
        stem, more = bare[0], f" and {len(bare) - 1} more there" if len(bare) > 1 else ""
        problems.append(
            f"no mask for {folder / pictures[stem]}{more}; add {stem}{mark}.png {where}, or remove the picture"
        )
    if lone := in_order(masked - set(pictures)):
        stem, more = lone[0], f" and {len(lone) - 1} more there" if len(lone) > 1 else ""
        problems.append(
            f"no picture for the mask {(masks or folder) / stem}{mark}.png{more}; add {stem}.jpg {beside}"
            + ("" if masks else " (a .png is read as a mask)")
        )
    return tuple(pictures[stem] for stem in in_order(set(pictures) & masked))


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


def save_picture(path: Path, pixels: np.ndarray | Image.Image) -> None:
    """Write uint8 [H, W, 3] or [H, W] as a file of the name's format; `InputError` where that fails."""
    encoded = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(encoded, format=Image.registered_extensions()[path.suffix.lower()], quality=95)
    write_atomically(path, encoded.getvalue())
