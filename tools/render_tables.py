"""Make the tables of README.md and docs/ and the figures of the campaigns from what results/ holds.

``<!-- table: CAMPAIGN/DATA -->`` ... ``<!-- end -->`` in a page holds the table of one data set of
a campaign, whose forest plot is ``results/CAMPAIGN/DATA.png``, and the command that made it;
``<!-- table: CAMPAIGN/DATA/ALSO -->`` what the same networks did on other data, and
``<!-- table: bench -->`` the benchmark. ``--check`` only says whether all are current.
"""

import hashlib
import json
import re
import sys
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from fss.errors import InputError
from fss.evaluate import is_reference
from fss.files import write_atomically
from fss.lab import bench
from fss.lab.campaign import DECLARATION, Campaign, Result, summary
from fss.lab.report import forest, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
BENCH = "bench"  # results/bench.json, which is no campaign's
SOURCE = "Source"  # the PNG field that says what the figure was made from


def marked_table(name: str) -> str:
    """Return the Markdown of the benchmark, or of one data set of a campaign."""
    if name == BENCH:
        result = json.loads((RESULTS / f"{name}.json").read_bytes())
        return f"{bench.tables(result)}Made by `{result['command']}`\n"
    campaign, _, place = name.partition("/")
    data, _, also = place.partition("/")
    return _campaign_table(campaign, data, also or None)


@cache
def _read(campaign: str, also: str | None = None) -> tuple[Campaign, dict[str, Result], list[dict[str, Any]]]:
    """A campaign, its results and their summary, which takes a while."""
    declared = Campaign.read(RESULTS / campaign)
    results = declared.results()
    return declared, results, summary(results, baseline=declared.baseline, also=also)


def _campaign_table(campaign: str, data: str, also: str | None) -> str:
    declared, results, rows = _read(campaign, also)
    here = [run for run in declared.runs if run.data == data and (also is None or also in run.others)]
    if not here:
        raise InputError(f"{campaign}/{data}{f'/{also}' if also else ''}: declared by no campaign in {RESULTS}")
    rows = [row for row in rows if row["data"] == data]
    if not rows:
        return f"No run has a result yet; `fss ablate results/{campaign}` makes them.\n"
    result = next(result for result in results.values() if result.run.data == data)
    run, machine = result.run, result.record["machine"]
    made = sum(other.run.data == data for other in results.values())
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
        f"episodes for all, list seed {run.list_seed}"
        f"{others}; {over} query pictures; {machine['cpu']}, one core a run, torch {machine['torch']}. Made by\n"
        f"`fss ablate results/{campaign}`\n"
    )


def figures() -> dict[Path, bytes]:
    """Return the forest plot of every data set of every campaign that is not current."""
    stale = {}
    for declaration in sorted(RESULTS.glob(f"*/{DECLARATION}")):
        campaign, _, rows = _read(declaration.parent.name)
        for data in dict.fromkeys(row["data"] for row in rows):
            # The control lies sixty points away, and would squeeze what the arms differ by.
            shown = [row for row in rows if row["data"] == data and row["arm"] != "blind"]
            source = hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()
            path = declaration.parent / f"{data}.png"
            if _source(path) == source or all(
                row["gain_interval"] is None or is_reference(row["arm"]) for row in shown
            ):
                continue
            png = BytesIO()
            figure = forest(shown, title=f"{data}: arm (seeds)", baseline=campaign.baseline)
            figure.savefig(png, format="png", dpi=120, metadata={SOURCE: source})
            stale[path] = png.getvalue()
    return stale


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
            new = MARKED.sub(lambda match: match[1] + marked_table(match[2]) + match[3], old)
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
