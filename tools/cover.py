"""The picture of the explorer in the README: three places of a query, and what each attends to.

python tools/cover.py results/explorer.png
"""

from pathlib import Path

import tyro

from fss.explorer import Explorer, network
from fss.explorer.scenes import drawn
from fss.files import write_atomically


def cover(
    out: tyro.conf.Positional[Path],
    class_name: str = "shape-0042",
    places: tuple[tuple[int, int], ...] = ((8, 15), (15, 7), (4, 4)),
) -> None:
    """Draw an episode of the shapes world and the deep matches of ``best-lite0-shapes`` in it.

    Args:
        out: the PNG.
        class_name: of the test classes.
        places: rows and columns of the 28 x 28 places that are asked.
    """
    explorer = Explorer(network("best-lite0-shapes"), drawn(class_name))
    explorer.choose(map="match4")
    write_atomically(out, explorer.snapshot(places))


if __name__ == "__main__":
    tyro.cli(cover)
