"""The folder of a training run: what is written there, and how a run goes on from it."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from fss.checkpoint import OPTIMIZER, load_head, read_checkpoint, save_checkpoint
from fss.errors import InputError
from fss.files import remove_leftovers, write_atomically
from fss.model import DANet

LAST = "last.safetensors"  # with the optimiser's state, to resume from
BEST = "best.safetensors"  # by validation mIoU
LOG = "log.csv"
FAILED = "nonfinite.safetensors"  # what the step started from whose loss was not finite


class RunFolder:
    """The files of a run and what has to survive a stop: step, best mIoU, weights, optimiser ...

    The caller holds the folder (``fss.files.held``). All processes read it, one writes.
    """

    def __init__(
        self,
        out: Path,
        model: DANet,
        optimizer: torch.optim.Optimizer,
        settings: dict[str, Any],
        accelerator: Accelerator,
    ) -> None:
        self.out, self.model, self.optimizer, self.settings = out, model, optimizer, settings
        self.accelerator = accelerator
        self.step, self.best = 0, -1.0
        self.records: list[dict[str, Any]] = []
        self.started = time.perf_counter()
        self.seconds = 0.0  # of the earlier sittings

    def begin(self, *, resume: bool) -> None:
        """Go on from the folder's last checkpoint, or make sure that the folder is free."""
        last = self.out / LAST
        held = [name for name in (LAST, BEST, LOG, FAILED) if (self.out / name).exists()]
        if held and not resume:
            raise InputError(f"{self.out}: holds a run already; add --resume to go on, or choose another folder")
        if held and not last.is_file():
            raise InputError(f"{self.out}: holds {held[0]}, but no {LAST} to go on from; choose another folder")
        if held:
            header, tensors = read_checkpoint(last)
            trained = header["trained"]
            self._same_settings({**header["config"], **trained.get("train", {}), **trained})
            restore(self.model, self.optimizer, header, tensors, last, self.accelerator)
            self.step, self.best, self.seconds = trained["step"], trained["best"], trained["seconds"]
            if (self.out / LOG).is_file():
                self.records = [r for r in read_log(self.out / LOG) if r["step"] <= self.step]
        self.accelerator.wait_for_everyone()  # all have seen the folder as it was
        if self.accelerator.is_main_process:
            for name in (LAST, BEST, LOG, FAILED):
                remove_leftovers(self.out / name)

    def _same_settings(self, theirs: dict[str, Any]) -> None:
        for name, value in {**self.model.config.to_json(), **self.settings["train"], **self.settings}.items():
            if name in ("train", "classes") or theirs.get(name) == value:
                continue  # the pictures' hash covers the classes
            if name == "pictures_sha256":
                raise InputError(
                    f"{self.out}: the pictures of {self.settings['data']} have changed since (new, "
                    "removed or written anew); bring them back, or choose another folder"
                )
            raise InputError(
                f"{self.out}: was trained with {name} = {theirs.get(name)!r}, not {value!r}; "
                "resume with the same settings, or choose another folder"
            )

    def log(self, **record: Any) -> None:
        """Keep a record for the log, which is written with every tenth and every checkpoint."""
        self.records.append(record)
        if len(self.records) % 10 == 0:
            self._write_log()

    def validated(self, miou: float) -> None:
        """Log a validation, and keep the weights if they are the best so far."""
        self.log(step=self.step, val_miou=round(miou, 6))
        if miou > self.best:
            self.best = miou
            if self.accelerator.is_main_process:
                save_checkpoint(self.model, self.out / BEST, trained=self._trained())

    def save(self, name: str = LAST, **found: Any) -> None:
        """Write all that the coming step starts from: to go on with ``--resume``, or to repeat a failed one.

        ``found`` is what else the header says of the training.
        """
        if not self.accelerator.is_main_process:
            return
        names = [n for n, p in self.model.named_parameters() if p.requires_grad]
        slots = {
            f"{names[index]}/{slot}": value
            for index, state in self.optimizer.state_dict()["state"].items()
            for slot, value in state.items()
        }
        # The log goes first: a resumed run drops what it has beyond the checkpoint, while a
        # record that it lacks would be lost.
        self._write_log()
        save_checkpoint(self.model, self.out / name, trained=self._trained() | found, optimizer=slots)

    def _trained(self) -> dict[str, Any]:
        seconds = round(self.seconds + time.perf_counter() - self.started, 1)
        scaler = self.accelerator.scaler
        state = {} if scaler is None else {"scaler": scaler.state_dict()}
        return {**self.settings, "step": self.step, "best": self.best, "seconds": seconds, **state}

    def _write_log(self) -> None:
        # A run that was killed before its first checkpoint leaves nothing.
        if not (self.accelerator.is_main_process and self.records):
            return
        text = io.StringIO()
        columns = dict.fromkeys(["step", "loss", "val_miou", *(name for record in self.records for name in record)])
        table = csv.DictWriter(text, list(columns), lineterminator="\n")
        table.writeheader()
        table.writerows(self.records)
        write_atomically(self.out / LOG, text.getvalue().encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return a log's records: a dict of ``step`` and either ``loss`` or ``val_miou`` for each row.

    Columns go by the names in the first line: a log may lack some of today's, or hold further ones.

    Raises:
        InputError: a file that is no log of ours.
    """
    try:
        rows = list(csv.DictReader(path.read_text().splitlines(), strict=True))
        if not rows:
            raise ValueError("it is empty")
        return [
            {"step": int(row.pop("step")), **{name: float(cell) for name, cell in row.items() if cell != ""}}
            for row in rows
        ]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: damaged ({error}); remove it to go on without it") from error


def restore(
    model: DANet,
    optimizer: torch.optim.Optimizer,
    header: dict[str, Any],
    tensors: dict[str, Tensor],
    path: Path,
    accelerator: Accelerator,
) -> None:
    """Put a run's checkpoint into the network, its optimiser and the float16 scaler.

    Raises:
        InputError: another backbone's or another architecture's, or without the optimiser's state.
    """
    load_head(model, header, tensors, path)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    state = optimizer.state_dict()
    for key, tensor in tensors.items():
        if key.startswith(OPTIMIZER):
            name, _, slot = key.removeprefix(OPTIMIZER).rpartition("/")
            state["state"].setdefault(names.index(name), {})[slot] = tensor
    if header["trained"]["step"] and not state["state"]:
        raise InputError(f"{path}: holds no state of the optimiser; only a run's own {LAST} can be resumed")
    optimizer.load_state_dict(state)
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(header["trained"]["scaler"])
