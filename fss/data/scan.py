"""How many pixels of each label every mask holds: counted once, and anew after a change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fss.data.voc import Voc
from fss.errors import InputError
from fss.files import cache_folder, write_atomically

FORMAT = "scan-1"
Scan = dict[str, dict[int, int]]  # picture -> label -> pixels, for the labels that are there


def scan(voc: Voc, names: Iterable[str], problems: list[str] | None = None) -> Scan:
    """Count the labels of some masks, in order of `names`.

    What was counted before is kept in the user's cache folder, and holds as long as a mask's path,
    size and time of change stay. Raises `InputError` for a mask that cannot be read; where a
    list of `problems` is given, it gets the line instead and the mask is left out.
    """
    cache = _path(voc)
    kept, changed, counts = _load(cache), False, Scan()
    for name in tqdm(list(names), desc="scan", unit="mask", disable=None, leave=False):
        path = voc.mask(name)
        try:
            stat = path.stat()
            state = [str(path), stat.st_size, stat.st_mtime_ns]
            if kept.get(name, [None])[:-1] != state:
                pixels = np.bincount(voc.labels(name).ravel())
                kept[name] = [*state, {str(n): int(pixels[n]) for n in np.flatnonzero(pixels)}]
                changed = True
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); restore it") from error
        except InputError as error:
            if problems is None:
                raise
            problems.append(str(error))
            continue
        counts[name] = {int(label): pixels for label, pixels in kept[name][-1].items()}
    if changed:
        with suppress(InputError):  # a cache that cannot be written costs time only
            write_atomically(cache, json.dumps({"format": FORMAT, "masks": kept}).encode())
    return counts


def _path(voc: Voc) -> Path:
    folders = "\n".join(str(folder.resolve()) for folder in voc.masks)
    return cache_folder() / "scans" / f"{hashlib.sha256(folders.encode()).hexdigest()[:32]}.json"


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
        return dict(content["masks"]) if content["format"] == FORMAT else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
