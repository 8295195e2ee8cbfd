"""What HSNet's validation lists of Pascal-5i go by: `python tools/hsnet_lists.py VOCdevkit [LISTS]`.

The lists are those of Shaban et al., whose code keeps an object by a copy of its mask shrunk 32 times
that sums to more than 2. PFENet takes that to mean an area of 2 * 32 * 32 pixels. The lists are nearer
to another filter: sample every 32nd row and column of the mask, from the second on, and ask for 3
points. It was chosen among such samplings by these very lists, so it is a guess at their rule.
"""

import sys
from pathlib import Path

import numpy as np

from fss.data.lists import FOLDS, PairLists, find_lists, labels_of
from fss.data.pascal import MIN_PIXELS
from fss.data.scan import large, scan
from fss.data.voc import Voc
from fss.errors import InputError

GRID, HITS = 32, 3  # pixels between the points of a mask that are sampled, and how many must hit an object


def main(path: str, folder: str = "") -> None:
    """Print for each fold how the listed pairs and those of `MIN_PIXELS` differ, and what explains it."""
    voc = Voc.find(Path(path))
    lists = find_lists(Path(folder) if folder else voc.root / "fold_lists")
    if not isinstance(lists, PairLists):
        raise InputError(f"the lists in {lists.folder} name no pairs of a picture and a class; give HSNet's")
    listed = {fold: set(lists.pairs("val", fold)) for fold in range(FOLDS)}
    counts = scan(voc, sorted({name for pairs in listed.values() for name, _ in pairs} & voc.labelled()))
    explained = differing = 0
    for fold, pairs in listed.items():
        scanned = set(large(counts, {*labels_of(fold)}, MIN_PIXELS))
        known = {pair for pair in pairs if pair[0] in counts}
        for name, label in scanned ^ known:
            hits = np.count_nonzero(voc.labels(name)[1::GRID, 1::GRID] == label)
            explained += (hits >= HITS) == ((name, label) in known)
        differing += len(scanned ^ known)
        print(
            f"fold {fold}: {len(pairs)} pairs are listed, {len(scanned)} have {MIN_PIXELS:,} px or more; "
            f"{len(scanned - known)} of these are not listed, {len(known - scanned)} that are listed are smaller"
        )
    print(f"{HITS} points of a grid of {GRID} px explain {explained} of the {differing} differences")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit(str(error))
