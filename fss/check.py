"""Read every picture of a data set once and list what is wrong with it."""

import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from tqdm.auto import tqdm

from fss.data import SPLITS, open_dataset
from fss.data.dataset import Reader
from fss.errors import InputError


def check_dataset(
    spec: str, *, fold: int | None, size: int, workers: int, progress: bool
) -> Iterator[str]:
    """Yield one line for every class, file or picture that cannot be used, over all splits.

    A split without classes is none: it matters when it is asked for.

    Args:
        spec: as for ``open_dataset``.
        fold: as for ``open_dataset``.
        size: side of the pictures in pixels.
        workers: processes that read.
        progress: show a bar.

    Raises:
        InputError: the data set cannot be opened at all.
    """
    found: dict[str, None] = {}  # in order; a folder's own line would come with every split
    datasets = []
    for split in SPLITS:
        problems: list[str] = []
        datasets.append(open_dataset(spec, split=split, fold=fold, size=size, problems=problems))
        found |= dict.fromkeys(problems)
    yield from found
    for dataset in datasets:
        samples = [(c, name) for c, names in dataset.images.items() for name in names]
        if samples:
            yield from _read(dataset.reader, size, samples, workers, dataset.split, progress)


def _read(
    reader: Reader,
    size: int,
    samples: list[tuple[str, str]],
    workers: int,
    split: str,
    progress: bool,
) -> Iterator[str]:
    pool = ProcessPoolExecutor(workers, initializer=_leave_signals_to_the_parent)
    try:
        results = pool.map(partial(_problem, reader, size), samples, chunksize=16)
        bar = tqdm(results, total=len(samples), desc=split, unit="picture", disable=not progress)
        yield from (problem for problem in bar if problem)
    except BrokenProcessPool as error:
        raise InputError(
            "a process that read pictures was killed, probably for lack of memory; "
            "check with --workers 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_signals_to_the_parent() -> None:
    """Ctrl-C reaches every process of a terminal; one line about it is enough."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _problem(reader: Reader, size: int, sample: tuple[str, str]) -> str | None:
    try:
        reader.read(*sample, size)
    except InputError as error:
        return str(error)
    return None
