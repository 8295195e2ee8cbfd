"""What a campaign found, as a table and as a forest plot, both of ``fss.lab.campaign.summary``."""

from collections.abc import Mapping, Sequence
from typing import Any

from fss.errors import InputError
from fss.evaluate import is_reference
from fss.lab.paper_tables import gains
from fss.viz import FALSE_ALARM, HIT, NotebookFigure

PAPER = gains()
"""Table 3 of the paper: gains over its base in points, 1- and 5-shot; Pascal-5i, ResNet-50."""

LOOKS = ((HIT, "o"), (FALSE_ALARM, "s"), ("#009E73", "D"), ("#555555", "^"))
"""Colour and mark of each number of shots in a figure, from the fewest on."""

# What a summary says of the controls, and the columns of a table that hold it.
CONTROL_COLUMNS = {"marked": "absent: marked (%)", "other": "other: mIoU (%)", "stays": "stays (%)"}

Rows = Sequence[Mapping[str, Any]]


def table(rows: Rows) -> str:
    """Return one data set's rows of a summary as a Markdown table, an arm a line.

    For each number of shots: the mIoU in per cent as a mean over the seeds, with their standard
    deviation, or of a single run with its interval over the query pictures. Where an arm has several
    seeds, or all are references, also the gain in points with its interval, a dash where there are too
    few seeds for one; over the baseline, or another parent, which is named. The paper's gain stands
    beside it where that is over base with 1 and 5 shots.
    Then ``CONTROL_COLUMNS`` where they were measured: how much is marked with an absent support, the mIoU
    with other supports, and how much of the first object stays marked then.
    """
    shots = sorted({row["shots"] for row in rows})
    gained = any(row["seeds"] > 1 for row in rows) or all(is_reference(row["arm"]) for row in rows)
    paper = gained and shots == [1, 5] and any(row["arm"] == "base" for row in rows)
    heads, aligned = ["arm", "seeds"], [":---", "---:"]
    for k in shots:
        heads += [f"{k}-shot mIoU (%)", *(["gain [95 %]"] if gained else []), *(["the paper's"] if paper else [])]
        aligned += ["---:"] * (1 + gained + paper)
    parents = [row["parent"] for row in rows if row["gain"] is not None]
    usual = max(parents, key=parents.count, default="")
    controls = [key for key in CONTROL_COLUMNS if any(row.get(key) is not None for row in rows)]
    heads += [CONTROL_COLUMNS[key] for key in controls]
    lines = [heads, [*aligned, *["---:"] * len(controls)]]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        found = {row["shots"]: row for row in rows if row["arm"] == arm}
        seeds = max(row["seeds"] for row in found.values())
        line = [arm, "–" if is_reference(arm) else str(seeds)]
        for place, k in enumerate(shots):
            line += _cells(found.get(k), usual)[: 1 + gained]
            if paper:
                line.append(f"{PAPER[arm][place]:+.2f}" if arm in PAPER else "–")
        for key in controls:
            line.append(next((f"{100 * row[key]:.1f}" for row in found.values() if row.get(key) is not None), "–"))
        lines.append(line)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(row: Mapping[str, Any] | None, usual: str) -> list[str]:
    if row is None:
        return ["–", "–"]
    spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.1f}"
    if row["miou_interval"]:
        spread = " [{:.1f}, {:.1f}]".format(*(100 * end for end in row["miou_interval"]))
    gain = "–"
    if row["gain"] is not None:
        ends = [f"{100 * end:+.1f}" for end in row["gain_interval"] or ()]
        gain = f"{100 * row['gain']:+.1f} [{', '.join(ends) or '–'}]"
        gain += f" over {row['parent']}" if row["parent"] != usual else ""
    return [f"{100 * row['miou']:.1f}{spread}", gain]


def forest(rows: Rows, *, title: str | None = None, baseline: str = "base") -> NotebookFigure:
    """Draw the gains over the baseline with their intervals, an arm a line; references left out.

    A filled mark is an interval that excludes zero, an empty one an interval that does not; a mark
    without a line has too few seeds for an interval.

    Raises:
        InputError: more numbers of shots than ``LOOKS`` tells apart.
    """
    rows = [row for row in rows if row["gain"] is not None and not is_reference(row["arm"])]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    shots = sorted({row["shots"] for row in rows})
    if len(shots) > len(LOOKS):
        raise InputError(
            f"{len(shots)} numbers of shots are more than a figure holds; choose {len(LOOKS)} of "
            f"{', '.join(map(str, shots))}"
        )
    figure = NotebookFigure(figsize=(6.4, 0.9 + 0.42 * len(arms)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color="black", linewidth=1)
    for place, (k, (color, marker)) in enumerate(zip(shots, LOOKS, strict=False)):
        for row in (row for row in rows if row["shots"] == k):
            y = arms.index(row["arm"]) + 0.22 * (place - (len(shots) - 1) / 2)
            low, high = (100 * end for end in row["gain_interval"] or (0, 0))
            if row["gain_interval"] is not None:
                axis.plot([low, high], [y, y], color=color, linewidth=2)
            face = color if low > 0 or high < 0 else "white"
            axis.plot(100 * row["gain"], y, marker, color=color, markerfacecolor=face)
        axis.plot([], [], marker, color=color, label=f"{k}-shot")
    seeds = {row["arm"]: row["seeds"] for row in rows}
    axis.set_yticks(range(len(arms)), [f"{arm} ({seeds[arm]})" for arm in arms])
    axis.set_ylim(len(arms) - 0.5, -0.5)
    label = f"mIoU minus {baseline}'s, points (95 % interval over runs and pictures)"
    axis.set_xlabel(label, loc="right")  # it may be longer than the axis, and ends where that ends
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper right", ncols=len(shots), frameon=False, fontsize=9)
    if title is not None:
        axis.set_title(title, loc="left", fontsize=11)
    return figure


def results_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown table; columns in the order in which their keys first occur.

    Keys that end in ``iou``, ``marked`` and ``stays`` hold fractions and are written in per cent to one
    decimal, with ``<key>_interval`` ([lo, hi], fractions) behind them in brackets. What a row lacks is
    a dash.
    """
    keys = [key for key in dict.fromkeys(k for row in rows for k in row) if "_interval" not in key]
    titles = {"miou": "mIoU (%)", "fb_iou": "FB-IoU (%)", "mean_episode_iou": "episode IoU (%)"}
    titles |= {"marked": "marked (%)", "stays": "stays (%)"}
    lines = [
        [titles.get(key, key.replace("_", " ")) for key in keys],
        [":---" if key == "name" else "---:" for key in keys],
        *([_cell(row, key) for key in keys] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return "–"
    if not key.endswith(("iou", "marked", "stays")):
        return str(value).replace("|", r"\|")
    shares = [value, *row.get(f"{key}_interval", ())]
    if not all(0 <= share <= 1 for share in shares):
        raise InputError(f"{key} of {row.get('name')!r} is {shares}, not fractions in 0..1")
    first, *interval = (f"{100 * share:.1f}" for share in shares)
    return f"{first} [{', '.join(interval)}]" if interval else first
