"""Pictures with masks of several classes, as people keep them for semantic segmentation."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from unicodedata import normalize

import numpy as np

from fss.config import DataConfig
from fss.data.dataset import Dataset, narrowed
from fss.data.folder import paired
from fss.data.indexed import Indexed, check_labels, read_indices
from fss.data.layout import MASKS, PICTURES, recognised
from fss.data.legend import Legend, find_legend, tables
from fss.data.lists import Pair, lines_of
from fss.data.pictures import IGNORE, either_case
from fss.data.scan import grouped, large, scan
from fss.data.splits import LISTS, Lists, read_lists, shared_out, some
from fss.errors import InputError, nearest
from fss.files import expanded, names_in

MIN_PIXELS = 1024


@dataclass(frozen=True)
class Layout(Indexed):
    """Reads a picture by its file's name, and the mask of the same stem.

    Attributes:
        images: folder of the pictures.
        masks: folder of the masks.
        mark: what the stem of a mask has beyond that of its picture.
        legend: what the labels mean.
        labelled: patterns of pictures' names, each with the classes whose objects all are labelled.
    """

    images: Path
    masks: Path
    mark: str
    legend: Legend
    labelled: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def find(cls, path: Path) -> Layout:
        """Find out how a folder is laid out: by folders of pictures and of masks, or as Roboflow does.

        Raises `InputError` that names what is missing, or the line of a file that is not sound.
        """
        root = expanded(path)
        if not root.is_dir():
            raise InputError(f"no folder {root}; give the folder that holds the pictures and their masks")
        kind, layout = recognised(root)
        if layout and kind != "semantic":
            raise InputError(layout)
        legend = find_legend(root)
        labelled = _labelled(root / "labelled.txt", [name for _, name in legend.names])
        if legend.source.suffix == ".csv":
            return cls(root, root, "_mask", legend, labelled)
        return cls(
            images=_first(root, PICTURES, "pictures"),
            masks=_first(root, MASKS, "masks"),
            mark="",
            legend=legend,
            labelled=labelled,
        )

    @property
    def key(self) -> str:
        """The folder of the masks, and what their labels mean."""
        return f"{self.masks.resolve()} {self.legend.names} {self.legend.colours}"

    def names(self, problems: list[str]) -> list[str]:
        """Return the names of all pictures that have a mask; adds a line for any file without the other."""
        masks = None if self.mark else self.masks
        return [
            (folder / name).relative_to(self.images).as_posix()
            for folder in [table.parent for table in tables(self.images)] or [self.images]
            for name in paired(folder, problems, masks, self.mark)
        ]

    def fingerprint(self, class_name: str, image_name: str) -> str:
        """What the masks of other layouts depend on, and what the labels mean; reads neither file."""
        return f"{super().fingerprint(class_name, image_name)} {(self.label(class_name), self.legend.colours)}"

    def path(self, name: str) -> Path:
        """Return where a picture lies."""
        return self.images / name

    def mask(self, name: str) -> Path:
        """Return where a picture's mask lies."""
        picture = self.masks / name
        return either_case(picture.with_name(f"{picture.stem}{self.mark}.png"))

    def label(self, class_name: str) -> int:
        """Return the label of a class, 1 to 254."""
        return {name: label for label, name in self.legend.names}[class_name]

    def labels(self, name: str) -> np.ndarray:
        """Read a mask as uint8 [H, W] of labels: 0 = background, 255 = void.

        Where the legend gives colours, a mask with a palette or of RGB is read by them; otherwise a
        palette's indices and greys are the labels. Raises `InputError` for a label without a name, for
        a colour that stands for no label, and for a file that cannot be read.
        """
        path, colours = self.mask(name), self.legend.colours
        greys = ((label, (label, label, label)) for label in range(256))
        labels = read_indices(path, colours or greys, painted=bool(colours))
        hint = f"{self.legend.source} does not name it; add its name, or paint what nobody knows with {IGNORE}"
        return check_labels(labels, [label for label, _ in self.legend.names], path, hint)

    @property
    def knows_absence(self) -> bool:
        """Where there is a `labelled.txt`."""
        return bool(self.labelled)

    def complete(self, name: str, class_name: str) -> bool:
        """Whether `labelled.txt` says that every object of a class is labelled in a picture."""
        spellings = {normalize("NFC", each) for each in (name, Path(name).name, Path(name).stem)}
        return any(
            class_name in classes and any(fnmatchcase(spelling, pattern) for spelling in spellings)
            for pattern, classes in self.labelled
        )


