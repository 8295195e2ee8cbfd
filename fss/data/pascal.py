"""Pascal-5i: VOC 2012 and SBD in four folds of five classes, with the choices codebases differ in.

The protocol is that of Shaban et al. (2017), as PFENet and HSNet run it: train on fifteen classes,
test on the five of the fold, on VOC's validation pictures. Classes of training that stand in
validation pictures make the split "val", so that no novel class helps to choose weights, and no
class is lost for training.
"""

from collections.abc import Iterable
from pathlib import Path

from fss.config import DataConfig
from fss.data.dataset import Dataset, narrowed
from fss.data.lists import FOLDS, Pair, PairLists, find_lists, labels_of, read_images
from fss.data.pictures import IGNORE
from fss.data.scan import Scan, grouped, large, scan
from fss.data.voc import CLASSES, OWN, SOURCE, Voc
from fss.errors import InputError
from fss.files import expanded

MIN_PIXELS = 2 * 32 * 32  # PFENet's size filter


class Pascal:
    """The folds of one tree, as the options say.

    Its methods add a line to `problems` for a mask that cannot be read. Raises `InputError` for half
    a VOC tree and for a list that is not sound.

    Attributes:
        voc: the tree.
        lists: those that were asked for, else those in `fold_lists`, else none: the own scan.
    """

    def __init__(self, path: Path, options: DataConfig, problems: list[str]) -> None:
        self.options, self.problems = options, problems
        self.voc = Voc.find(path)
        self.labelled = self.voc.labelled()
        self.beside = [folder for root in (expanded(path), self.voc.root) if (folder := root / "fold_lists").is_dir()]
        chosen = [Path(options.lists)] if options.lists else self.beside
        self.lists = find_lists(chosen[0]) if chosen and options.lists != "scan" else None

    def open(self, spec: str, split: str, fold: int | None, size: int) -> Dataset:
        """Open a split of a fold, or of all classes where `fold` is None.

        Pictures of a class are in order of their names, whatever the order of a list. Unless
        `options.allow_missing`, it is also a problem where SBD's masks are missing for training, and
        where pictures that a list names are not there.
        """
        part = "trn" if split == "train" else "val"
        novel = set() if fold is None else {*labels_of(fold)}
        names = [name for label, name in enumerate(CLASSES, 1) if fold is None or (label in novel) == (split == "test")]
        chosen = narrowed(names, self.options.classes, f"the {split} split of {spec}")
        notes = []
        if part == "trn" and not isinstance(self.lists, PairLists) and self.voc.masks == (self.voc.root / OWN,):
            notes.append(
                f"{self.voc.root} has VOC's own masks only, a seventh of those to train on, "
                "without SBD's (cls) or SegmentationClassAug"
            )
            if not self.options.allow_missing:
                self.problems.append(f"{notes[0]}; {SOURCE}, or go on without by --allow-missing")
        pairs, images = self._listed(part, {CLASSES.index(name) + 1 for name in chosen})
        if split == "train" and novel and self.options.novel == "drop":
            counts = self._scan(name for name, _ in pairs)
            pairs = [p for p in pairs if not novel & counts.get(p[0], {}).keys()]
        there = self.voc.pictures() & self.labelled
        found = [pair for pair in pairs if pair[0] in there]
        if absent := sorted(images - there):
            first = ", ".join(absent[:5]) + (", ..." if absent[5:] else "")
            if not self.options.allow_missing:
                self.problems.append(
                    f"{len(absent)} of {len(images)} pictures that are listed for {split} lack JPEG or "
                    f"mask in {self.voc.root}: {first}; add them, or go on without by --allow-missing"
                )
            notes.append(
                f"{split}: {len(found)} of {len(pairs)} listed pairs of a picture and a class are "
                f"there; {len(absent)} of {len(images)} pictures are missing: {first}"
            )
        pictures = grouped(found, {name: self.voc.label(name) for name in chosen})
        return Dataset(spec, split, fold, size, pictures, self.voc, tuple(notes), all_classes=tuple(names))

    def _listed(self, part: str, labels: set[int]) -> tuple[list[Pair], set[str]]:
        """Pairs of the labels, and all pictures that had to be there to know and read them."""
        least = self.options.min_pixels
        if isinstance(self.lists, PairLists):
            folds = [fold for fold in range(FOLDS) if labels & {*labels_of(fold)}]
            pairs = [pair for fold in folds for pair in self.lists.pairs(part, fold) if pair[1] in labels]
            if least is not None:
                counts = self._scan(name for name, _ in pairs)
                pairs = [(n, k) for n, k in pairs if n not in counts or counts[n].get(k, 0) >= least]
            return pairs, {name for name, _ in pairs}
        images = set(self.lists.images(part) if self.lists else self._images(part))
        pairs = large(self._scan(images), labels, MIN_PIXELS if least is None else least)
        return pairs, {name for name, _ in pairs} | images - self.labelled

    def _images(self, part: str) -> list[str]:
        """What the own scan goes over: VOC's own sets, training enlarged by SBD.

        Where VOC's `val.txt` is missing, the pictures of the lists take its place: those that were
        asked for, else those beside the tree.
        """
        sets = self.voc.root / "ImageSets" / "Segmentation"
        if (sets / "val.txt").is_file():
            val = read_images(sets / "val.txt")
        elif self.lists or self.beside:
            val = (self.lists or find_lists(self.beside[0])).images("val")
        else:
            raise InputError(
                f"{self.voc.root} is only part of a VOC tree, without "
                f"ImageSets/Segmentation/val.txt; {SOURCE}, or give lists by --lists DIR"
            )
        if part == "val":
            return val
        trainings = [path for name in ("trainaug.txt", "train_aug.txt") if (path := sets / name).is_file()]
        return read_images(trainings[0]) if trainings else sorted(self.labelled - set(val))

    def _scan(self, names: Iterable[str]) -> Scan:
        """Count the labels of those pictures that have a mask."""
        return scan(self.voc, sorted(self.labelled.intersection(names)), self.problems)

    def report(self) -> list[str]:
        """Return lines that say how many validation pairs each fold has, by which lists, and the share of 255."""
        pairs, _ = self._listed("val", {*range(1, len(CLASSES) + 1)})
        found = [sum(label in labels_of(fold) for _, label in pairs) for fold in range(FOLDS)]
        lines = [f"fold {fold}: {number} validation pairs" for fold, number in enumerate(found)]
        lines.append(f"counted by the lists in {self.lists.folder}" if self.lists else "counted by the own scan")
        counts = self._scan(self._images("val"))
        pixels = sum(sum(labels.values()) for labels in counts.values())
        ignored = sum(labels.get(IGNORE, 0) for labels in counts.values())
        if pixels:
            lines.append(
                f"255 (ignored): {100 * ignored / pixels:.1f} % of the pixels of {len(counts)} validation masks"
            )
        return lines
