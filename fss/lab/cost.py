"""What a run costs, counted without computing it.

The network itself runs on torch's meta device, where a tensor has a shape and no content: torch
counts the operations that the real one takes, and the storages that are alive tell the memory.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from fss.config import DANetConfig, TrainConfig
from fss.evaluate import BATCH, network
from fss.features import CHUNK, FeatureBatch, extract, extract_batch
from fss.losses import episode_loss
from fss.model import DANet
from fss.train import make_optimizer


@dataclass(frozen=True)
class Cost:
    """What a run takes. Multiply-adds are those of matrix products and convolutions.

    Attributes:
        step: multiply-adds of a training step, without the backbone's where features are cached.
        head: those of the step without the backbone's.
        episodes: those of an episode of the evaluation, by shots; likewise.
        picture: those of the features of a picture, as a cache holds them.
        memory: bytes of all tensors that are alive at one time, at most, weights among them.
        features: bytes that a cache needs for a picture.
        saved: bytes of a run's two checkpoints.
    """

    step: float
    head: float
    episodes: Mapping[int, float]
    picture: float
    memory: int
    features: int
    saved: int


def count(config: DANetConfig, schedule: TrainConfig, shots: Sequence[int]) -> Cost:
    """Count a training step, and the evaluation's batches of episodes of so many shots."""
    size = (schedule.size, schedule.size)
    with _Live() as live, FlopCounterMode(display=False) as operations:
        with torch.device("meta"):
            model = DANet(config, pretrained=False)

        def multiply_adds(act: Callable[..., Any], *args: Any) -> tuple[float, Any]:
            before = operations.get_total_flops()
            result = act(*args)
            return (operations.get_total_flops() - before) / 2, result  # it counts both of the two

        def step(batch: FeatureBatch) -> list[Tensor]:
            optimizer = make_optimizer(model, schedule)
            code = model.encode_features(batch.support, batch.mask)
            prediction = model.segment_features(batch.query, code, size)
            loss = episode_loss(prediction, batch.target, schedule.aux_weight, schedule.iou_weight)
            loss.backward()
            optimizer.step()
            slots = chain.from_iterable(state.values() for state in optimizer.state.values())
            return [slot for slot in slots if isinstance(slot, Tensor)]

        model.train()
        extracted, batch = multiply_adds(_batch, model, size, schedule.batch, schedule.shots)
        head, slots = multiply_adds(step, batch)
        masked = [batch.support.block4[:, 0]] if config.prior == "masked_input" else []
        maps = [*batch.query, *masked]
        features = sum(map_[0].numel() * 2 for map_ in maps) + size[0] * size[1]  # half, and mask
        del batch, maps, masked
        model.eval()
        episodes = {}
        for k in shots:
            backbone, batch = multiply_adds(_batch, model, size, BATCH, k)
            with torch.no_grad():
                asked, _ = multiply_adds(network(model), batch)
            episodes[k] = (asked + (0 if schedule.cache else backbone)) / BATCH
            del batch
        images = torch.empty(CHUNK, 3, *size, device="meta")
        labels = torch.empty(CHUNK, *size, dtype=torch.uint8, device="meta")
        pictures, _ = multiply_adds(extract, model, images, labels)
    weights = list(model.head_state().values())
    return Cost(
        head=head,
        step=head + (0 if schedule.cache else extracted),
        episodes=episodes,
        picture=pictures / CHUNK,
        memory=live.peak,
        features=features,
        saved=sum(map(_bytes, (*weights, *weights, *slots))),
    )


class _Live(TorchDispatchMode):
    """Adds up the bytes of all storages from their first use to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._seen:
                storage = tensor.untyped_storage()
                self._seen.add(storage)
                weakref.finalize(storage, self._add, -storage.nbytes())
                self._add(storage.nbytes())
        return out

    def _add(self, size: int) -> None:
        self._now += size
        self.peak = max(self.peak, self._now)


def _batch(model: DANet, size: tuple[int, int], episodes: int, shots: int) -> FeatureBatch:
    return extract_batch(
        model,
        torch.empty(episodes, 3, *size, device="meta"),
        torch.empty(episodes, *size, dtype=torch.uint8, device="meta"),
        torch.empty(episodes, shots, 3, *size, device="meta"),
        torch.empty(episodes, shots, *size, dtype=torch.uint8, device="meta"),
    )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
