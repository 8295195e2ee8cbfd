"""Frozen features of episodes: read from a cache on disk, or extracted when asked for.

The backbone is frozen and the mask is applied after it, so the features of a picture never change:
a training step on a CPU then costs the head alone. Both sources round the features to half
precision, which is how they lie on disk, and give the same numbers.
"""

import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from errno import ENOSPC
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader
from tqdm.auto import tqdm

from fss.backbones import Features
from fss.data.dataset import Dataset
from fss.episodes import (
    Augment,
    Episode,
    EpisodeDataset,
    episode_loader,
    read_all,
    relabelled,
)
from fss.errors import InputError
from fss.files import cache_folder
from fss.model import DANet

FORMAT = "features-4"  # part of every key: raise it when the meaning of the files changes
CHUNK = 16  # pictures that are read at a time; see `extract` for how many the backbone takes at once
STALE = 24 * 3600  # seconds after which a file that nobody wrote into was left by a dead process


class FeatureBatch(NamedTuple):
    """What the head sees of B episodes; the support's features are not masked yet."""

    query: Features  # each map [B,C,H,W]
    target: UInt8[Tensor, "B h w"]
    support: Features  # each map [B,K,C,H,W]
    mask: UInt8[Tensor, "B K h w"]
    episodes: tuple[Episode, ...] = ()  # which they are, in order


