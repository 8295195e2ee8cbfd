"""What a training or an evaluation runs on: a device, a number format, and one process or several.

``torchrun`` and ``accelerate launch`` start the same command several times and tell each process
which one it is, by environment variables; ``Engine.start`` reads them. Every process then works on
its share of each batch, and sums make of the shares what one process would have found. The methods
are named as those of accelerate's ``Accelerator``, and mean the same.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from fss.config import Precision
from fss.errors import InputError

T = TypeVar("T")
MEETING = timedelta(minutes=5)  # for all processes to be there
PATIENCE = timedelta(days=1)  # the others wait while the main process fills the feature cache


@dataclass
class Engine:
    """How a step is computed; what is computed changes by rounding and by what dropout draws.

    Attributes:
        device: of this process.
        precision: what the network computes in; the weights are float32 always.
        accumulation: parts that a process's share of a batch is computed in, one after the other:
            the more, the less memory.
        process_index: which process this is, from 0; the first, the main one, writes all files.
        num_processes: how many there are.
        scaler: keeps float16 gradients from vanishing; does nothing in other formats.
    """

    device: torch.device = torch.device("cpu")
    precision: Precision = "float32"
    accumulation: int = 1
    process_index: int = 0
    num_processes: int = 1
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        narrow = self.precision == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=narrow)

    @classmethod
    def start(
        cls, device: str = "cpu", *, precision: Precision = "float32", accumulation: int = 1
    ) -> Self:
        """Join the processes that the launcher started, or be the only one.

        ``"cuda"`` means, to each process, the GPU of its own number on its machine.

        Raises:
            InputError: no such device, or the other processes do not answer.
        """
        if accumulation < 1:
            raise InputError(f"accumulation = {accumulation}: use 1 or more")
        if device == "cuda" and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        check_device(device)
        place = torch.device(device)
        if place.type == "cuda":
            torch.cuda.set_device(place)
        world = int(os.environ.get("WORLD_SIZE", 1))
        if world == 1:
            return cls(place, precision, accumulation)
        if not dist.is_initialized():
            backend = "gloo" if place.type == "cpu" else "cpu:gloo,cuda:nccl"
            with _told():
                store, rank, world = next(rendezvous("env://", timeout=MEETING))
                dist.init_process_group(
                    backend, store=store, rank=rank, world_size=world, timeout=PATIENCE
                )
            atexit.register(dist.destroy_process_group)
        return cls(place, precision, accumulation, dist.get_rank(), world)

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.process_index == 0

    def share(self, batch: int) -> int:
        """Return how many of a batch's episodes are this process's.

        Raises:
            InputError: the processes and their parts do not divide the batch.
        """
        if batch % (self.num_processes * self.accumulation):
            raise InputError(
                f"a batch of {batch} cannot be divided among {self.num_processes} processes in "
                f"{self.accumulation} parts each; start another number of processes, or set "
                "--accumulate or the batch so that processes x parts divides it"
            )
        return batch // self.num_processes

    def autocast(self) -> torch.autocast:
        """Compute in ``precision`` where that is sound (matrix products, convolutions)."""
        return autocast(self.device, self.precision)

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes, the same bits in each."""
        if self.num_processes == 1:
            return tensor
        total = tensor.clone()
        with _told():
            dist.all_reduce(total)
        return total

    def reduce_gradients(self, gradients: list[Tensor]) -> None:
        """Put the sum over all processes in place of each gradient, in one message."""
        if self.num_processes == 1:
            return
        total = self.reduce(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = total.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def gather_object(self, value: T) -> list[T]:
        """Return every process's value, in the order of the processes."""
        if self.num_processes == 1:
            return [value]
        values: list[T] = [value] * self.num_processes
        with _told():
            dist.all_gather_object(values, value)
        return values

    def wait_for_everyone(self) -> None:
        """Return when every process has come here."""
        self.gather_object(None)

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let the main process do something, a cache say, that the others then find done."""
        if not self.is_main_process:
            self.wait_for_everyone()
        yield
        if self.is_main_process:
            self.wait_for_everyone()


ALONE = Engine()
"""One process, float32."""


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Compute in ``precision`` where that is sound; in float32, nothing changes."""
    dtype = torch.bfloat16 if precision == "float32" else getattr(torch, precision)
    return torch.autocast(device.type, dtype, enabled=precision != "float32")


def check_device(device: str) -> None:
    """Raise InputError for a device that is not there."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}; use cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: no usable GPU here; use cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"device {device!r} cannot be used ({reason}); use cpu") from error


@contextmanager
def _told() -> Iterator[None]:
    """One line where another process has gone; why, that one says itself."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # of gloo and nccl; of missing variables
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"another of the processes has ended or does not answer ({reason}); see what it says, "
            "and start all of them again by torchrun or accelerate launch"
        ) from error
