"""Frozen features of episodes: read from a cache on disk, or extracted when asked for.

The backbone is frozen and the mask is applied after it, so the features of a picture never change:
a training step on a CPU then costs the head alone. Both sources round the features to half
precision, which is how they lie on disk, and give the same numbers.
"""

import hashlib
import json
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
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from fss.backbones import Features
from fss.data.dataset import Dataset
from fss.episodes import (
    Augment,
    Episode,
    EpisodeDataset,
    coin,
    episode_generator,
    episode_loader,
    mirror,
    read_all,
)
from fss.errors import InputError
from fss.files import cache_folder, write_json
from fss.model import DANet

FORMAT = "features-3"  # part of every key: raise it when the meaning of the files changes
CHUNK = 16  # pictures of up to 224 px a backbone call; see _chunk
MAPS = ("block2", "block3", "block4", "mask")
STALE = 24 * 3600  # seconds after which a folder that nobody wrote into was left by a dead process


class FeatureBatch(NamedTuple):
    """What the head sees of B episodes; the support's features are not masked yet."""

    query: Features  # each map [B,C,H,W]
    target: UInt8[Tensor, "B h w"]
    support: Features  # each map [B,K,C,H,W]
    mask: UInt8[Tensor, "B K h w"]


class FeatureSource(Protocol):
    """Gives the features of episodes in batches, in order, from episode ``start`` on."""

    def batches(
        self, episodes: Sequence[Episode], batch: int, *, start: int = 0, stride: int | None = None
    ) -> Iterator[FeatureBatch]:
        """Yield the batches; the last one may be smaller.

        Each begins ``stride`` episodes after the one before, by default where that ends; a process
        of several leaves out the others' episodes so.
        """
        ...


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
        """Yield batches; see ``FeatureSource``."""
        device = self.model.backbone.mean.device
        pictures = EpisodeDataset(self.dataset, episodes, augment=self.augment, seed=self.seed)
        loader = episode_loader(pictures, batch=batch, workers=self.workers, start=start, stride=stride)
        for query, target, support, mask in read_all(loader):
            query, target, support, mask = (t.to(device, non_blocking=True) for t in (query, target, support, mask))
            with self.autocast():
                found = extract_batch(self.model, query, target, support, mask)
            yield found


@cache
def _say_once(message: str) -> None:
    print(message, file=sys.stderr)