class Semantic:
    """The splits of one folder, as the options say.

    Adds a line to `problems` for a picture without a mask, a mask without a picture, and a mask that
    cannot be read or holds a label without a name. Raises `InputError` for a folder of another layout
    and for names that are not sound.
    """

    def __init__(self, folder: Path, options: DataConfig, problems: list[str]) -> None:
        self.folder, self.options = folder, options
        self.layout = Layout.find(folder)
        self.classes = {name: label for label, name in self.layout.legend.names}
        self.counts = scan(self.layout, self.layout.names(problems), problems)
        self.least = options.min_pixels or MIN_PIXELS
        lists = expanded(folder) / "folds"
        names = names_in(lists) if options.lists is None and lists.is_dir() else []
        self.folds = sorted(int(name) for name in names if name.isdecimal())  # those that have lists of their classes

    def open(self, spec: str, split: str, fold: int | None, size: int) -> Dataset:
        """Open a split of a fold, or all classes where `fold` is None.

        The classes of a split stand in the lists of `options.lists`, else of `folds/<fold>`;
        classes in no list are shared out as `fss.data.splits` says, and a note says so. A picture
        counts for a class from `options.min_pixels` of its mask's own pixels on, by default 1,024.
        With `options.novel` "drop", a picture that shows a single pixel of a test class is left out
        of training. Pictures of a class are in order of their names, which are those of their files.
        Raises `InputError` for lists that are not sound, and a fold that is not there.
        """
        names, tested, notes = [*self.classes], set[int](), []
        if not self.layout.labelled:
            notes.append(f"no labelled.txt in {self.folder}: that a picture lacks a class is not verified")
        if fold is not None:
            listed = self._lists(fold)
            splits = shared_out(self.classes, listed)
            names, tested = splits[split], self._labels(splits["test"])
            if listed[split] is None:
                notes.append(
                    f"no list of the {split} classes, so they are a fixed share of the sorted names; "
                    f"give lists by --lists DIR, or in {self.folder}/folds/{fold}"
                )
        chosen = narrowed(names, self.options.classes, f"the {split} split of {spec}")
        pairs = self._pairs(chosen)
        if split == "train" and self.options.novel == "drop":
            pairs = [pair for pair in pairs if not tested & self.counts[pair[0]].keys()]
        pictures = grouped(pairs, {name: self.classes[name] for name in chosen})
        fold = fold if self.folds else None
        return Dataset(spec, split, fold, size, pictures, self.layout, tuple(notes), all_classes=tuple(names))

    def report(self) -> list[str]:
        """Return a line for each class, and for each fold how many pictures show two classes of a split."""
        counted = f"{len(self.counts)} pictures, {len(self.classes)} classes"
        lines = [f"{counted}; a picture counts from {self.least:,} pixels on"]
        for name, label in self.classes.items():
            pixels = [self.counts[picture] for picture, _ in self._pairs([name])]
            share = sum(p[label] for p in pixels) / max(1, sum(sum(p.values()) for p in pixels))
            lines.append(f"{name}: pictures {len(pixels)}, share of their area {100 * share:.1f} %")
        for fold in self.folds or [0]:
            splits = shared_out(self.classes, self._lists(fold))
            found = {split: Counter(picture for picture, _ in self._pairs(splits[split])) for split in splits}
            shown = [f"{sum(times > 1 for times in found[split].values())} of {split}" for split in splits]
            left = sum(not self._labels(splits["test"]) & pixels.keys() for pixels in self.counts.values())
            where = f"fold {fold}: " if self.folds else ""
            lines.append(f"{where}pictures with two classes: {', '.join(shown)}; without a test class: {left}")
        return lines

    def _pairs(self, names: list[str]) -> list[Pair]:
        """The pictures that count for each of some classes."""
        return large(self.counts, self._labels(names), self.least)

    def _labels(self, names: list[str]) -> set[int]:
        return {self.classes[name] for name in names}

    def _lists(self, fold: int) -> Lists:
        """The classes that each split lists in a fold."""
        folder = expanded(self.options.lists or self.folder / "folds" / str(fold))
        if self.folds and fold not in self.folds:
            raise InputError(f"no fold {fold} in {folder.parent}; choose among {', '.join(map(str, self.folds))}")
        if not self.folds and self.options.lists is None:
            return dict.fromkeys(LISTS)
        listed = read_lists(folder, needed=True)
        for split, names in listed.items():
            for name in sorted({*(names or ())} - self.classes.keys()):
                raise InputError(f"no class {name!r}, which {folder} lists for {split}; {nearest(name, self.classes)}")
        if twice := {*(listed["train"] or ())} & {*(listed["val"] or ())}:
            raise InputError(
                f"{some(sorted(twice))} in {folder}: listed for train and for val; take them out of one list"
            )
        return listed


def _first(root: Path, names: tuple[str, ...], what: str) -> Path:
    """The first of some folders that is there."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"no folder of {what} in {root}; expected {' or '.join(names)}")


def _labelled(path: Path, known: list[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Read lines `pattern: class class ...`, with commas where a name has spaces; nothing where there is no file."""
    rows = []
    for number, line in lines_of(path) if path.is_file() else []:
        pattern, _, rest = normalize("NFC", line).partition(":")
        alone = rest.strip() in known  # which may have spaces
        classes = re.split(r"\s*,\s*" if alone or "," in rest else r"\s+", rest.strip())
        for name in classes:
            if name not in known:
                hint = nearest(name, known)
                raise InputError(
                    f"{path}, line {number}: {name!r} in {line!r} is no class; write PATTERN: CLASS ...; {hint}"
                )
        rows.append((pattern.strip(), tuple(classes)))
    return tuple(rows)
