"""Training: one plain loop over episodes, on cached or live features of the frozen backbone.

Everything random follows from (seed, step): the episodes, the augmentation and the dropout. So a
run that was stopped, by whatever, goes on from its last checkpoint bit for bit.
"""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from fss.checkpoint import OPTIMIZER, load_head, read_checkpoint, save_checkpoint
from fss.config import DANetConfig, TrainConfig
from fss.data import open_dataset
from fss.data.dataset import Dataset
from fss.episodes import Augment, EpisodeList, EpisodeStream, mirror
from fss.errors import InputError
from fss.evaluate import network, tally_episodes
from fss.features import CachedFeatures, FeatureBatch, FeatureSource, LiveFeatures
from fss.files import check_writable, write_atomically
from fss.model import DANet, Prediction
from fss.resize import resize

SAVE_EVERY = 250  # steps between two checkpoints to resume from
LOG_EVERY = 10


class Stopped(KeyboardInterrupt):
    """Training was asked to stop and left a checkpoint; the message says how to go on."""


def episode_loss(prediction: Prediction, target: Tensor, aux_weight: float) -> Tensor:
    """Cross-entropy over the labelled pixels, plus the mean of the decoder's inner losses.

    255 is ignored. ``target`` [B,h,w]; inner logits are resized to it, as in PFENet.
    """
    target = target.long()
    size = (target.shape[-2], target.shape[-1])
    valid = (target != 255).sum().clamp_min(1)

    def loss(logits: Tensor) -> Tensor:
        logits = resize(logits, size, aligned=True)
        return F.cross_entropy(logits, target, ignore_index=255, reduction="sum") / valid

    main = loss(prediction.logits)
    if not prediction.aux:
        return main
    inner = torch.stack([loss(logits) for logits in prediction.aux]).mean()
    return main + aux_weight * inner


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Poly decay with power 0.9 after a linear warm-up; ``step`` counts from 0."""
    warm = min(1.0, (step + 1) / (config.warmup + 1))
    return config.lr * config.lr_multiplier * warm * (1 - step / steps) ** 0.9


def make_optimizer(model: DANet, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over the head's weights; the backbone is frozen."""
    weights = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, config.lr, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.AdamW(
        weights,
        config.lr,
        betas=(0.9, 0.98),  # 0.999 averages over a thousand steps: as many as a short run has
        weight_decay=config.weight_decay,
    )


