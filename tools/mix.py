"""Join pictures of one object each with pictures of several into one folder to train on.

    python tools/mix.py path/to/photos path/to/scenes build/mixed --without crops.txt

``photos`` is a folder as ``folder:`` reads it, ``scenes`` one as ``semantic:`` reads it, and so is what is
written. Its val and test classes are those of fold 0 of ``scenes``. The training classes of both train it,
without what either tests; pictures that show a test class of ``scenes`` stay for its test, and
``novel = "drop"`` keeps them out of the training.
"""

import shutil
from glob import escape
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from fss.data import open_dataset
from fss.data.dataset import Dataset
from fss.data.lists import lines_of
from fss.data.pictures import read_mask
from fss.data.semantic import Layout
from fss.errors import InputError
from fss.files import write_atomically

FOLD = 0
MOST = 254  # labels that a mask can hold beside 0, the background, and 255, which nobody knows
SPLITS = ("train", "val", "test")


def mix(
    photos: tyro.conf.Positional[Path],
    scenes: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    without: Path | None = None,
    alone: tuple[str, ...] = (),
) -> None:
    """Write the joined folder.

    Args:
        photos: folder of classes; its training classes are taken, those set aside for validation too.
        scenes: folder of pictures with masks of labels, with classes.txt and lists of fold 0.
        out: the folder to write; one that is there is refused.
        without: file of photos to leave out, ``<class>/<stem>`` a line.
        alone: classes of photos that, labelled or not, do not show one another; labelled.txt says so, and a
            training may ask such photos for a class that is absent.

    Raises:
        InputError: data that cannot be read or do not fit together, or a folder that is there.
    """
    if out.exists():
        raise InputError(f"{out} is there; remove it, or choose another folder")
    if {photos.resolve(), scenes.resolve()} & {*out.resolve().parents}:
        raise InputError(f"{out} lies in a folder that is read, and would be data there; choose another folder")
    if not (scenes / "folds" / str(FOLD)).is_dir():
        raise InputError(f"no folder {scenes / 'folds' / str(FOLD)}; its lists say which classes are kept for the test")
    layout = Layout.find(scenes)
    classes = {
        split: list(open_dataset(f"semantic:{scenes}", split=split, fold=FOLD, size=64).all_classes or ())
        for split in SPLITS
    }
    single = {split: open_dataset(f"folder:{photos}", split=split, size=64) for split in SPLITS}
    if tested := sorted({*single["test"].classes} & {*classes["train"]}):
        raise InputError(f"{', '.join(tested)}: {scenes} trains on it and {photos} tests it; give other lists")
    kept = {
        name: single[split]
        for split in ("train", "val")
        for name in single[split].classes
        if name not in {*classes["val"], *classes["test"]}
    }
    if unknown := sorted({*alone} - {*kept}):
        raise InputError(f"--alone {unknown[0]}: no class of the photos that train")
    # A pattern names a class by how its pictures' names begin, and so may those of another class.
    for name in alone:
        if longer := [other for other in kept if other.startswith(f"{name}_") and other not in alone]:
            raise InputError(f"--alone {name}: photos of {longer[0]} begin like its own; rename one of the two")
    labels = _labels(layout, kept)
    left_out = _left_out(single, without)
    beside = out.with_name(f"{out.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    for folder in ("images", "masks"):
        (beside / folder).mkdir(parents=True)
    for scene in _usable(layout, {*classes["test"]}, {*single["test"].classes}):
        shutil.copy(scene, beside / "images")
        shutil.copy(layout.mask(scene.name), beside / "masks")
    for name, dataset in kept.items():
        for picture in dataset.images[name]:
            if f"{name}/{Path(picture).stem}" not in left_out:
                _add(layout, photos / name / picture, labels[name], beside)
    classes["train"] += [name for name in kept if name not in classes["train"]]
    _write(beside / "classes.txt", labels)
    for split, names in classes.items():
        _write(beside / "folds" / str(FOLD) / f"{split}.txt", names)
    if layout.labelled or alone:
        lines = (scenes / "labelled.txt").read_text(encoding="utf-8").splitlines() if layout.labelled else []
        lines += [f"{escape(f'photos_{name}_')}*: {', '.join(alone)}" for name in alone]  # a name may have spaces
        _write(beside / "labelled.txt", lines)
    beside.rename(out)
    print(f"{out}: {len([*(out / 'images').iterdir()])} pictures of {len(labels)} classes")


def _usable(layout: Layout, tested: set[str], photos_test: set[str]) -> list[Path]:
    """The scenes, but for those that show what only the photos test: nothing else keeps these out of training."""

    def shown(picture: Path, classes: set[str]) -> bool:
        return any(layout.shows("", picture.name, name) for name in classes)

    foreign = {name for _, name in layout.legend.names} & photos_test - tested
    pictures = [path for path in sorted(layout.images.iterdir()) if layout.mask(path.name).is_file()]
    return [path for path in pictures if shown(path, tested) or not shown(path, foreign)]


def _labels(layout: Layout, kept: dict[str, Dataset]) -> dict[str, int]:
    """The label of every class, in their order: those of the scenes stay, further classes follow."""
    source, names = layout.legend.source, [name for _, name in layout.legend.names]
    if source.name != "classes.txt" or [label for label, _ in layout.legend.names] != [*range(1, len(names) + 1)]:
        raise InputError(f"{source}: write classes.txt, whose line n names label n, without others in between")
    names += [name for name in kept if name not in names]
    if len(names) > MOST:
        raise InputError(f"{len(names)} classes in all, and a mask holds {MOST}; leave some out")
    return {name: label for label, name in enumerate(names, 1)}


def _left_out(single: dict[str, Dataset], without: Path | None) -> set[str]:
    """The photos that a file names; InputError for one that is not there."""
    asked = {line for _, line in lines_of(without)} if without else set()
    known = {
        f"{name}/{Path(picture).stem}"
        for dataset in single.values()
        for name, pictures in dataset.images.items()
        for picture in pictures
    }
    if unknown := sorted(asked - known):
        raise InputError(f"{without}: no photo {unknown[0]}; write CLASS/STEM, one a line")
    return asked


def _add(layout: Layout, photo: Path, label: int, beside: Path) -> None:
    """Add a photo, its mask with the label of its class."""
    name = f"photos_{photo.parent.name}_{photo.name}"
    if any(layout.complete(name, each) for _, each in layout.legend.names):
        raise InputError(f"labelled.txt: a pattern is of {name}, too, which shows one labelled object; narrow it")
    to, mask = beside / "images" / name, beside / "masks" / f"{Path(name).stem}.png"
    if mask.exists():
        raise InputError(f"two pictures would be called {Path(name).stem}; rename one")
    shutil.copy(photo, to)
    marked = read_mask(photo.with_suffix(".png"))
    Image.fromarray(np.where(marked == 1, label, marked).astype(np.uint8)).save(mask)


def _write(path: Path, lines: list[str] | dict[str, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    try:
        tyro.cli(mix)
    except (InputError, OSError) as error:
        raise SystemExit(str(error)) from error
