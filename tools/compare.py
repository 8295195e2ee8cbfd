"""Train some arms on one data set, measure them beside the references, write one JSON.

The first argument names the result: ``results/NAME.json`` and the runs below ``runs/NAME/``. A run
that is finished is not trained again, one that was interrupted goes on.
"""

import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from fss import load
from fss.checkpoint import read_checkpoint
from fss.cli import _override, _workers
from fss.config import arm, preset
from fss.data import open_dataset
from fss.episodes import EpisodeList
from fss.evaluate import REFERENCES, evaluate
from fss.files import write_json
from fss.model import DANet
from fss.train import train

ROOT = Path(__file__).parents[1]


def compare(
    name: tyro.conf.Positional[str],
    data: str = "shapes",
    label: str = "",
    arms: tuple[str, ...] = ("base", "danet"),
    preset_name: Annotated[str, tyro.conf.arg(name="preset")] = "quick",
    set: tuple[str, ...] = (),  # noqa: A002
    shots: tuple[int, ...] = (1, 5),
    episodes: int = 1000,
    seed: int = 0,
) -> None:
    """Train and measure.

    Args:
        name: of the result and its runs.
        data: the data set's spec.
        label: what the result calls the data set, for a spec that holds a private path.
        arms: to train.
        preset_name: training preset.
        set: other settings, NAME=VALUE.
        shots: support pictures an episode, one table column each.
        episodes: of each list.
        seed: of the training and of the episode lists.
    """
    label = label or data
    rows: list[dict[str, Any]] = []
    for arm_name in arms:
        config, schedule = _override(arm(arm_name), preset(preset_name), set)
        schedule = schedule.override({"seed": seed})
        out = ROOT / "runs" / name / arm_name
        last = out / "last.safetensors"
        if not last.is_file() or read_checkpoint(last)[0]["trained"]["step"] != schedule.steps:
            train(config, schedule, data, out, resume=last.is_file(), workers=_workers(-1))
        model = load(out)
        rows += _measure(arm_name, model, data, shots, episodes, seed, None)
    model = DANet(arm("base"))
    model.trained = {"size": schedule.size}
    for reference in REFERENCES:
        rows += _measure(reference, model, data, shots, episodes, seed, reference)
    for row in rows:
        row["data"] = label
        row["trained"] = {**row["trained"], "data": label}
    command = shlex.join(["python", *sys.argv]).replace(data, label)
    result = {"command": command, "machine": machine(), "rows": rows}
    write_json(ROOT / "results" / f"{name}.json", result)


def _measure(
    name: str, model: DANet, data: str, shots: tuple[int, ...], episodes: int, seed: int,
    reference: str | None,
) -> list[dict[str, Any]]:
    dataset = open_dataset(data, split="test", size=model.trained["size"])
    rows = []
    for k in shots:
        episode_list = EpisodeList.sample(dataset, shots=k, episodes=episodes, seed=seed)
        predict = REFERENCES[reference] if reference else None
        result = evaluate(model, dataset, episode_list, predict=predict, workers=_workers(-1))
        low, high = result["miou_interval"]
        print(f"{name} {k}-shot: {100 * result['miou']:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        rows.append({"name": name, **result})
    return rows


def machine() -> dict[str, str]:
    """Describe where and with what a figure was made."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "cpu": _cpu(),
        "cores": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git.stdout.strip(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    tyro.cli(compare)
