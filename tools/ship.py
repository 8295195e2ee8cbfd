"""Put the weights of a campaign's run into the package, with a card of their data, training and scores.

    python tools/ship.py results/shipped-shapes shapes/published-0 published-lite0-shapes

``fss ablate CAMPAIGN`` made the run; its weights lie below ``runs/``.
"""

import json
from pathlib import Path

import tyro

from fss.checkpoint import WEIGHTS
from fss.errors import InputError
from fss.files import write_atomically
from fss.lab.campaign import Campaign, Result
from fss.lab.report import results_table

USE = {
    "shapes": "Trained on drawn shapes only: on photographs it is a starting point, not a tool.",
    "folder": "The photographs are not distributed with the kit. The training classes stand in "
    'the\nweights\' header: `fss.load(...).trained["classes"]`.',
}
SHOWN = ("name", "shots", "miou", "miou_interval", "fb_iou")


def ship(
    campaign: tyro.conf.Positional[Path],
    run: tyro.conf.Positional[str],
    name: tyro.conf.Positional[str],
    runs: Path = Path("runs"),
) -> None:
    """Write the weights and their card.

    Args:
        campaign: folder of its declaration and its results.
        run: DATA/ARM-SEED.
        name: of the weights in the package.
        runs: folder that holds the weights of campaigns.
    """
    results = Campaign.read(campaign).results()
    if run not in results:
        raise InputError(f"{campaign}: {run} has no result; make it by fss ablate {campaign}")
    beside = [each for each in results.values() if each.run.reference and each.run.data == results[run].run.data]
    weights = runs / campaign.resolve().name / run / "best.safetensors"
    write_atomically(WEIGHTS / f"{name}.safetensors", weights.read_bytes())
    command = f"fss ablate {campaign} --only {run}"
    write_atomically(WEIGHTS / f"{name}.md", card(name, command, results[run], beside).encode())


def card(name: str, command: str, result: Result, beside: list[Result]) -> str:
    """Return what is to be known of shipped weights: data, training, scores, command, machine."""
    row = result.record["rows"][0]
    trained, machine = row["trained"], result.record["machine"]
    shown = [{key: row[key] for key in SHOWN} for each in [result, *beside] for row in each.record["rows"]]
    fold = "" if row["fold"] is None else f", fold {row['fold']}"
    return f"""# {name}

A network of this kit (`fss.load("{name}")`), trained on `{row["data"]}`{fold}:
{trained["training_classes"]} training classes, pictures of {trained["size"]} px, validation classes
out of the training folds. The backbone is frozen; its weights are not in the file.

- config: `{json.dumps(row["config"])}`
- training: `{json.dumps(trained["train"])}`
- kept: step {trained["step"]}, the best by validation mIoU ({100 * trained["best"]:.1f})
- command: `{command}`
- machine: {", ".join(f"{key} {value}" for key, value in machine.items())}
- time: {trained["seconds"] / 60:.0f} minutes to that step; cached features took none

Measured once (a single run) on {row["episodes"]} episodes of the {row["classes"]} test classes,
seed {row["seed"]}, in per cent with 95 % intervals over the query pictures:

{results_table(shown)}
{USE[row["data"].partition(":")[0]]}
"""


if __name__ == "__main__":
    try:
        tyro.cli(ship)
    except (InputError, OSError) as error:
        raise SystemExit(str(error)) from error
