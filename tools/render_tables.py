"""Make the tables of README.md and docs/ and the figures of the campaigns from what results/ holds.

``<!-- table: CAMPAIGN/DATA -->`` ... ``<!-- end -->`` in a page holds the table of one data set of
a campaign, whose forest plot is ``results/CAMPAIGN/DATA.png``, and the command that made it;
``<!-- table: CAMPAIGN/DATA/ALSO -->`` what the same networks did on other data, and
``<!-- table: bench -->`` the benchmark. ``<!-- verdicts: CAMPAIGN/DATA -->`` holds each arm against its
parent, ``<!-- grid: CAMPAIGN/DATA -->`` what the arms do as knobs move, with the figure
``results/CAMPAIGN/DATA-grid.png``. DATA may be a group. ``--check`` only says whether all are current.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from fss.errors import InputError
from fss.evaluate import is_reference
from fss.files import write_atomically
from fss.lab import bench
from fss.lab.campaign import DECLARATION, Campaign, Result, summary
from fss.lab.report import forest, table
from fss.lab.verdicts import grid, grid_figure, grid_table, verdict_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
MARKED = re.compile(r"(<!-- (table|verdicts|grid): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
BENCH = "bench"  # results/bench.json, which is no campaign's
SOURCE = "Source"  # the PNG field that says what the figure was made from


def marked_table(kind: str, name: str) -> str:
    """Return the Markdown of the benchmark, or of one data set of a campaign: its table, verdicts or grid."""
    if name == BENCH:
        result = json.loads((RESULTS / f"{name}.json").read_bytes())
        return f"{bench.tables(result)}Made by `{result['command']}`\n"
    campaign, _, place = name.partition("/")
    data, _, also = place.partition("/")
    if kind == "table":
        return _campaign_table(campaign, data, also or None)
    declared, results, _ = _read(campaign)
    make = verdict_table if kind == "verdicts" else _grid_table
    return f"{make(results, data, baseline=declared.baseline)}\nMade by `fss ablate results/{campaign}`\n"


def _grid_table(results: dict[str, Result], data: str, *, baseline: str) -> str:
    return grid_table(grid(results, data, baseline=baseline))


@cache
def _read(campaign: str, also: str | None = None) -> tuple[Campaign, dict[str, Result], list[dict[str, Any]]]:
    """A campaign, its results and their summary, which takes a while."""
    declared = Campaign.read(RESULTS / campaign)
    results = declared.results()
    return declared, results, summary(results, baseline=declared.baseline, also=also)


def _campaign_table(campaign: str, data: str, also: str | None) -> str:
    declared, results, rows = _read(campaign, also)
    here = [run for run in declared.runs if data in (run.data, run.group) and (also is None or also in run.others)]
    if not here:
        raise InputError(f"{campaign}/{data}{f'/{also}' if also else ''}: declared by no campaign in {RESULTS}")
    rows = [row for row in rows if row["data"] == data]
    if not rows:
        return f"No run has a result yet; `fss ablate results/{campaign}` makes them.\n"
    found = [result for result in results.values() if data in (result.run.data, result.run.group)]
    run, machine, made = found[0].run, found[0].record["machine"], len(found)
    folds = len({result.run.data for result in found})
    steps = {other.arm: other.schedule.steps for other in here if other.trained}
    usual = next(iter(steps.values()), None)
    longer = ", ".join(f"{arm}: {n}" for arm, n in steps.items() if n != usual)
    trained = f"{usual} steps each{f' ({longer})' if longer else ''}, " if steps else ""
    pictures = next((row["pictures"] for row in rows if row["pictures"]), None)
    others = f"; other supports ask {pictures} pictures" if pictures else ""
    several = any(row["seeds"] > 1 for row in rows)
    over = (
        "± is the standard deviation over the seeds, and a gain's interval is over runs and"
        if several
        else "intervals are over"
    )
    return (
        f"{table(rows)}\n"
        f"{made} of {len(here)} runs; {trained}the same {run.episodes} {run.split} "
        f"episodes{f' of each of {folds} folds' if folds > 1 else ''} for all, list seed {run.list_seed}"
        f"{others}; {over} query pictures; {machine['cpu']}, one core a run, torch {machine['torch']}. Made by\n"
        f"`fss ablate results/{campaign}`\n"
    )


def figures() -> dict[Path, bytes]:
    """Return the forest plot, and the plot of the grid, of every data set of every campaign that are not current."""
    stale: dict[Path, bytes] = {}
    for declaration in sorted(RESULTS.glob(f"*/{DECLARATION}")):
        campaign, results, rows = _read(declaration.parent.name)
        for data in dict.fromkeys(row["data"] for row in rows):
            # The control lies sixty points away, and would squeeze what the arms differ by.
            shown = [row for row in rows if row["data"] == data and row["arm"] != "blind"]
            if not all(row["gain_interval"] is None or is_reference(row["arm"]) for row in shown):
                plot = partial(forest, shown, title=f"{data}: arm (seeds)", baseline=campaign.baseline)
                stale |= _drawn(declaration.parent / f"{data}.png", shown, plot)
            if any(run.grid for run in campaign.runs if run.data == data):
                cells = grid(results, data, baseline=campaign.baseline)
                stale |= _drawn(
                    declaration.parent / f"{data}-grid.png",
                    cells,
                    partial(grid_figure, cells, baseline=campaign.baseline),
                )
    return stale


def _drawn(path: Path, shown: Any, draw: Callable[[], Figure | None]) -> dict[Path, bytes]:
    """Return the figure, unless the one at the path shows the same, or there is nothing to show."""
    exact = json.loads(json.dumps(shown, default=vars), parse_float=lambda x: round(float(x), 9))  # on every processor
    source = hashlib.sha256(json.dumps(exact, sort_keys=True).encode()).hexdigest()
    if _source(path) == source or (figure := draw()) is None:
        return {}
    png = BytesIO()
    figure.savefig(png, format="png", dpi=120, metadata={SOURCE: source})
    return {path: png.getvalue()}


def _source(path: Path) -> str | None:
    if not path.is_file():
        return None
    with Image.open(path) as image:
        found = image.info.get(SOURCE)
    return None if found is None else str(found)


def main() -> None:
    """Rewrite what is not current, or with ``--check`` name it and exit with 1."""
    stale = figures()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        old = page.read_text(encoding="utf-8")
        try:
            new = MARKED.sub(lambda match: match[1] + marked_table(match[2], match[3]) + match[4], old)
        except InputError as error:
            sys.exit(f"{page}: {error}")
        if new != old:
            stale[page] = new.encode()
    if "--check" in sys.argv:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"not current: {names}; run `make tables`" if stale else 0)
    for path, content in stale.items():
        write_atomically(path, content)


if __name__ == "__main__":
    main()
