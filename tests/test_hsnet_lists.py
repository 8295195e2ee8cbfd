"""What HSNet's lists go by, through the real command on a tree of boxes."""

import subprocess
import sys
from pathlib import Path

import voc as trees
from voc import LARGE, add, pair_lists, write

TOOL = Path(__file__).resolve().parent.parent / "tools" / "hsnet_lists.py"


def test_differences_are_counted_and_explained(tmp_path):
    tree = trees.voc(tmp_path)
    lists = pair_lists(tree)
    add(tree, "v01-0", {1: (20, 20, 20, 30)})  # listed, 600 px: points at 33 x 33 only
    add(tree, "v01-1", {1: (1, 1, 34, 40)})  # listed, 1,360 px: points at 1, 33 x 1, 33
    add(tree, "v02-1", {2: LARGE})  # 2,400 px, points at 33 x 33, 65: no longer listed for its class
    path = lists / "val_fold0.txt"
    write(path, [line for line in path.read_text().split() if line != "v02-1__02"])
    write(lists / "val_fold1.txt", [*(lists / "val_fold1.txt").read_text().split(), "v02-1__06"])
    done = subprocess.run([sys.executable, TOOL, tree], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "fold 0: 9 pairs are listed, 8 have 2,048 px or more; 1 of these are not listed, 2 that are listed are smaller"
    )
    # Of the points 1, 33 x 1, 33, 65, class 6 holds 33 x 1, 33 and class 7 holds 33 x 65 of v-mixed.
    assert lines[4] == "3 points of a grid of 32 px explain 2 of the 6 differences"
    wrong = subprocess.run([sys.executable, TOOL, tree, tmp_path], capture_output=True, text=True)
    assert wrong.returncode == 1 and wrong.stderr.startswith("no lists of Pascal-5i in")
