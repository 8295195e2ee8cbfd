"""What two questions of the protocol do to one set of weights, into ``results/protocol.json``.

Cats and cows of Pascal-5i's fold 1, in a VOCdevkit at ``$VOC``: predictions compared at the
network's size or at the label's own, the pixels that a label leaves open ignored or counted as
background. The weights for photographs were trained on other classes of that fold, a leak that
``fss eval`` refuses unless it is told to go on; their rows name it.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from fss.errors import InputError
from fss.files import write_json
from fss.machine import describe

ROOT = Path(__file__).parents[1]
ASKED = "--data pascal5i:$VOC --fold 1 --classes cat,cow --allow-missing --shots 1"
KEPT = (
    "shots",
    "miou",
    "miou_interval",
    "fb_iou",
    "per_class",
    "episodes",
    "classes",
    "seed",
    "leaked_classes",
    "notes",
    "episodes_sha256",
)


def main() -> None:
    """Measure eight times, a few minutes each."""
    if "VOC" not in os.environ:
        raise InputError("VOC: set it to the folder of a VOCdevkit")
    machine, commands, rows = describe(), [], []
    for weights, at, void in product(
        ("intended-lite0-shapes", "best-lite0-photos"),
        ("network", "label"),
        ("ignore", "background"),
    ):
        command = f"fss eval --checkpoint {weights} {ASKED} --at {at} --void {void}"
        command += " --allow-leak" if "photos" in weights else ""
        commands.append(command)
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "found.json"
            words = [os.path.expandvars(word) for word in shlex.split(command)]
            subprocess.run([sys.executable, "-m", *words, "--json", found], check=True)
            result = json.loads(found.read_bytes())
        name = f"{weights}, {at}'s size, 255 " + ("ignored" if void == "ignore" else "background")
        rows.append({"name": name} | {key: result[key] for key in KEPT})
    write_json(
        ROOT / "results" / "protocol.json",
        {"command": "make protocol VOC=path", "commands": commands, "machine": machine, "rows": rows},
    )


if __name__ == "__main__":
    try:
        main()
    except (InputError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))
