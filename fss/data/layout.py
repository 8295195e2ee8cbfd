"""Which layout a folder has, by the names in it alone: a line for people whose tree is another's."""

from collections.abc import Iterable
from pathlib import Path

from fss.files import names_in

SUFFIXES = (".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # of pictures; beside them a .png is a mask
PICTURES = ("images", "JPEGImages")  # the latter and SegmentationClass are CVAT's
MASKS = ("masks", "labels", "annotations", "SegmentationClass")


def recognised(root: Path) -> tuple[str, str]:
    """Return the kind of data set that reads a folder, and a line that says what it is and how it is read.

    Known are class folders, PASCAL VOC, FSS-1000's archive, pictures and masks in two folders (CVAT's
    export too), and the exports of Roboflow and labelme. The kind is "" for what has to be rearranged
    first, and both are "" for what is not known.
    """
    names = names_in(root)
    below = {name: names_in(root / name) for name in names if (root / name).is_dir()}
    found = [names, *below.values()]
    if any(_stems(each, ".png") & _stems(each, *SUFFIXES) for name, each in below.items() if name not in PICTURES):
        return "folder", f"{root} holds a folder for each class, which folder:{root} reads"
    if _stems(names, ".png") & _stems(names, *SUFFIXES):
        return "", f"{root} is a single class; give the folder that holds it, folder:{root.parent}"
    if any("_classes.csv" in each for each in found):
        return "semantic", f"{root} is an export of Roboflow, which semantic:{root} reads"
    for place, each in ((root, names), *((root / name, each) for name, each in below.items())):
        pictures, masks = ([f"{name}/" for name in known if name in each] for known in (PICTURES, MASKS))
        if pictures and masks and "ImageSets" in each and "labelmap.txt" not in each:
            break
        if pictures and masks:
            parts = f"{place} holds {pictures[0]} and {masks[0]}, which semantic:{place} reads"
            if {"classes.txt", "labelmap.txt"} & {*each}:
                return "semantic", parts
            return "semantic", (
                f"{parts} once classes.txt names the labels, label n in line n; where masks are 0 and 255, put "
                "the pictures as <n>.jpg and their masks as <n>.png into one folder, <class>/, instead"
            )
    if any({"ImageSets", "VOC2012", "SegmentationClassAug"} & {*each} for each in found):
        return "pascal5i", f"{root} is a tree of PASCAL VOC, which pascal5i:{root} reads"
    if "fewshot_data" in below:
        return "fss1000", f"{root} is FSS-1000's archive, of which fss1000:{root / 'fewshot_data'} reads the classes"
    if any(_stems(each, "_mask.png") & _stems(each, *SUFFIXES) for each in found):
        return "", f"{root} holds masks called <n>_mask.png; name them <n>.png, as their pictures, in a folder a class"
    if any(_stems(each, ".json") & _stems(each, *SUFFIXES) for each in found):
        return "", f"{root} holds polygons of labelme, which are not read; save masks by its labelme2voc.py first"
    return "", ""


def _stems(names: Iterable[str], *ends: str) -> set[str]:
    """What stands before some endings of names."""
    return {name[: -len(end)] for name in names for end in ends if name.lower().endswith(end)}
