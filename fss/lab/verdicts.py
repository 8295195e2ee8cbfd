"""What a campaign answers: each trained arm against its parent, with a verdict that holds for all of them at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import NamedTuple

from fss.evaluate import is_reference
from fss.intervals import LEVEL
from fss.lab.campaign import Result, grouped, tallies_of
from fss.lab.intervals import Parts, difference, holm, share_of_room
from fss.lab.report import LOOKS, PAPER
from fss.viz import NotebookFigure

NO_LARGER = 0.0108  # of mIoU: the gain that the paper reports for its modules together
MOST_RUNS = 50  # an arm, beyond which a number of runs says only that it takes too many


@dataclass(frozen=True)
class Verdict:
    """What is known of an arm against its parent, on one data set or group and with one number of shots.

    Attributes:
        arm, parent: names.
        gain: mIoU of the arm minus that of its parent, a fraction; None without runs enough for an interval.
        p: of the gain's being 0, corrected for the family (Holm).
        interval: of 95 %, corrected alike.
        share: the gain as a share of base minus blind and its interval (Fieller); None where that is no
            more than ten points, or the parent is not base.
        verdict: "gains" or "costs" (the interval leaves 0 out), else "no larger than 1.08" (it lies
            within the paper's gain on either side), else "not settled".
        runs: an arm that would settle it, judged by today's gain and spread; None where it is settled
            or would take more than ``MOST_RUNS``.
    """

    arm: str
    parent: str
    gain: float | None = None
    p: float | None = None
    interval: tuple[float, float] | None = None
    share: tuple[float, tuple[float, float]] | None = None
    verdict: str = "not settled"
    runs: int | None = None


def verdicts(results: Mapping[str, Result], data: str, shots: int, *, baseline: str = "base") -> list[Verdict]:
    """Compare every trained arm of a data set or group with its parent; blind and the baseline are controls.

    The comparisons are one family: each is held to what Holm's procedure leaves it. Results are those
    of ``Campaign.results``.
    """
    groups = {arm: folds for (name, arm, k), folds in grouped(results).items() if (name, k) == (data, shots)}
    sides = {arm: tallies_of(folds, shots) for arm, folds in groups.items()}

    def parts(arm: str, other: str) -> Parts | None:
        if {arm, other} <= sides.keys():
            return difference(sides[arm], sides[other], fixed=(is_reference(arm), is_reference(other)))
        return None

    parents = {
        arm: folds[0][0].run.parent or baseline
        for arm, folds in groups.items()
        if folds[0][0].run.trained and not folds[0][0].run.config.without_support
    }
    compared = {
        (arm, parent): parts(arm, parent) for arm, parent in parents.items() if parent != arm and parent in sides
    }
    known = {names: each for names, each in compared.items() if each is not None}
    adjusted = dict(zip(known, holm([each.estimate() for each in known.values()]), strict=True))
    room = parts("base", "blind")
    found = []
    for names, each in compared.items():
        if each is None:
            found.append(Verdict(*names))
            continue
        p, (low, high) = adjusted[names]
        both = parts(names[0], "blind") if room and names[1] == "base" else None
        verdict = _verdict(low, high)
        found.append(
            Verdict(
                *names,
                gain=each.value,
                p=p,
                interval=(low, high),
                share=share_of_room(each.estimate(), room.estimate(), both.estimate()) if room and both else None,
                verdict=verdict,
                runs=None if verdict != "not settled" else runs_needed(each, len(groups[names[0]][0]), len(known)),
            )
        )
    return found


def runs_needed(parts: Parts, made: int, family: int = 1) -> int | None:
    """Return how many runs an arm (of each fold) would settle a difference; None for more than ``MOST_RUNS``.

    That is where, the gain and the runs' spread staying as they are, the interval would leave 0 out or lie
    within the paper's gain, at the strictest level that Holm may ask of one claim of ``family``.
    """
    enough = max(abs(parts.value), NO_LARGER - abs(parts.value))
    for runs in range(made + 1, MOST_RUNS + 1):
        spread = tuple((variance * made / runs, degrees * (runs - 1) / (made - 1)) for variance, degrees in parts.runs)
        low, high = parts._replace(runs=spread).estimate().interval(1 - (1 - LEVEL) / family)
        if (high - low) / 2 < enough:
            return runs
    return None


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return "gains"
    if high < 0:
        return "costs"
    return "no larger than 1.08" if max(-low, high) < NO_LARGER else "not settled"


def verdict_table(results: Mapping[str, Result], data: str, *, baseline: str = "base") -> str:
    """Return the verdicts of a data set or group as a Markdown table, a line for each arm and number of shots.

    Gains and their intervals are in points, corrected for all arms of one number of shots; shares of what
    base gains over blind in per cent, not corrected. The paper's gain stands beside it with "in" where the
    interval holds it and "out" where not.
    """
    shots = sorted({k for name, _, k in grouped(results) if name == data})
    found = [(k, each) for k in shots for each in verdicts(results, data, k, baseline=baseline)]
    heads = ["arm", "over", "shots", "gain [95 %]", "p", "verdict"]
    shared = any(each.share for _, each in found)
    heads += ["of base - blind (%)"] if shared else []
    papers = any(each.arm in PAPER and each.parent == "base" for _, each in found)
    heads += ["the paper's"] if papers else []
    lines = [heads, [":---", ":---", "---:", "---:", "---:", ":---", *["---:"] * (len(heads) - 6)]]
    for k, each in found:
        gain, low, high = (f"{100 * x:+.1f}" for x in (each.gain or 0.0, *(each.interval or (0.0, 0.0))))
        needed = f"; {each.runs} runs an arm would" if each.runs else f"; > {MOST_RUNS} runs an arm"
        line = [each.arm, each.parent, str(k)]
        if each.interval is None or each.p is None:
            line += ["–", "–", "not settled: too few runs"]
        else:
            line += [f"{gain} [{low}, {high}]", "< 0.001" if each.p < 0.001 else f"{each.p:.3f}"]
            line += [each.verdict + (needed if each.verdict == "not settled" else "")]
        if shared:
            line.append(
                "{:+.0f} [{:+.0f}, {:+.0f}]".format(*(100 * x for x in (each.share[0], *each.share[1])))
                if each.share
                else "–"
            )
        if papers:
            there = each.parent == "base" and each.interval and each.arm in PAPER and k in (1, 5)
            line.append("–")
            if there and each.interval:
                gain_of_paper = PAPER[each.arm][(1, 5).index(k)]
                inside = each.interval[0] <= gain_of_paper / 100 <= each.interval[1]
                line[-1] = f"{gain_of_paper:+.2f} ({'in' if inside else 'out'})"
        lines.append(line)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


class Cell(NamedTuple):
    """An arm on one entry of a grid: its mIoU, and how it compares to its parent, where enough runs say so."""

    miou: float
    verdict: Verdict | None = None


def grid(results: Mapping[str, Result], data: str, *, baseline: str = "base") -> dict[str, dict[str, Cell]]:
    """Return what each arm reached on each entry of a data set's grid, with one shot: entry -> arm -> cell.

    The entry ``default`` is the data set itself. The entries of one arm are one family (Holm).
    """
    entries: dict[str, str | None] = {"default": None}
    entries |= {name: name for each in results.values() if each.run.data == data for name in each.run.grid}
    groups = {name: grouped(results, also=on) for name, on in entries.items()}
    cells: dict[str, dict[str, Cell]] = {name: {} for name in entries}
    for arm in (arm for name, arm, shots in groups["default"] if (name, shots) == (data, 1)):
        known: dict[str, tuple[str, Parts]] = {}
        for name in entries:
            folds = groups[name].get((data, arm, 1))
            if folds is None:
                continue
            run, tallies = folds[0][0].run, tallies_of(folds, 1, entries[name])
            cells[name][arm] = Cell(mean(mean(tally.miou() for tally in fold) for fold in tallies))
            parent = run.parent or baseline
            base = groups[name].get((data, parent, 1))
            if run.trained and not run.config.without_support and parent != arm and base:
                parts = difference(tallies, tallies_of(base, 1, entries[name]))
                if parts is not None:
                    known[name] = parent, parts
        adjusted = holm([parts.estimate() for _, parts in known.values()])
        for (name, (parent, parts)), (p, ends) in zip(known.items(), adjusted, strict=True):
            verdict = Verdict(arm, parent, parts.value, p, ends, verdict=_verdict(*ends))
            cells[name][arm] = cells[name][arm]._replace(verdict=verdict)
    return cells


def grid_table(cells: Mapping[str, Mapping[str, Cell]]) -> str:
    """Return a ``grid`` as a Markdown table, an entry a line: mIoU in per cent, and gains in points with intervals."""
    arms = list(dict.fromkeys(arm for line in cells.values() for arm in line))
    lines = [["", *arms], [":---", *["---:"] * len(arms)]]
    for name, line in cells.items():
        lines.append([name])
        for arm in arms:
            cell = line.get(arm)
            text = "–" if cell is None else f"{100 * cell.miou:.1f}"
            if cell and cell.verdict and cell.verdict.interval and cell.verdict.gain is not None:
                ends = (100 * x for x in (cell.verdict.gain, *cell.verdict.interval))
                text += " ({:+.1f} [{:+.1f}, {:+.1f}])".format(*ends)
            lines[-1].append(text)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def grid_figure(cells: Mapping[str, Mapping[str, Cell]], *, baseline: str = "base") -> NotebookFigure | None:
    """Draw the gains over the baseline at each entry of a ``grid``, an arm a colour; None where there are none.

    A filled mark is an interval that leaves zero out.
    """
    gains = {
        arm: [
            (place, cell.verdict)
            for place, line in enumerate(cells.values())
            if (cell := line.get(arm)) and cell.verdict
        ]
        for arm in dict.fromkeys(arm for line in cells.values() for arm in line)
    }
    shown = {arm: [each for each in found if each[1].parent == baseline] for arm, found in gains.items()}
    shown = {arm: found for arm, found in shown.items() if found}
    if not shown:
        return None
    figure = NotebookFigure(figsize=(6.4, 1.2 + 0.42 * len(cells)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color="black", linewidth=1)
    for number, ((arm, found), (color, marker)) in enumerate(zip(shown.items(), LOOKS, strict=False)):
        for place, each in found:
            y = place + 0.22 * (number - (len(shown) - 1) / 2)
            low, high = (100 * end for end in each.interval or (0.0, 0.0))
            axis.plot([low, high], [y, y], color=color, linewidth=2)
            face = color if low > 0 or high < 0 else "white"
            axis.plot(100 * (each.gain or 0.0), y, marker, color=color, markerfacecolor=face)
        axis.plot([], [], marker, color=color, label=arm)
    axis.set_yticks(range(len(cells)), list(cells))
    axis.set_ylim(len(cells) - 0.5, -0.5)
    axis.set_xlabel(f"mIoU minus {baseline}'s, points (95 % interval over runs and pictures)", loc="right")
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper right", ncols=len(shown), frameon=False, fontsize=9)
    return figure