def train_step(
    model: DANet, optimizer: torch.optim.Optimizer, batch: FeatureBatch, aux_weight: float
) -> float:
    """One optimiser step on one batch; returns the loss."""
    size = (batch.target.shape[-2], batch.target.shape[-1])
    code = model.encode_features(batch.support, batch.mask)
    prediction = model.segment_features(batch.query, code, size)
    loss = episode_loss(prediction, batch.target, aux_weight)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(
    model_config: DANetConfig,
    config: TrainConfig,
    data: str,
    out: str | Path,
    *,
    fold: int | None = None,
    device: str = "cpu",
    pretrained: bool | str | Path = True,
    resume: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> DANet:
    """Train a network and return it with its best weights.

    Writes into ``out``: ``best.safetensors`` (by mIoU on the validation classes, which come out of
    the training classes, never the test classes), ``last.safetensors`` (with the optimiser's state,
    to resume from) and ``log.jsonl`` (a line for every tenth step and every validation).

    Args:
        model_config: the network.
        config: the schedule.
        data: a data set's spec, as for ``open_dataset``.
        out: the run's folder.
        fold: the fold whose classes are kept for the test, where the data set has folds.
        device: ``"cpu"``, ``"cuda"`` ...
        pretrained: the backbone's weights, as for ``DANet``.
        resume: go on from ``out/last.safetensors`` where there is one.
        workers: processes that read pictures.
        progress: show a bar with the loss and the time left.

    Raises:
        InputError: bad settings or data; a folder that holds another run; a resume with other
            settings.
        Stopped: SIGINT or SIGTERM came; the last step is saved.
    """
    out = Path(out)
    check_device(device)
    training = open_dataset(data, split="train", fold=fold, size=config.size)
    validation = open_dataset(data, split="val", fold=fold, size=config.size)
    val_list = EpisodeList.sample(
        validation, shots=config.shots, episodes=config.val_episodes, seed=config.seed
    )
    pictures = sum(len(names) for names in training.images.values())
    steps = config.steps or max(1, config.epochs * pictures // config.batch)
    stream = EpisodeStream(training, config.shots, config.seed, steps * config.batch)

    torch.manual_seed(config.seed)
    model = DANet(model_config, pretrained=pretrained, dropout=config.dropout).to(device)
    optimizer = make_optimizer(model, config)
    settings = {
        "data": data, "fold": training.fold, "split": "train", "size": config.size,
        "training_classes": len(training.classes), "train": config.to_json(),
    }  # fmt: skip
    run = _Run(out, model, optimizer, settings)
    run.begin(resume=resume)

    source = _source(model, training, config, workers, progress, augment=True)
    val_source = _source(model, validation, config, workers, progress, augment=False)
    if run.step == 0:
        run.save()  # whenever the run is killed, there is something to resume from
    bar = tqdm(
        total=steps, initial=run.step, desc="train", unit="step", disable=not progress,
        dynamic_ncols=True,
    )  # fmt: skip
    batches = source.batches(stream, config.batch, start=run.step * config.batch)
    with bar, _stop_signals() as stop:
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, run.step, steps)
            torch.manual_seed(config.seed * 1_000_003 + run.step)  # dropout
            model.train()
            loss = train_step(model, optimizer, batch, config.aux_weight)
            run.step += 1
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            finished = run.step == steps
            if run.step % LOG_EVERY == 0 or finished:
                run.log(step=run.step, loss=round(loss, 6))
            if run.step % config.val_every == 0 or finished:
                model.eval()
                tally = tally_episodes(network(model), val_source, validation, val_list.episodes)
                run.validated(tally.miou())
                if progress:
                    bar.write(f"step {run.step}: validation mIoU {100 * tally.miou():.1f}")
            stopped = bool(stop) and not finished  # asked once: a signal may come while saving
            if stopped or run.step % SAVE_EVERY == 0 or finished:
                run.save()
            if stopped:
                raise Stopped(
                    f"stopped by {stop[0]} after step {run.step} of {steps}; "
                    f"{out / 'last.safetensors'} goes on with --resume"
                )
    header, tensors = read_checkpoint(out)
    load_head(model, tensors, out)
    model.trained = header["trained"]
    return model.eval()


class _Run:
    """The files of a run and what has to survive a stop: step, best mIoU, weights, optimiser."""

    def __init__(
        self, out: Path, model: DANet, optimizer: torch.optim.Optimizer, settings: dict[str, Any]
    ) -> None:
        self.out, self.model, self.optimizer, self.settings = out, model, optimizer, settings
        self.step, self.best = 0, -1.0
        self.records: list[dict[str, Any]] = []
        self.started = time.perf_counter()
        self.seconds = 0.0  # of the earlier sittings

    def begin(self, *, resume: bool) -> None:
        last = self.out / "last.safetensors"
        check_writable(last)
        if not last.is_file():
            if resume:
                raise InputError(f"{last}: nothing to resume; leave out --resume")
            if (self.out / "log.jsonl").exists():
                (self.out / "log.jsonl").unlink()
            return
        if not resume:
            raise InputError(
                f"{self.out}: holds a run already; add --resume to go on, or choose another folder"
            )
        header, tensors = read_checkpoint(last)
        trained = header["trained"]
        trained = {"train": {}, **trained}
        self._same_settings(header["config"], trained)
        if header.get("backbone_sha256") != self.model.backbone.fingerprint():
            raise InputError(
                f"{self.out}: was trained on other {self.model.config.backbone} weights; resume "
                "with the same file, or choose another folder"
            )
        load_head(self.model, tensors, last)
        names = [n for n, p in self.model.named_parameters() if p.requires_grad]
        state = self.optimizer.state_dict()
        for key, tensor in tensors.items():
            if key.startswith(OPTIMIZER):
                name, _, slot = key.removeprefix(OPTIMIZER).rpartition("/")
                state["state"].setdefault(names.index(name), {})[slot] = tensor
        self.optimizer.load_state_dict(state)
        self.step, self.best, self.seconds = trained["step"], trained["best"], trained["seconds"]
        if (self.out / "log.jsonl").is_file():
            lines = (self.out / "log.jsonl").read_text().splitlines()
            records = [json.loads(line) for line in lines if line.endswith("}")]
            self.records = [record for record in records if record["step"] <= self.step]

    def _same_settings(self, config: dict[str, Any], trained: dict[str, Any]) -> None:
        ours = {**self.model.config.to_json(), **self.settings, **self.settings["train"]}
        theirs = {**config, **trained, **trained["train"]}
        for name, value in ours.items():
            if name != "train" and theirs.get(name) != value:
                raise InputError(
                    f"{self.out}: was trained with {name} = {theirs.get(name)!r}, not {value!r}; "
                    "resume with the same settings, or choose another folder"
                )

    def log(self, **record: Any) -> None:
        self.records.append(record)
        if len(self.records) % 10 == 0:
            self._write_log()

    def validated(self, miou: float) -> None:
        """Log a validation, and keep the weights if they are the best so far."""
        self.log(step=self.step, val_miou=round(miou, 6))
        if miou > self.best:
            self.best = miou
            save_checkpoint(self.model, self.out / "best.safetensors", trained=self._trained())

    def save(self) -> None:
        """Write the checkpoint that ``--resume`` goes on from."""
        names = [n for n, p in self.model.named_parameters() if p.requires_grad]
        slots = {
            f"{names[index]}/{slot}": value
            for index, state in self.optimizer.state_dict()["state"].items()
            for slot, value in state.items()
        }
        path = self.out / "last.safetensors"
        save_checkpoint(self.model, path, trained=self._trained(), optimizer=slots)
        self._write_log()

    def _trained(self) -> dict[str, Any]:
        seconds = round(self.seconds + time.perf_counter() - self.started, 1)
        return {**self.settings, "step": self.step, "best": self.best, "seconds": seconds}

    def _write_log(self) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        write_atomically(self.out / "log.jsonl", lines.encode())


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


def _source(
    model: DANet,
    dataset: Dataset,
    config: TrainConfig,
    workers: int,
    progress: bool,
    *,
    augment: bool,
) -> FeatureSource:
    if config.cache:
        mirrors = augment and config.augment == "flip"
        return CachedFeatures(
            model, dataset, mirrors=mirrors, seed=config.seed, workers=workers, progress=progress
        )
    change = _augmentation(config) if augment else None
    return LiveFeatures(model, dataset, augment=change, seed=config.seed, workers=workers)


def _augmentation(config: TrainConfig) -> Augment | None:
    if config.augment == "paper":
        from fss.data.transforms import PaperAugmentation  # imports torchvision, which is slow

        return PaperAugmentation(config.size)
    return mirror if config.augment == "flip" else None


@contextmanager
def _stop_signals() -> Iterator[list[str]]:
    """Collect the names of SIGINT and SIGTERM instead of dying of them."""
    stop: list[str] = []

    def note(number: int, _: FrameType | None) -> None:
        stop.append(signal.Signals(number).name)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: a notebook's kernel may run us in another
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