class CachedFeatures:
    """The same features, memory-mapped from the cache folder; extracted once where missing.

    Args:
        model: whose backbone extracts.
        dataset: where the pictures are; every picture of it is extracted.
        mirrors: also hold every picture's mirror image, and toss a coin for each picture of an
            episode, as ``LiveFeatures`` does with ``augment=fss.episodes.mirror``.
        seed: of the coins.
        workers: processes that read pictures while the cache is made.
        progress: show a bar while the cache is made.

    Where the cache cannot be written, or has no room, a line on stderr gives the reason, and the features are
    extracted each time: the same numbers, later.

    Raises:
        InputError: a bad picture, or a cache above its cap (``FSS_CACHE_GB``, default 20; the longest unused
            caches go first).
    """

    def __init__(
        self,
        model: DANet,
        dataset: Dataset,
        *,
        mirrors: bool = False,
        seed: int = 0,
        workers: int = 0,
        progress: bool = False,
    ) -> None:
        self.mirrors, self.seed = mirrors, seed
        self.device = model.backbone.mean.device
        samples = _Samples(dataset)
        self.rows = {sample: row for row, sample in enumerate(samples.samples)}
        self.live: LiveFeatures | None = None  # takes over where there can be no cache
        try:
            self.maps = self._ready(model, samples, workers, progress)
        except OSError as error:
            _say_once(f"fss: no feature cache ({error.strerror}): pictures go through the backbone each time")
            self.live = LiveFeatures(model, dataset, augment=mirror if mirrors else None, seed=seed, workers=workers)

    def _ready(self, model: DANet, samples: "_Samples", workers: int, progress: bool) -> dict[str, np.ndarray]:
        """Open the cache, made first where it is missing; raises OSError where it cannot be written."""
        mirrors = self.mirrors
        self.folder = cache_folder() / "features" / _key(model, samples.dataset, mirrors)
        total = len(samples) * (2 if mirrors else 1)
        maps = _open(self.folder, total)
        if maps is None:
            _build(self.folder, model, samples, mirrors, workers, progress)
            maps = _open(self.folder, total)
        if maps is None:
            raise InputError(f"{self.folder}: the cache vanished while it was made; run it again")
        self._support_block4 = "block4_masked" if "block4_masked" in maps else "block4"
        return maps

    def batches(
        self, episodes: Sequence[Episode], batch: int, *, start: int = 0, stride: int | None = None
    ) -> Iterator[FeatureBatch]:
        """Yield batches; see ``FeatureSource``."""
        if self.live:
            yield from self.live.batches(episodes, batch, start=start, stride=stride)
            return
        for first in range(start, len(episodes), stride or batch):
            indices = range(first, min(first + batch, len(episodes)))
            rows = np.array([self._rows(episodes[i], i) for i in indices])  # B,1+K
            query, support = rows[:, 0], rows[:, 1:]
            yield FeatureBatch(
                Features(*(self._read(f"block{i}", query).float() for i in (2, 3, 4))),
                self._read("mask", query),
                Features(
                    self._read("block2", support).float(),
                    self._read("block3", support).float(),
                    self._read(self._support_block4, support).float(),
                ),
                self._read("mask", support),
            )

    def _rows(self, episode: Episode, index: int) -> list[int]:
        rows = [self.rows[episode.class_name, n] for n in (episode.query, *episode.support)]
        if self.mirrors:
            generator = episode_generator(self.seed, index)
            rows = [row + len(self.rows) * coin(generator) for row in rows]
        return rows

    def _read(self, name: str, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.maps[name][rows]).to(self.device)


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
    what it is extracted with (not so on a GPU, which would waste up to half of its time on it where
    a process has one episode, and rounds as it likes anyway).
    """
    parts, masked = [], []
    number = _chunk(*images.shape[-2:])
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
    joined = Features(*(torch.cat(maps) for maps in zip(*parts, strict=True)))
    return joined, torch.cat(masked) if masked else None


def _chunk(height: int, width: int) -> int:
    """Pictures a backbone call: at most ``CHUNK``, and no more pixels than that many of 224 px.

    Sixteen of 473 px take 3.5 GB in a ResNet-50 and are slower, each, than four; and a training
    batch of four episodes would be filled up to twice its pictures.
    """
    return max(1, min(CHUNK, round(CHUNK * 224 * 224 / (height * width))))


class _Samples(TorchDataset[tuple[Tensor, Tensor]]):
    """All pictures of a dataset in order."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.samples = [(c, name) for c, names in dataset.images.items() for name in names]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        class_name, name = self.samples[index]
        images = self.dataset[class_name]
        return images[images.names.index(name)]


