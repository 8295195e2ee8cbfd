"""Training: one plain loop over episodes, on cached or live features of the frozen backbone.

Everything random follows from (seed, step): the episodes, the augmentation and the dropout. So a
run that was stopped, for whatever reason, goes on from its last checkpoint bit for bit. The loop is the
same for one process and for several (see ``fss.engine``).
"""

import math
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from fss.backbones import Backbone, Features
from fss.checkpoint import load_head, read_checkpoint
from fss.config import DANetConfig, DataConfig, TrainConfig
from fss.data import open_dataset
from fss.data.dataset import Dataset
from fss.data.pictures import IGNORE
from fss.engine import share, start
from fss.episodes import Augment, Episode, EpisodeList, EpisodeStream, without_small_classes
from fss.errors import InputError, Stopped, on_signals
from fss.evaluate import UNVERIFIED, network, tally_episodes
from fss.features import FeatureBatch, features_of
from fss.files import held
from fss.losses import Whole, episode_loss
from fss.model import DANet
from fss.run import FAILED, RunFolder

SAVE_EVERY = 250  # steps between two checkpoints to resume from
LOG_EVERY = 10
TORCH_SEEDS = 2**63  # how many torch takes; ours may be of any size


class NonFinite(InputError):
    """A loss or a gradient that is no finite number; the weights are as before the step.

    Attributes:
        rows: the episodes of the batch that it came from, as far as one can tell.
    """

    def __init__(self, message: str, rows: Sequence[int]) -> None:
        super().__init__(message)
        self.rows = rows


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
    model: DANet,
    optimizer: torch.optim.Optimizer,
    batch: FeatureBatch,
    aux_weight: float,
    iou_weight: float = 0.0,
    accelerator: Accelerator | None = None,
) -> float:
    """One optimiser step on one batch; returns the loss.

    Of several processes, each passes its share of the batch. All sum their gradients, take the same
    step and return the loss of the whole batch. ``optimizer`` is prepared by the ``accelerator``;
    without one, a single process computes in float32.

    Raises:
        NonFinite: the loss or its gradient is not finite; the step is not taken.
    """
    accelerator = accelerator or start(batch.target.device.type)
    whole = Whole(
        accelerator.reduce((batch.target != IGNORE).sum()),
        accelerator.num_processes * len(batch.target),
    )
    optimizer.zero_grad(set_to_none=True)
    parts = accelerator.gradient_accumulation_steps
    episodes = len(batch.target)
    losses, sound = [], []
    for first in range(0, episodes, episodes // parts):
        part = slice(first, first + episodes // parts)
        query = Features(*(map_[part] for map_ in batch.query))
        support = Features(*(map_[part] for map_ in batch.support))
        with accelerator.autocast():
            code = model.encode_features(support, batch.mask[part])
            prediction = model.segment_features(query, code, batch.target.shape[-2:])
        loss = episode_loss(prediction, batch.target[part], aux_weight, iou_weight, whole)
        accelerator.backward(loss * parts)  # it takes the mean over the parts, which add up here
        losses.append(loss.item())
        sound.extend(prediction.logits.isfinite().flatten(1).all(dim=1).tolist())
    value = sum(gather_object(losses))
    rows = range(whole.episodes)
    if not math.isfinite(value):
        finite = gather_object(sound)
        raise NonFinite(f"the loss is {value}", [row for row in rows if not finite[row]] or rows)
    weights = [p for p in model.parameters() if p.grad is not None]
    gradients = accelerator.reduce([p.grad for p in weights])
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    accelerator.unscale_gradients(optimizer)
    largest = torch.nn.utils.get_total_norm(gradients, math.inf).item()
    # A float16 scale that is too large makes gradients overflow: the scaler leaves that step out
    # and takes a smaller one.
    scaled = accelerator.scaler is not None and accelerator.scaler.get_scale() > 1
    if not (math.isfinite(largest) or scaled):
        raise NonFinite(f"the loss is {value:.3g}, but its gradient is {largest}", rows)
    optimizer.step()
    return value


def take_step(
    model: DANet,
    optimizer: torch.optim.Optimizer,
    batch: FeatureBatch,
    config: TrainConfig,
    step: int,
    steps: int,
    accelerator: Accelerator | None = None,
) -> float:
    """Take step ``step`` of ``steps``, at its learning rate and with its dropout.

    Each process draws its own dropout, so that with another number of processes or of parts other
    channels are dropped. What ``train_step`` says of the ``accelerator`` holds here too.
    """
    accelerator = accelerator or start(batch.target.device.type)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step, steps)
    torch.manual_seed((config.seed * 1_000_003 + step + (accelerator.process_index << 40)) % TORCH_SEEDS)
    model.train()
    return train_step(model, optimizer, batch, config.aux_weight, config.iou_weight, accelerator)


def train(
    model_config: DANetConfig,
    config: TrainConfig,
    data: str,
    out: str | Path,
    *,
    fold: int | None = None,
    device: str = "cpu",
    pretrained: bool | str | Path = True,
    backbone: Backbone | None = None,
    resume: bool = False,
    workers: int = 0,
    progress: bool = True,
    skip_small_classes: bool = False,
    options: DataConfig = DataConfig(),
    accumulate: int = 1,
) -> DANet:
    """Train a network and return it with its best weights.

    Started several times by ``torchrun`` or ``accelerate launch``, each process takes its share of
    every batch: episode i is in step i // batch all the same, and the loss differs by rounding and,
    where there is dropout, by what is dropped. Only the first process writes; all read ``out``.

    Writes into ``out``: ``best.safetensors`` (by mIoU on the validation classes, which come out of
    the training classes, never the test classes), ``last.safetensors`` (with the optimiser's state,
    to resume from) and ``log.csv`` (a row for every tenth step and every validation).

    Args:
        model_config: the network.
        config: the schedule.
        data: a data set's spec, as for ``open_dataset``.
        out: the run's folder.
        fold: the fold whose classes are kept for the test, where the data set has folds.
        device: ``"cpu"``, ``"cuda"`` ...
        pretrained: the backbone's weights, as for ``DANet``.
        backbone: one of yours, as for ``DANet``.
        resume: go on from ``out/last.safetensors``; where the folder holds no run yet, because it
            is new or a run was killed before its first checkpoint, start one.
        workers: processes that read pictures.
        progress: show a bar with the loss and the time left.
        skip_small_classes: leave out classes with fewer than ``config.shots + 1`` pictures, which
            are an error otherwise.
        options: which pictures and classes of the data, as for ``open_dataset``.
        accumulate: parts that a process computes its share of a batch in, to save memory. A run
            may go on with other parts and processes, though then not bit for bit.

    Raises:
        InputError: bad settings or data; a batch that processes and parts do not divide; a folder
            that holds another run, or that another process trains into; a resume with other
            settings.
        NonFinite: the loss or its gradient is not finite; ``out/nonfinite.safetensors`` holds all
            that ``fss replay`` needs to repeat the step (of several processes, except for their dropout).
        Stopped: SIGINT or SIGTERM came; the last step is saved.
    """
    out = Path(out)
    accelerator, training, validation, stream, model, optimizer, settings = set_up(
        model_config,
        config,
        data,
        fold=fold,
        device=device,
        pretrained=pretrained,
        backbone=backbone,
        skip_small_classes=skip_small_classes,
        options=options,
        accumulate=accumulate,
    )
    steps = len(stream) // config.batch
    mine = share(accelerator, config.batch)
    progress = progress and accelerator.is_main_process
    val_list = EpisodeList.sample(validation, shots=config.shots, episodes=config.val_episodes, seed=config.seed)
    with held(out) if accelerator.is_main_process else nullcontext():
        if progress:
            notes = [*training.notes, *validation.notes, *model.backbone.notes(config.size)]
            notes += [UNVERIFIED] if config.absent and not training.reader.knows_absence else []
            print(*dict.fromkeys(notes), sep="\n", end="\n" if notes else "")
        run = RunFolder(out, model, optimizer, settings, accelerator)
        run.begin(resume=resume)
        source = features_of(
            model,
            training,
            cache=config.cache,
            workers=workers,
            progress=progress,
            augment=augmentation(config),
            seed=config.seed,
            autocast=accelerator.autocast,
        )
        val_source = features_of(model, validation, cache=config.cache, workers=workers, progress=progress)
        if run.step == 0:
            if resume and progress:
                print(f"{out}: no step is saved there yet, so the run starts with the first")
            run.save()  # whenever the run is killed, there is something to resume from
        bar = tqdm(total=steps, initial=run.step, desc="train", unit="step", disable=not progress, dynamic_ncols=True)
        first = run.step * config.batch + accelerator.process_index * mine
        stop: list[int] = []  # signals that came: the step that is under way is finished and saved
        with bar, on_signals(lambda number, _: stop.append(number), signal.SIGINT, signal.SIGTERM):
            for batch in source.batches(stream, mine, start=first, stride=config.batch):
                try:
                    loss = take_step(model, optimizer, batch, config, run.step, steps, accelerator)
                except NonFinite as error:
                    raise _reproducible(error, run, stream, config.batch) from None
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
                # Asked once: a signal may come while saving. It may not come to all processes.
                if stop:
                    accelerator.set_trigger()
                stopped = accelerator.check_trigger() and not finished
                if stopped or run.step % SAVE_EVERY == 0 or finished:
                    run.save()
                if stopped:
                    number = signal.Signals(stop[0] if stop else signal.SIGTERM)
                    raise Stopped(
                        f"stopped by {number.name} after step {run.step} of {steps}; "
                        f"{out / 'last.safetensors'} goes on with --resume",
                        number,
                    )
        accelerator.wait_for_everyone()  # the best weights are written
        load_head(model, *read_checkpoint(out), out)
    return model.eval()


def step_count(config: TrainConfig, training: Dataset) -> int:
    """Optimiser steps of a run: those set, or those that the epochs make."""
    return config.steps or max(1, config.epochs * sum(map(len, training.images.values())) // config.batch)


def set_up(
    model_config: DANetConfig,
    config: TrainConfig,
    data: str,
    *,
    fold: int | None,
    device: str,
    pretrained: bool | str | Path,
    backbone: Backbone | None,
    skip_small_classes: bool,
    options: DataConfig,
    accumulate: int,
) -> tuple[Accelerator, Dataset, Dataset, EpisodeStream, DANet, torch.optim.Optimizer, dict[str, Any]]:
    """Open the data and build the network, to train it or to repeat a step (``fss replay``).

    Arguments and errors are those of ``train``.

    Returns:
        The accelerator, the training and validation data, the episodes of all steps, the network, its
        optimiser, and the settings that every checkpoint of the run holds.
    """
    accelerator = start(device, precision=config.precision, accumulate=accumulate)
    training, validation = (
        open_dataset(data, split=split, fold=fold, size=config.size, options=options) for split in ("train", "val")
    )
    if skip_small_classes:
        training, validation = (without_small_classes(part, config.shots) for part in (training, validation))
    length = step_count(config, training) * config.batch
    stream = EpisodeStream(training, config.shots, config.seed, length, config.absent)
    torch.manual_seed(config.seed % TORCH_SEEDS)
    model = DANet(model_config, pretrained=pretrained, backbone=backbone, dropout=config.dropout)
    model.to(accelerator.device)
    optimizer = accelerator.prepare(make_optimizer(model, config))
    settings = {
        "data": data,
        "fold": training.fold,
        "split": "train",
        "size": config.size,
        "training_classes": len(training.classes),
        "skip_small_classes": skip_small_classes,
        "pictures_sha256": [training.fingerprint(), validation.fingerprint()],
        "options": options.to_json(),
        "train": config.to_json(),
    }
    if training.spec.partition(":")[0] != "shapes":  # whose spec gives them
        settings["classes"] = list(training.classes)
    return accelerator, training, validation, stream, model, optimizer, settings


def _reproducible(error: NonFinite, run: RunFolder, stream: Sequence[Episode], batch: int) -> NonFinite:
    """Keep what the step started from, and say where."""
    places = [run.step * batch + row for row in error.rows]
    guilty = [{"index": place, **asdict(stream[place])} for place in places]
    parts = run.accelerator.gradient_accumulation_steps
    run.save(FAILED, nonfinite={"reason": str(error), "episodes": guilty, "accumulate": parts})
    first, *others = guilty
    more = f" (and {len(others)} more)" if others else ""
    return NonFinite(
        f"step {run.step + 1}: {error}, in episode {first['index']}{more}, class {first['class_name']!r}, "
        f"query {first['query']!r}; fss replay {run.out / FAILED} repeats the step; train into another "
        "folder with a lower lr",
        error.rows,
    )


def augmentation(config: TrainConfig) -> Augment | None:
    """Return what a run does to its training pictures."""
    if config.augment == "none":
        return None
    from fss.data.transforms import PaperAugmentation  # imports torchvision, which is slow

    return PaperAugmentation(config.size)