class LiveFeatures:
    """Features extracted from the pictures each time, on the model's device.

    Args:
        model: whose backbone extracts.
        dataset: where the pictures are.
        augment, seed: see ``fss.episodes.EpisodeDataset``.
        workers: processes that read pictures beside this one.
        autocast: context that the backbone computes in, as accelerate's for mixed precision.
    """

    def __init__(
        self,
        model: DANet,
        dataset: Dataset,
        *,
        augment: Augment | None = None,
        seed: int = 0,
        workers: int = 0,
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.model, self.dataset, self.augment = model, dataset, augment
        self.seed, self.workers, self.autocast = seed, workers, autocast

    def batches(
        self, episodes: Sequence[Episode], batch: int, *, start: int = 0, stride: int | None = None
    ) -> Iterator[FeatureBatch]:
        """Yield the features of episodes in batches, in order, from episode ``start`` on.

        The last batch may be smaller. Each batch begins ``stride`` episodes after the start of the one before,
        by default right after its end; with a larger ``stride``, one of several processes leaves out the
        episodes of the others.
        """
        device = self.model.backbone.mean.device
        pictures = EpisodeDataset(self.dataset, episodes, augment=self.augment, seed=self.seed)
        loader = episode_loader(pictures, batch=batch, workers=self.workers, start=start, stride=stride)
        for first, read in zip(range(start, len(episodes), stride or batch), read_all(loader), strict=True):
            tensors = [tensor.to(device, non_blocking=True) for tensor in read]
            with self.autocast():
                found = extract_batch(self.model, *tensors)
            yield found._replace(episodes=tuple(episodes[first : first + batch]))


class CachedFeatures:
    """The same features, memory-mapped from the cache folder; extracted once where missing.

    Where no cache can be made (the disk is full, the folder cannot be written, the cache would exceed
    its cap of ``FSS_CACHE_GB``, default 20), a line on stderr says why, once, and the pictures go
    through the backbone each time: the same numbers, more slowly. To make room for a cache below the
    cap, those that were not used for the longest time are removed.

    Args:
        model: whose backbone extracts.
        dataset: where the pictures are; every picture of it is extracted.
        workers: processes that read pictures while the cache is made.
        progress: show a bar while the cache is made.

    Attributes:
        file: the cache.
        table: its rows, one a picture, with a field for each map.
        live: the source that takes over where there is no cache, else None.

    Raises:
        InputError: a bad picture, or an ``FSS_CACHE_GB`` that is no number.
    """

    def __init__(self, model: DANet, dataset: Dataset, *, workers: int = 0, progress: bool = False) -> None:
        self.dataset, self.device = dataset, model.backbone.mean.device
        samples = [(class_name, name) for class_name, names in dataset.images.items() for name in names]
        self.rows = {sample: row for row, sample in enumerate(samples)}
        self.live: LiveFeatures | None = None
        try:
            self.file = cache_folder() / "features" / f"{_key(model, dataset)}.npy"
            if not _is_whole(self.file, len(samples)):
                _build(self.file, model, dataset, workers, progress)
            self.table: np.ndarray = np.load(self.file, mmap_mode="r")
            with suppress(OSError):  # a cache that a class shares may be read-only
                os.utime(self.file)  # when it was last used, for pruning
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _note(f"no feature cache ({place}{error.strerror or error}); pictures go through the backbone each time")
            self.live = LiveFeatures(model, dataset, workers=workers)

    def batches(
        self, episodes: Sequence[Episode], batch: int, *, start: int = 0, stride: int | None = None
    ) -> Iterator[FeatureBatch]:
        """Yield batches; see ``LiveFeatures.batches``."""
        if self.live is not None:
            yield from self.live.batches(episodes, batch, start=start, stride=stride)
            return
        block4 = "block4_masked" if "block4_masked" in (self.table.dtype.names or ()) else "block4"
        for first in range(start, len(episodes), stride or batch):
            asked = tuple(episodes[first : first + batch])
            query = np.array([self.rows[e.listed, e.query] for e in asked])  # B
            support = np.array([[self.rows[e.class_name, name] for name in e.support] for e in asked])  # B,K
            labels = zip(asked, self._read("mask", query), strict=True)
            yield FeatureBatch(
                Features(*(self._read(name, query).float() for name in Features._fields)),
                torch.stack([relabelled(self.dataset, e, label).to(self.device) for e, label in labels]),
                Features(*(self._read(name, support).float() for name in ("block2", "block3", block4))),
                self._read("mask", support),
                asked,
            )

    def _read(self, name: str, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.table[name][rows]).to(self.device)


FeatureSource = LiveFeatures | CachedFeatures


def features_of(
    model: DANet,
    dataset: Dataset,
    *,
    cache: bool,
    workers: int = 0,
    progress: bool = False,
    augment: Augment | None = None,
    seed: int = 0,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> FeatureSource:
    """Return the source of a data set's features, through the cache on disk or without it.

    With the cache, pictures are not augmented and the backbone computes in float32: ``augment``, ``seed`` and
    ``autocast`` are for features without it. Of several processes, the first one fills the cache.
    """
    if not cache:
        return LiveFeatures(model, dataset, augment=augment, seed=seed, workers=workers, autocast=autocast)
    from accelerate import PartialState  # slow to import; a notebook has one process

    with PartialState().main_process_first():
        return CachedFeatures(model, dataset, workers=workers, progress=progress)


@cache
def _note(message: str) -> None:
    """Say it once, on stderr; of several processes, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        print(f"fss: {message}", file=sys.stderr)


def extract_batch(model: DANet, query: Tensor, target: Tensor, support: Tensor, mask: Tensor) -> FeatureBatch:
    """Features of a batch of episodes' pictures [B,3,h,w] and [B,K,3,h,w] with their masks."""
    images, first = torch.cat([query, support.flatten(0, 1)]), len(query)
    labels = torch.cat([target, mask.flatten(0, 1)])
    maps, block4 = extract(model, images, labels, first=first)
    supports = Features(*(map_[first:] for map_ in maps))
    if block4 is not None:
        supports = supports._replace(block4=block4)
    return FeatureBatch(
        Features(*(map_[:first].float() for map_ in maps)),
        target,
        Features(*(map_.float().unflatten(0, mask.shape[:2]) for map_ in supports)),
        mask,
    )


@torch.no_grad()
def extract(model: DANet, images: Tensor, masks: Tensor, *, first: int = 0) -> tuple[Features, Tensor | None]:
    """Half-precision features of pictures [B,3,h,w], and PFENet's block4 of the masked block3.

    The second is None unless the network's prior asks for it (``prior="masked_input"``), and holds
    the pictures from ``first`` on: nobody needs that of a query. Pictures go through the backbone
    in chunks of one size, the last one filled up, so that a picture's features do not depend on
    those that it is extracted with. A GPU gets chunks that are not filled up: that would take up to
    half of its time where a process has one episode, and it rounds differently anyway.
    """
    parts, masked = [], []
    # A processor is a third faster where the maps of a call fit its caches, as those of four pictures
    # of 224 px do. On a GPU, sixteen of 473 px take 3.5 GB in a ResNet-50 and are slower, each, than four.
    room = CHUNK if images.is_cuda else max(1, CHUNK // 4)
    number = max(1, min(CHUNK, round(room * 224 * 224 / images.shape[-2:].numel())))
    for start in range(0, len(images), number):
        chunk, labels = images[start : start + number], masks[start : start + number]
        keep = len(chunk)
        if keep < number and not images.is_cuda:
            chunk = torch.cat([chunk, chunk.new_zeros(number - keep, *chunk.shape[1:])])
            labels = torch.cat([labels, labels.new_zeros(number - keep, *labels.shape[1:])])
        features = model.backbone(chunk)
        parts.append([map_[:keep].half() for map_ in features])
        if model.config.prior == "masked_input" and start + keep > first:
            block4 = model.masked_block4(features.block3, labels)
            masked.append(block4[max(0, first - start) : keep].half())
    with torch.autocast("cpu", enabled=False):  # there, torch.cat takes no half precision
        joined = Features(*(torch.cat(maps) for maps in zip(*parts, strict=True)))
        return joined, torch.cat(masked) if masked else None


# --- the cache's files --------------------------------------------------------------------------


def _key(model: DANet, dataset: Dataset) -> str:
    """Name a cache by everything that its content depends on."""
    parts = [
        FORMAT,
        dataset.fingerprint(),
        model.config.backbone,
        model.backbone.fingerprint(),
        f"masked_input={model.config.prior == 'masked_input'}",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _is_whole(file: Path, rows: int) -> bool:
    """Whether a file is the cache that its name says: all of it, and not another one, renamed or copied."""
    try:
        table = np.load(file, mmap_mode="r")
        fields = set(table.dtype.names or ()) >= {"key", "mask", *Features._fields}
        return table.shape == (rows,) and fields and bool(table["key"][0] == file.stem.encode())
    except (OSError, EOFError, ValueError, AttributeError):
        return False


def _build(file: Path, model: DANet, dataset: Dataset, workers: int, progress: bool) -> None:
    """Extract all pictures into a file beside ``file``, then rename it; another process may be quicker."""
    cap = _cap()
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not named by the process: in containers, the next one often has the number of a killed one.
    beside = file.with_name(f"{file.stem}.part-{secrets.token_hex(4)}")
    classes: list[Any] = [dataset[name] for name in dataset.classes]
    pictures: ConcatDataset[tuple[Tensor, Tensor]] = ConcatDataset(classes)
    device = model.backbone.mean.device
    table: np.memmap | None = None
    try:
        with tqdm(total=len(pictures), desc="features", unit="picture", disable=not progress) as bar:
            loader = DataLoader(pictures, batch_size=CHUNK, num_workers=workers)
            for first, (images, masks) in zip(range(0, len(pictures), CHUNK), read_all(loader), strict=True):
                maps, block4 = extract(model, images.to(device), masks.to(device))
                found = {**maps._asdict(), "mask": masks, "block4_masked": block4}
                arrays = {name: tensor.cpu().numpy() for name, tensor in found.items() if tensor is not None}
                if table is None:
                    table = _create(beside, arrays, len(pictures), cap)
                for name, values in arrays.items():
                    table[name][first : first + len(values)] = values
                bar.update(len(images))
        if table is not None:
            table["key"] = file.stem.encode()
            table.flush()
            beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def _create(file: Path, first: dict[str, np.ndarray], total: int, cap: float) -> np.memmap:
    """Make the file for ``total`` pictures' arrays, each like the ``first`` ones.

    Older caches make room where all would exceed the cap. The file is sparse at first, and a disk
    that fills up while a mapped file is written kills the process: so the room for all of it is
    checked here.
    """
    maps = ((name, values.dtype, values.shape[1:]) for name, values in first.items())
    layout = np.dtype([("key", "S32"), *maps], align=True)
    size = total * layout.itemsize
    needed = f"{size / 1e9:.3g} GB needed"
    if size > cap:
        raise OSError(ENOSPC, f"{needed}, above the cap of {cap / 1e9:.3g} GB; set FSS_CACHE_GB higher")
    _prune(file.parent, cap - size)
    if size > (free := shutil.disk_usage(file.parent).free):
        raise OSError(ENOSPC, f"{needed}, {free / 1e9:.3g} GB free; set XDG_CACHE_HOME to a larger disk")
    return np.lib.format.open_memmap(file, "w+", layout, (total,))


def _cap() -> float:
    """Bytes that all caches may take together."""
    text = os.environ.get("FSS_CACHE_GB", "20")
    with suppress(ValueError):
        if (cap := float(text) * 1e9) >= 0:  # neither negative nor nan
            return cap
    raise InputError(f"FSS_CACHE_GB={text!r}: use a number of gigabytes, as in 20")


def _prune(folder: Path, room: float) -> None:
    """Remove what dead processes left, then the longest unused caches until all fit the room."""
    caches = []  # when last used, bytes, file
    for file in folder.iterdir():
        with suppress(OSError):  # another process has just removed it
            stat = file.stat()
            if file.suffix == ".npy":
                caches.append((stat.st_mtime, stat.st_size, file))
            elif ".part-" in file.name and time.time() - stat.st_mtime > STALE:
                file.unlink()
    taken = sum(size for _, size, _ in caches)
    for _, size, file in sorted(caches):
        if taken > room:
            taken -= size
            with suppress(OSError):
                file.unlink()