def _key(model: DANet, dataset: Dataset, mirrors: bool) -> str:
    """Name a cache by everything that its content depends on."""
    masked_input = model.config.prior == "masked_input"
    parts = [
        FORMAT,
        dataset.fingerprint(),
        model.config.backbone,
        model.backbone.fingerprint(),
        f"masked_input={masked_input}",
        f"mirrors={mirrors}",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _open(folder: Path, rows: int) -> dict[str, np.ndarray] | None:
    """Map a cache's arrays, or return None where there is none that is whole."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if manifest["key"] != folder.name:  # another cache's folder, renamed or copied
            return None
        maps = {}
        for name, shape in manifest["shapes"].items():
            maps[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
            if list(maps[name].shape) != shape or len(maps[name]) != rows:
                return None
        with suppress(OSError):  # a cache that a class shares may be read-only
            os.utime(folder / "manifest.json")  # when it was last used, for pruning
        return maps if maps.keys() >= set(MAPS) else None
    except (OSError, EOFError, ValueError, AttributeError, TypeError, KeyError):
        return None


def _build(folder: Path, model: DANet, samples: _Samples, mirrors: bool, workers: int, progress: bool) -> None:
    """Extract all pictures into a folder beside ``folder``, then rename it."""
    cap = _cap()
    # Not named by the process: in containers, the next one often has the number of a killed one.
    beside = folder.with_name(f"{folder.name}.part-{secrets.token_hex(4)}")
    try:
        beside.mkdir(parents=True)
        loader = DataLoader(samples, batch_size=CHUNK, num_workers=workers)
        arrays: dict[str, np.ndarray] = {}
        total = len(samples) * (2 if mirrors else 1)
        bar = tqdm(total=total, desc="features", unit="picture", disable=not progress)
        with bar:
            row = 0
            for images, masks in read_all(loader):
                for offset in (0, len(samples)) if mirrors else (0,):
                    if offset:
                        images, masks = images.flip(-1), masks.flip(-1)
                    rows = slice(offset + row, offset + row + len(images))
                    found = _sample_arrays(model, images, masks)
                    arrays = arrays or _create(beside, found, total, cap)
                    for name, values in found.items():
                        arrays[name][rows] = values
                    bar.update(len(images))
                row += len(images)
        for array in arrays.values():
            array.flush()  # type: ignore[attr-defined]
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        write_json(beside / "manifest.json", {"key": folder.name, "shapes": shapes})
        _publish(beside, folder, total)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _publish(beside: Path, folder: Path, rows: int) -> None:
    """Rename a whole cache, over a damaged one; if another process was quicker, its own stays."""
    try:
        beside.rename(folder)
    except OSError:
        if _open(folder, rows) is not None:
            return
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folder.unlink(missing_ok=True)
        beside.rename(folder)


def _sample_arrays(model: DANet, images: Tensor, masks: Tensor) -> dict[str, np.ndarray]:
    device = model.backbone.mean.device
    maps, masked = extract(model, images.to(device), masks.to(device))
    tensors = {**maps._asdict(), "mask": masks}
    if masked is not None:
        tensors["block4_masked"] = masked
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _create(folder: Path, first: dict[str, np.ndarray], total: int, cap: float) -> dict[str, np.ndarray]:
    """Make the files for ``total`` pictures' arrays, each like the ``first`` ones.

    Older caches make room where all would exceed the cap. The files are sparse at first, and a disk
    that fills up while a mapped file is written kills the process: so the room for all of them is
    looked for here.
    """
    shapes = {name: (total, *values.shape[1:]) for name, values in first.items()}
    size = sum(int(np.prod(shapes[name])) * first[name].itemsize for name in first)
    if size > cap:
        raise InputError(
            f"{folder.parent}: a feature cache of {_gigabytes(size)} would exceed its cap of "
            f"{_gigabytes(cap)}; set FSS_CACHE_GB higher, or do without the cache"
        )
    _prune(folder.parent, cap - size)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(ENOSPC, f"{_gigabytes(size)} needed, {_gigabytes(free)} free")
    return {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", values.dtype, shapes[name])
        for name, values in first.items()
    }


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def _cap() -> float:
    """Bytes that all caches may take together."""
    text = os.environ.get("FSS_CACHE_GB", "20")
    try:
        cap = float(text) * 1e9
        if cap >= 0:  # neither negative nor nan
            return cap
    except ValueError:
        pass
    raise InputError(f"FSS_CACHE_GB={text!r}: use a number of gigabytes, as in 20")


def _prune(caches_folder: Path, room: float) -> None:
    """Remove what dead processes left, then the longest unused caches until all fit the room."""
    caches: dict[Path, tuple[float, int]] = {}  # when last used, bytes
    for folder in caches_folder.iterdir():
        try:
            files = [file.stat() for file in folder.iterdir()]
            manifest = folder / "manifest.json"
            if manifest.is_file() and ".part-" not in folder.name:
                caches[folder] = manifest.stat().st_mtime, sum(file.st_size for file in files)
            elif time.time() - max(file.st_mtime for file in (folder.stat(), *files)) > STALE:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # no folder, or another process has just removed it
            continue
    for folder in sorted(caches, key=lambda folder: caches[folder][0]):
        if sum(size for _, size in caches.values()) <= room:
            break
        shutil.rmtree(folder, ignore_errors=True)
        del caches[folder]
