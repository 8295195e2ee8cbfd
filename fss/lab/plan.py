"""What the runs of a campaign are going to take: GPU hours, memory and disk."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fss.config import DANetConfig, TrainConfig
from fss.errors import InputError
from fss.lab.ablate import logged, needed, steps_of
from fss.lab.campaign import Campaign, Result, notes
from fss.lab.cost import Cost, count
from fss.lab.declaration import CONTROLS, Run
from fss.lab.report import results_table


def plan(campaign: Campaign, done: Mapping[str, Result], runs: Path, tflops: float) -> str:
    """Return what is done and what the rest takes, as Markdown.

    Args:
        campaign: with the runs that are asked for alone.
        done: their results that there are.
        runs: folder of the weights and logs, for what has been begun.
        tflops: 10^12 floating-point operations that the GPU really does in a second.

    Raises:
        InputError: the data cannot be opened.
    """
    if not 0 < tflops < float("inf"):
        raise InputError(f"--tflops {tflops}: give what the GPU does in a second, 6 or so")
    left = [run for run in campaign.runs if run.name not in done]
    rows, total, largest, saved = [], 0.0, 0, 0
    for run in campaign.runs:
        cost, steps = _cost(run), steps_of(run)
        begun = 0 if run.name in done else logged(runs / run.name)
        hours = 0.0 if run.name in done else _hours(_work(run, cost, steps, begun), tflops)
        state = "done" if run.name in done else f"step {begun}" if begun else "to do"
        rows.append(
            {
                "name": run.name,
                "state": state,
                "backbone": run.config.backbone,
                "channels": run.config.channels,
                "size (px)": run.schedule.size,
                "steps": steps,
                "giga multiply-adds a step": f"{cost.step / 1e9:.4g}",
                "GPU hours left": f"{hours:.3g}",
                "memory (GB)": f"{cost.memory / 1e9:.2g}",
            }
        )
        total += hours
        largest, saved = max(largest, cost.memory), saved + cost.saved
    cached = 0
    for needs in needed(run for run in left if run.schedule.cache):
        run, images = needs.run, needs.open().images.values()
        pictures = sum(map(len, images))
        total += _hours(pictures * _cost(run).picture, tflops)
        cached += pictures * _cost(run).features
    first = campaign.runs[0]
    lists = "1 list" if first.lists == 1 else f"{first.lists} lists"
    return (
        f"{results_table(rows)}\n"
        f"{len(campaign.runs)} runs, {len(campaign.runs) - len(left)} done; each is measured with "
        f"{' and '.join(map(str, first.shots))} shots on {lists} of "
        f"{first.episodes} episodes. Left: {total:.3g} GPU hours, {largest / 1e9:.2g} GB of memory "
        f"at most, {saved / 1e9:.2g} GB of disk for all checkpoints and {cached / 1e9:.2g} GB for "
        "cached features.\n\n"
        "Multiply-adds (of matrix products and convolutions) and memory (of tensors, weights "
        "among them) are counted on these very networks, training and evaluation. A step on a CPU "
        f"took a third more memory. Hours are twice the multiply-adds over {tflops:g} TFLOPS "
        "(--tflops), assumed to be what the GPU really does: 6 is half of the data sheet of the "
        "paper's TITAN Xp. Not counted: reading pictures, and what CUDA itself takes.\n"
        + "".join(f"- {note}\n" for note in notes(campaign.runs))
    )


def _cost(run: Run) -> Cost:
    return _counted(run.config, run.schedule, run.shots)


@cache
def _counted(config: DANetConfig, schedule: TrainConfig, shots: tuple[int, ...]) -> Cost:
    return count(config, schedule, tuple({*shots, schedule.shots}))


def _work(run: Run, cost: Cost, steps: int, begun: int) -> float:
    """Multiply-adds of a run from step ``begun`` on; its last step always validates."""
    schedule = run.schedule
    validations = -(-steps // schedule.val_every) - begun // schedule.val_every
    validated = validations * schedule.val_episodes * cost.episodes[schedule.shots]
    controls = len(CONTROLS) * run.episodes * cost.episodes[min(run.shots)]
    tested = run.lists * run.episodes * sum(cost.episodes[k] for k in run.shots) + controls
    return (steps - begun) * cost.step + validated + tested


def _hours(multiply_adds: float, tflops: float) -> float:
    return 2 * multiply_adds / (tflops * 1e12) / 3600
