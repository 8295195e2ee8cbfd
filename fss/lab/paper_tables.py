"""The numbers of the paper's Tables 1 to 3 for what the kit can run, and what was found beside them."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np

from fss.lab.campaign import Campaign, Result, notes
from fss.metrics import EpisodeTally

FOLDS = ("fold 0", "fold 1", "fold 2", "fold 3")


class Row(NamedTuple):
    """A method in one of the tables: its arm, and by shots column -> score in per cent."""

    arm: str
    title: str
    scores: Mapping[int, Mapping[str, float]]


def _folds(*scores: float) -> dict[str, float]:
    return dict(zip((*FOLDS, "mean", "FB-IoU"), scores, strict=True))


def _means(one: float, five: float) -> dict[int, dict[str, float]]:
    return {1: {"mean": one}, 5: {"mean": five}}


TABLES: Mapping[str, tuple[Row, ...]] = {
    "table1": (
        Row(
            "pfenet",
            "PFENet",
            {
                1: _folds(61.70, 69.50, 55.40, 56.30, 60.80, 73.30),
                5: _folds(63.10, 70.70, 55.80, 57.90, 61.90, 73.90),
            },
        ),
        Row(
            "published",
            "DANet",
            {
                1: _folds(63.28, 70.77, 56.83, 56.64, 61.88, 71.78),
                5: _folds(65.31, 71.81, 56.97, 58.55, 63.16, 73.11),
            },
        ),
    ),
    "table2": (
        Row("published-vgg16", "DANet, VGG-16", _means(82.0, 84.3)),
        Row("published-resnet50", "DANet, ResNet-50", _means(83.6, 86.3)),
    ),
    "table3": (
        Row("pfenet", "base (PFENet)", _means(60.80, 61.90)),
        Row("pca", "+ PCA", _means(61.03, 62.34)),
        Row("lda", "+ LDA", _means(61.37, 62.71)),
        Row("published", "+ PCA + LDA (DANet)", _means(61.88, 63.16)),
    ),
}
"""The rows of PFENet and DANet in Tables 1 and 3 (Pascal-5i, ResNet-50) and 2 (FSS-1000)."""

REMARKS: Mapping[str, str] = {
    "table1": "The paper's own numbers do not all agree: the four 1-shot folds of PFENet average "
    "60.73, not 60.80; DANet's FB-IoU (71.78, 73.11) lies below PFENet's (73.30, 73.90), of which "
    "the text, that speaks of outperforming, says nothing.",
    "table2": "The paper's own numbers do not all agree: its introduction gives DANet 82.6 on "
    "FSS-1000 with one shot, its table 83.6 (ResNet-50) and 82.0 (VGG-16).",
    "table3": "The paper's base is PFENet as published, whose four 1-shot folds average 60.73, not "
    "60.80; it has another decoder and another prior than the other rows here. The paper's gains "
    "are of single trainings.",
}


def gains() -> dict[str, tuple[float, float]]:
    """Return the gains of Table 3 over its base in points, 1- and 5-shot, by the arm."""
    base, *others = TABLES["table3"]
    return {row.arm: (_gain(row, base, 1), _gain(row, base, 5)) for row in others}


def _gain(row: Row, base: Row, shots: int) -> float:
    return round(row.scores[shots]["mean"] - base.scores[shots]["mean"], 2)


def table_of(table: str, preset: str, campaign: Campaign, results: Mapping[str, Result], command: str) -> str:
    """Return a table as Markdown: the paper's numbers, those found and the differences.

    Args:
        table: its name.
        preset: as given to ``declare``.
        campaign: with the runs that are asked for alone.
        results: of all of these.
        command: that made it.
    """
    columns = list(dict.fromkeys(c for row in TABLES[table] for c in row.scores[1]))
    lines = [["method", "shots", "", *columns], [":---", "---:", ":---", *["---:"] * len(columns)]]
    for row in TABLES[table]:
        found = [results[run.name] for run in campaign.runs if run.arm == row.arm]
        for shots, paper in row.scores.items():
            here = _scores(found, shots)
            lines += [
                [row.title, str(shots), "paper", *(f"{paper[c]:.2f}" for c in columns)],
                ["", "", "here", *(_spread(here.get(c)) for c in columns)],
                ["", "", "difference", *(_difference(here.get(c), paper[c]) for c in columns)],
            ]
    return (
        "".join(f"| {' | '.join(line)} |\n" for line in lines)
        + f"\n{_explained(preset, campaign, results)}\n\n{REMARKS[table]}\n\nMade by `{command}`\n"
    )


def _split(tally: EpisodeTally, lists: int) -> list[EpisodeTally]:
    """The tallies of lists of one length that were counted one after another."""
    return [EpisodeTally(counts) for counts in np.split(tally.counts, lists)]


def _scores(found: Sequence[Result], shots: int) -> dict[str, list[float]]:
    """What an arm's runs found, in per cent: column -> a score a list."""
    parts = {r.run.fold: _split(r.tallies[shots], r.run.lists) for r in found}
    mious = {fold: [100 * part.miou() for part in lists] for fold, lists in parts.items()}
    fb = [[100 * part.fb_iou() for part in lists] for lists in parts.values()]
    return {
        **{FOLDS[fold]: values for fold, values in mious.items()},
        "mean": [mean(values) for values in zip(*mious.values(), strict=True)],
        "FB-IoU": [mean(values) for values in zip(*fb, strict=True)],
    }


def _spread(values: Sequence[float] | None) -> str:
    if not values:
        return "–"
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _difference(values: Sequence[float] | None, paper: float) -> str:
    return f"{mean(values) - paper:+.2f}" if values else "–"


def _explained(preset: str, campaign: Campaign, results: Mapping[str, Result]) -> str:
    """What a reader of the scores has to know."""
    run = campaign.runs[0]
    records = [results[run.name].record for run in campaign.runs]
    machine = records[0]["machine"]
    commits = dict.fromkeys(record["machine"]["commit"] or "unknown" for record in records)
    steps = sorted({record["log"][-1]["step"] for record in records})
    folds = sorted({run.fold for run in campaign.runs})
    kind, folded = run.spec.partition(":")[0], run.data.startswith("fold-")
    lines = [
        f"Per cent, on {kind}. One training a row{' and fold' if folded else ''}, of "
        f"{' to '.join(map(str, dict.fromkeys((steps[0], steps[-1]))))} steps; "
        f"{run.lists} {'lists' if run.lists > 1 else 'list'} of {run.episodes} test episodes from "
        f"seed {run.list_seed} on, compared at the {run.scoring.at}'s size"
        f"{'; ± is the standard deviation over the lists' if run.lists > 1 else ''}. "
        f"{machine.get('gpu', machine['cpu'])}, torch {machine['torch']}, commit "
        f"{', '.join(commits)}."
    ]
    if folded and len(folds) < len(FOLDS):
        lines.append(f"Means here are over {' and '.join(FOLDS[fold] for fold in folds)} alone, the paper's over four.")
    if kind == "shapes" or preset == "smoke":
        what = "drawn pictures" if kind == "shapes" else "a small network, trained little"
        lines.append(f"The machinery runs; of {what}, the differences mean nothing.")
    return "\n".join([*lines, *notes(campaign.runs)])
