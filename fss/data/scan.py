"""How many pixels of each label every mask holds: counted once, and anew after a change."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from tqdm import tqdm

from fss.data.indexed import Indexed
from fss.data.lists import Pair
from fss.data.pictures import stamp
from fss.errors import InputError
from fss.files import cache_folder, write_atomically

Scan = dict[str, dict[int, int]]  # picture -> label -> pixels, for the labels that are there


def scan(reader: Indexed, names: Iterable[str], problems: list[str] | None = None) -> Scan:
    """Count the labels of some masks, in order of `names`.

    What was counted before is kept in the user's cache folder, and holds as long as a mask's path,
    size and time of change stay. A mask that cannot be read is left out and adds a line to
    `problems`; without such a list, it raises `InputError`.
    """
    cache = cache_folder() / "scans" / f"{hashlib.sha256(reader.key.encode()).hexdigest()[:32]}.2.json"
    kept: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):  # none yet, or a damaged one
        kept = dict(json.loads(cache.read_bytes()))
    changed, counts = False, Scan()
    for name in tqdm(list(names), desc="scan", unit="mask", disable=None, leave=False):
        path = reader.mask(name)
        try:
            state = f"{path} {stamp(path)}"
            if kept.get(name, [None])[0] != state:
                pixels = np.bincount(reader.labels(name).ravel())
                kept[name] = [state, [(int(label), int(pixels[label])) for label in np.flatnonzero(pixels)]]
                changed = True
        except InputError as error:
            if problems is None:
                raise
            problems.append(str(error))
        else:
            counts[name] = dict(kept[name][1])
    if changed:
        with suppress(InputError):  # a cache that cannot be written costs time only
            write_atomically(cache, json.dumps(kept).encode())
    return counts


def large(counts: Scan, labels: set[int], least: int) -> list[Pair]:
    """Pairs of a picture and a label with at least `least` pixels, and at least one."""
    return [
        (name, label)
        for name, pixels in counts.items()
        for label in sorted(labels & pixels.keys())
        if pixels[label] >= least
    ]


def grouped(pairs: Iterable[Pair], labels: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Return the pictures of each class, in order of their names, from pairs and the classes' labels."""
    found = sorted(pairs)
    return {name: tuple(picture for picture, label in found if label == own) for name, own in labels.items()}
