"""Read every picture of a data set once and list what is wrong with it."""

import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from tqdm.auto import tqdm

from fss.data.dataset import Dataset, Reader
from fss.errors import InputError


def check_pictures(datasets: Iterable[Dataset], *, workers: int, progress: bool) -> Iterator[str]:
    """Yield one line for every file that cannot be used, whatever number of classes it shows.

    Args:
        datasets: what ``open_whole`` gave.
        workers: processes that read.
        progress: show a bar.
    """
    told = set()
    for dataset in datasets:
        samples = [(c, name) for c, names in dataset.images.items() for name in names]
        if not samples:
            continue
        for problem in _read(dataset, samples, workers, progress):
            if problem not in told:
                yield problem
            told.add(problem)


def _read(dataset: Dataset, samples: list[tuple[str, str]], workers: int, progress: bool) -> Iterator[str]:
    pool = ProcessPoolExecutor(workers, initializer=_leave_signals_to_the_parent)
    try:
        results = pool.map(partial(_problem, dataset.reader, dataset.size), samples, chunksize=16)
        total, split = len(samples), dataset.split
        bar = tqdm(results, total=total, desc=split, unit="picture", disable=not progress)
        yield from (problem for problem in bar if problem)
    except BrokenProcessPool as error:
        raise InputError(
            "a process that read pictures was killed, probably for lack of memory; check with --workers 1"
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
