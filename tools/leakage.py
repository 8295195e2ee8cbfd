"""What leakage does to a score: two trainings, one test, written to ``results/leakage.json``.

Both networks are asked about the test classes of fold 0. One was trained on fold 0 and never saw
them; the other was trained on fold 1, for which nine in ten of them are training classes. A run
that was interrupted goes on.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import tyro

from fss.files import write_json
from fss.machine import describe

ROOT = Path(__file__).parents[1]


def leakage(seed: int = 0, episodes: int = 1000, set: tuple[str, ...] = ()) -> None:  # noqa: A002
    """Train both networks and measure them on one list.

    Args:
        seed: of the trainings and of the episode list.
        episodes: of the list.
        set: other training settings, NAME=VALUE.
    """
    made_on = describe()
    commands, rows = [], []
    for name, fold in (("disjoint", 0), ("leaking", 1)):
        out = Path("runs/leakage") / f"fold-{fold}"
        train = f"fss train --preset quick --data shapes --fold {fold} --seed {seed} --out {out}"
        train += f" --set {shlex.join(set)}" if set else ""
        measure = (
            f"fss eval --data shapes --fold 0 --episodes {episodes} --seed {seed} --checkpoint {out} --json {out}.json"
        )
        run(train + " --resume")  # starts where there is nothing to go on from
        run(measure)
        commands += [train, measure]
        rows.append({"name": name, **json.loads((ROOT / f"{out}.json").read_bytes())})
    command = shlex.join(["python", *sys.argv])
    result = {"command": command, "commands": commands, "machine": made_on, "rows": rows}
    write_json(ROOT / "results" / "leakage.json", result)


def run(command: str) -> None:
    """Run a command of the kit as it is printed; end the program where it fails."""
    print(command, flush=True)
    if subprocess.run([sys.executable, "-m", *shlex.split(command)], cwd=ROOT).returncode:
        sys.exit(f"failed: {command}")


if __name__ == "__main__":
    tyro.cli(leakage)
