"""Train some arms on one data set, measure them beside the references, write one JSON.

The first argument names the result: ``results/NAME.json`` and the runs below ``runs/NAME/``. A run
that is finished is not trained again, one that was interrupted goes on.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from fss import load
from fss.checkpoint import WEIGHTS, read_checkpoint
from fss.cli import processes as _workers
from fss.config import arm, preset, with_settings
from fss.data import open_dataset
from fss.episodes import EpisodeList
from fss.errors import InputError
from fss.evaluate import REFERENCES, evaluate
from fss.evaluate import reference as named_reference
from fss.files import write_atomically, write_json
from fss.machine import describe
from fss.model import DANet
from fss.train import train
from fss.viz import results_table

USE = {
    "shapes": "Trained on drawn shapes only: on photographs it is a starting point, not a tool.",
    "photos": "The photographs are not distributed with the kit. The training classes stand in "
    'the\nweights\' header: `fss.load(...).trained["classes"]`.',
}
ROOT = Path(__file__).parents[1]


def compare(
    name: tyro.conf.Positional[str],
    data: str = "shapes",
    label: str = "",
    command: str = "",
    arms: tuple[str, ...] = ("base", "published"),
    preset_name: Annotated[str, tyro.conf.arg(name="preset")] = "quick",
    set: tuple[str, ...] = (),  # noqa: A002
    shots: tuple[int, ...] = (1, 5),
    episodes: int = 1000,
    seed: int = 0,
    ship: bool = False,
) -> None:
    """Train and measure.

    Args:
        name: of the result and its runs.
        data: the data set's spec.
        label: what the result calls the data set, for a spec that holds a private path.
        command: what the result says that it was made by; by default, this very command.
        arms: to train.
        preset_name: training preset.
        set: other settings, NAME=VALUE.
        shots: support pictures an episode, one table column each.
        episodes: of each list.
        seed: of the training and of the episode lists.
        ship: put the weights and their card into the package, as NAME; for one arm.
    """
    if ship and len(arms) > 1:
        raise SystemExit(f"--ship puts one network into the package; name one of {', '.join(arms)}")
    label = label or data
    made_on = describe()  # now: the work tree may have moved on when the training ends
    rows: list[dict[str, Any]] = []
    for arm_name in arms:
        config, schedule = with_settings(arm(arm_name), preset(preset_name), set)
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
    command = command or shlex.join(["python", *sys.argv]).replace(data, label)
    result = {"command": command, "machine": made_on, "rows": rows}
    write_json(ROOT / "results" / f"{name}.json", result)
    if ship:
        write_atomically(WEIGHTS / f"{name}.safetensors", (out / "best.safetensors").read_bytes())
        write_atomically(WEIGHTS / f"{name}.md", card(name, result).encode())


def card(name: str, result: dict[str, Any]) -> str:
    """Write down what shipped weights are: data, training, measured figures, command, machine."""
    row = result["rows"][0]
    trained, train_config = row["trained"], row["trained"]["train"]
    fold = "" if row["fold"] is None else f", fold {row['fold']}"
    return f"""# {name}

A network of this kit (`fss.load("{name}")`), trained on `{row["data"]}`{fold}:
{trained["training_classes"]} training classes, pictures of {trained["size"]} px, validation classes
out of the training folds. The backbone is frozen; its weights are not in the file.

- config: `{json.dumps(row["config"])}`
- training: `{json.dumps(train_config)}`
- kept: step {trained["step"]}, the best by validation mIoU ({100 * trained["best"]:.1f})
- command: `{result["command"]}`
- machine: {", ".join(f"{key} {value}" for key, value in result["machine"].items())}
- time: {trained["seconds"] / 60:.0f} minutes to that step; cached features took none

Measured once (a single run) on {row["episodes"]} episodes of the {row["classes"]} test classes,
seed {row["seed"]}, in per cent with 95 % bootstrap intervals over the episodes:

{results_table([columns(row) for row in result["rows"]])}
{USE["shapes" if row["data"].startswith("shapes") else "photos"]}
"""


def columns(row: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a row that a table shows."""
    return {key: row[key] for key in ("name", "shots", "miou", "miou_interval", "fb_iou")}


def _measure(
    name: str,
    model: DANet,
    data: str,
    shots: tuple[int, ...],
    episodes: int,
    seed: int,
    reference: str | None,
) -> list[dict[str, Any]]:
    dataset = open_dataset(data, split="test", size=model.trained["size"])
    rows = []
    for k in shots:
        episode_list = EpisodeList.sample(dataset, shots=k, episodes=episodes, seed=seed)
        predict = named_reference(reference, model) if reference else None
        result = evaluate(model, dataset, episode_list, predict=predict, workers=_workers(-1))
        low, high = result["miou_interval"]
        print(f"{name} {k}-shot: {100 * result['miou']:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        rows.append({"name": name, **result})
    return rows


if __name__ == "__main__":
    try:
        tyro.cli(compare)
    except InputError as error:
        raise SystemExit(str(error)) from error
