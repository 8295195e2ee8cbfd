"""Where a training or an evaluation runs: the device, the number format, one process or several.

Hugging Face accelerate does the work; this file only starts its ``Accelerator`` and turns the errors
of a bad device into one line. ``torchrun`` and ``accelerate launch`` start a command several times.
Each process then works on its share of each batch, and the shares are summed over the processes, which
gives what one process would have found.
"""

import atexit
import os
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from fss.config import Precision
from fss.errors import InputError, one_line

if TYPE_CHECKING:
    from accelerate import Accelerator


def start(device: str = "cpu", *, precision: Precision = "float32", accumulate: int = 1) -> "Accelerator":
    """Join the processes that a launcher started, or be the only one.

    Args:
        device: ``"cpu"``, ``"cuda"`` ...; of several processes, each takes the GPU of its number.
        precision: what the network computes in; the weights are float32 always.
        accumulate: parts that a process computes its share of a batch in.

    Raises:
        InputError: no such device or no such format there, or the other processes do not answer.
    """
    if accumulate < 1:
        raise InputError(f"accumulate = {accumulate}: use 1 or more")
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    check_device(device)
    place = torch.device(device)
    if place.type == "cpu" and precision == "float16":
        raise InputError("precision = float16 is for a GPU; on a CPU use bfloat16 or float32")
    if place.index is not None and place.type == "cuda":
        torch.cuda.set_device(place)

    from accelerate import Accelerator  # takes a part of a second, which fss predict need not wait
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    # What accelerate knows of device and format is the process's, where a second training may ask
    # for others.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(
            cpu=place.type == "cpu",
            mixed_precision={"float32": "no", "float16": "fp16", "bfloat16": "bf16"}[precision],
            gradient_accumulation_steps=accumulate,
            # The others wait while the main process fills the feature cache.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],
        )
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(f"accelerate cannot start on {device} in {precision}: {one_line(error)}") from error
    if accelerator.num_processes > 1:
        atexit.register(accelerator.end_training)  # NCCL complains of a process that just exits
    given = accelerator.device
    if given.type != place.type or (given.type != "cpu" and given.index not in (None, place.index)):
        raise InputError(
            f"device {device!r}: accelerate is set to use {given} here; ask for that device, or "
            "change the launcher's settings (ACCELERATE_... in the environment)"
        )
    return accelerator


def share(accelerator: "Accelerator", batch: int) -> int:
    """Return how many of a batch's episodes are this process's.

    Raises:
        InputError: the processes and their parts do not divide the batch.
    """
    count, parts = accelerator.num_processes, accelerator.gradient_accumulation_steps
    if batch % (count * parts):
        raise InputError(
            f"a batch of {batch} cannot be divided among {count} processes in {parts} parts each; "
            "start another number of processes, or set --accumulate or the batch so that "
            "processes x parts divides it"
        )
    return batch // count


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
        raise InputError(f"device {device!r} cannot be used ({one_line(error)}); use cpu") from error
