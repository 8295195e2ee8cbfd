"""Read every picture of a data set once and list what is wrong with it."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tqdm.auto import tqdm

from fss.data import SPLITS, open_dataset
from fss.data.dataset import Reader
from fss.errors import InputError


def check_dataset(
    spec: str, *, fold: int | None, size: int, workers: int, progress: bool
) -> Iterator[str]:
    """Yield one line for every picture that cannot be read, over all splits.

    Raises:
        InputError: the data set cannot be opened at all.
    """
    for split in SPLITS:
        dataset = open_dataset(spec, split=split, fold=fold, size=size)
        samples = [(c, name) for c, names in dataset.images.items() for name in names]
        read = partial(_problem, dataset.reader, size)
        with ProcessPoolExecutor(workers) as pool:
            results = pool.map(read, samples, chunksize=16)
            bar = tqdm(
                results, total=len(samples), desc=split, unit="picture", disable=not progress
            )
            yield from (problem for problem in bar if problem)


def _problem(reader: Reader, size: int, sample: tuple[str, str]) -> str | None:
    try:
        reader.read(*sample, size)
    except InputError as error:
        return str(error)
    return None
