"""Read every picture of a data set once and list what is wrong with it."""

import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain

import numpy as np
from tqdm.auto import tqdm

from fss.config import DataConfig
from fss.data import open_whole
from fss.data.dataset import Dataset, Reader
from fss.data.pictures import IGNORE
from fss.data.splits import some
from fss.errors import InputError

FLAT = 12  # of 256: so little between dark and bright pixels tells a network nothing


def check_data(
    spec: str, *, fold: int, size: int, options: DataConfig = DataConfig(), workers: int, progress: bool
) -> tuple[list[str], Iterator[str]]:
    """Open all of a data set and read its pictures as they are asked for.

    Args:
        spec: as for ``open_dataset``.
        fold: likewise.
        size: side in pixels of the square that each picture is fitted into.
        options: which pictures and classes.
        workers: processes that read.
        progress: show a bar for each split.

    Returns:
        What there is to know of the data set, and its problems, a line each: once for every class or
        file that cannot be used, whatever number of classes a picture shows.
    """
    notes, datasets, problems = open_whole(spec, fold=fold, size=size, options=options)
    for dataset in datasets:
        small = [name for name, images in dataset.images.items() if len(images) == 1]
        if small:
            notes.append(
                f"too few pictures: {some(small)} with one each, where an episode needs at least two; "
                "add pictures, or leave such classes out with --skip-small-classes"
            )
        if not dataset.images:
            notes.append(
                f"no {dataset.split} class, which fss {'eval' if dataset.split == 'test' else 'train'} needs: "
                "classes are shared out to train, val and test, so it takes at least three"
            )

    def found() -> Iterator[str]:
        said = set()
        for problem in chain(problems, *(_read(dataset, workers, progress) for dataset in datasets)):
            if problem not in said:
                yield problem
            said.add(problem)

    return list(dict.fromkeys(notes)), found()


def _read(dataset: Dataset, workers: int, progress: bool) -> Iterator[str]:
    samples = [(class_name, name) for class_name, names in dataset.images.items() for name in names]
    pool = ProcessPoolExecutor(workers, initializer=_leave_signals_to_the_parent)
    try:
        results = pool.map(partial(_problem, dataset.reader, dataset.size), samples, chunksize=16)
        bar = tqdm(results, total=len(samples), desc=dataset.split, unit="picture", disable=not progress)
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
        picture, labels = reader.read(*sample, size)
    except InputError as error:
        return str(error)
    known = picture[labels != IGNORE]
    low, high = np.percentile(known, [1, 99]).tolist() if known.size else (0, 255)
    flat = f"{'/'.join(sample)} comes out without contrast, with values from {low:.0f} to {high:.0f} of 0 to 255"
    return None if high - low >= FLAT else f"{flat}; save it with 8 bits over the whole range"
