"""Put the tables of README.md between their marks, from the measured JSON in results/.

``<!-- table: NAME -->`` ... ``<!-- end -->`` holds the table of ``results/NAME.json`` and the
command that made it. ``--check`` only says whether all tables are current.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from fss import bench
from fss.files import write_atomically
from fss.viz import results_table

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(name: str) -> str:
    """Return the Markdown of one result."""
    result = json.loads((ROOT / "results" / f"{name}.json").read_bytes())
    if "parts" in result:
        return f"{bench.tables(result)}Made by `{result['command']}`\n"
    shown = ("name", "shots", "miou", "miou_interval", "fb_iou")
    rows: list[dict[str, Any]] = [{key: row[key] for key in shown} for row in result["rows"]]
    row, machine = result["rows"][0], result["machine"]
    return (
        f"{results_table(rows)}\n"
        f"{row['episodes']} episodes of {row['classes']} test classes, list seed {row['seed']}, "
        f"one training run an arm; 95 % bootstrap intervals over the episodes; "
        f"{machine['cpu']}, torch {machine['torch']}. Made by\n"
        f"`{result['command']}`\n"
    )


def main() -> None:
    """Rewrite README.md, or with ``--check`` exit with 1 if that would change it."""
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = MARKED.sub(lambda match: match[1] + table(match[2]) + match[3], old)
    if "--check" in sys.argv:
        sys.exit("README.md: tables are not current; run `make tables`" if new != old else 0)
    write_atomically(readme, new.encode())


if __name__ == "__main__":
    main()
