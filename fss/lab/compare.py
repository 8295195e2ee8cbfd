"""The difference of two results of ``fss eval --json`` that were measured on one list of episodes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fss.errors import InputError, one_line
from fss.metrics import EpisodeTally, paired_interval

ALIKE = {
    "support": "supports",
    "size": "sizes",
    "scored_at": "sizes that they are scored at",
    "void": "ways with label 255",
    "episodes_sha256": "episode lists",
    "data": "data",
    "split": "splits",
    "fold": "folds",
}
"""What two results have in common to be compared, and how a message calls it."""


def compare(a: Path, b: Path) -> dict[str, Any]:
    """Return the mIoUs of two results, and their difference a - b with its 95 % interval over query pictures.

    The interval is of these two networks, not of others trained as they were; all are fractions.

    Raises:
        InputError: a file that is no such result, or has no mIoU; or results that differ in what they
            were asked.
    """
    results = [_read(path) for path in (a, b)]
    for key, name in ALIKE.items():
        first, second = (result[key] for result in results)
        if first != second:
            raise InputError(f"{a} and {b} differ in their {name} ({first} and {second}): measure both alike")
    for path, result in zip((a, b), results, strict=True):
        if result["miou"] is None:
            raise InputError(f"{path}: has no mIoU to compare, with {result['support']} supports")
    ours, theirs = (result["tally"] for result in results)
    return {
        "files": [str(a), str(b)],
        "checkpoints": [result.get("checkpoint") for result in results],
        "miou": [ours.miou(), theirs.miou()],
        "difference": ours.miou() - theirs.miou(),
        "difference_interval": list(paired_interval(ours, theirs)),
        "pictures": len(set(ours.queries)),
        "episodes": len(ours),
        **{key: results[0][key] for key in ALIKE},
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_bytes())
        counts = {**result["counts"], "query": result["counts"]["query"]}  # which older results lack
        return {**result, **{key: result[key] for key in ("miou", *ALIKE)}, "tally": EpisodeTally.from_json(counts)}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; fss eval --json writes one") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no result of fss eval --json ({one_line(error)}); measure it anew") from error


def lines(compared: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that ``fss compare`` prints."""
    for path, checkpoint, miou in zip(*(compared[key] for key in ("files", "checkpoints", "miou")), strict=True):
        yield f"{path}: mIoU {100 * miou:.1f}{f'   {checkpoint}' if checkpoint else ''}"
    low, high = compared["difference_interval"]
    yield (
        f"difference {100 * compared['difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}], "
        f"95 % over {compared['pictures']} query pictures of {compared['episodes']} episodes; "
        "of these two networks, not of others trained alike"
    )
