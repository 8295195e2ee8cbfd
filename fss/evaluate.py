"""Evaluation over a fixed episode list, and the references that every network has to beat."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from fss.checkpoint import load
from fss.config import DANetConfig, DataConfig, Scoring
from fss.data import open_dataset
from fss.data.dataset import Dataset
from fss.data.pictures import IGNORE, letterbox_mask, unletterbox
from fss.engine import start
from fss.episodes import Episode, EpisodeList, Support, batch_indices, without_small_classes
from fss.errors import InputError, closest
from fss.features import FeatureBatch, FeatureSource, features_of
from fss.leak import leaked
from fss.metrics import EpisodeTally
from fss.model import DANet
from fss.predict import exclusive
from fss.prototypes import attended, average, best_of, em, kmeans, nearest, superpixels
from fss.resize import resize, share_of

BATCH = 8
UNVERIFIED = "absent: no label says that a picture does not show the class that it is asked for"


Predictor = Callable[..., Tensor]
"""Turns the features of a batch of episodes into labels [B,h,w], 1 for the object; of several ways as ``exclusive``."""

Likeness = Callable[[Tensor, Tensor, Tensor], Tensor]
"""How much a query [B,C,h,w] resembles each of M masks [B,K,M,h,w] of support features [B,K,C,h,w]: [B,M,h,w]."""


def network(model: DANet) -> Predictor:
    """Predict by a trained network."""

    def predict(batch: FeatureBatch, ways: int = 1) -> Tensor:
        code = model.encode_features(batch.support, batch.mask)
        size = (batch.target.shape[-2], batch.target.shape[-1])
        logits = model.segment_features(batch.query, code, size).logits
        return exclusive(logits[:, 1] - logits[:, 0], ways)

    return predict


def all_foreground(batch: FeatureBatch, ways: int = 1) -> Tensor:
    """Call every pixel foreground: the floor of every table, about the mean object area."""
    return exclusive(torch.ones_like(batch.target), ways)


def by_likeness(
    batch: FeatureBatch, ways: int = 1, *, likeness: Likeness, threshold: float = 0.0, aligned: bool = False
) -> Tensor:
    """Label each position by whether it resembles the support's object or its ground; nothing is trained.

    Object is where the likeness to the object minus that to the ground, averaged over block3 and block4, is
    larger than ``threshold``. ``aligned`` is the backbone's geometry.
    """
    size = (batch.target.shape[-2], batch.target.shape[-1])
    score = batch.query.block3.new_zeros(len(batch.target), 1, *size)
    for query, support in (
        (batch.query.block3, batch.support.block3),
        (batch.query.block4, batch.support.block4),
    ):
        shares = [share_of(batch.mask, label, support, aligned=aligned) for label in (1, 0)]
        object_, ground = likeness(query, support, torch.cat(shares, dim=2)).split(1, dim=1)
        score = score + resize(object_ - ground, size, aligned=aligned) / 2
    return exclusive(score.squeeze(1) - threshold, ways)


LIKENESSES: dict[str, Likeness] = {
    "prototype": partial(best_of, average),
    "nearest": nearest,
    "attended": attended,
}
CLUSTERINGS = {"prototypes": kmeans, "em": em, "superpixels": superpixels}
"""What ``--checkpoint`` takes with a number of prototypes, as ``prototypes:8``."""

REFERENCES: dict[str, Predictor] = {
    "all-foreground": all_foreground,
    **{name: partial(by_likeness, likeness=likeness) for name, likeness in LIKENESSES.items()},
}
"""What ``--checkpoint`` takes besides a network; ``reference`` fits one to a backbone."""


def is_reference(name: str) -> bool:
    """Whether a name asks for a reference: with or without a number of prototypes, and with or without a threshold.

    Raises:
        InputError: it begins as a reference does, with a number or a threshold that is missing, wrong or too much.
    """
    way, at, threshold = name.partition("@")
    head, _, number = way.partition(":")
    if head not in REFERENCES | CLUSTERINGS:
        return False
    known = way in REFERENCES or (head in CLUSTERINGS and re.fullmatch("[1-9][0-9]{0,2}", number))
    fits = not at or (way != "all-foreground" and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", threshold))
    if known and fits:
        return True
    raise InputError(
        f"{name}: no such reference; there are {', '.join(REFERENCES)} and, with a number P of prototypes from 1 to "
        f"999, {', '.join(f'{head}:P' for head in CLUSTERINGS)}; each but the first takes a threshold, as in "
        "prototype@0.06"
    )


def reference(name: str, model: DANet) -> Predictor:
    """Return what ``is_reference`` takes for one, for features of a network's backbone.

    Raises:
        InputError: the network masks the support before block4, whose background is then not there.
    """
    if name == "all-foreground":
        return all_foreground
    if model.config.prior == "masked_input":
        raise InputError(
            f"{name} needs the support's whole block4, which prior = masked_input masks; take another prior"
        )
    way, _, threshold = name.partition("@")
    head, _, count = way.partition(":")
    likeness = partial(best_of, partial(CLUSTERINGS[head], count=int(count))) if count else LIKENESSES[way]
    return partial(by_likeness, likeness=likeness, threshold=float(threshold or 0), aligned=model.backbone.aligned)


@torch.no_grad()
def tally_episodes(
    predict: Predictor,
    source: FeatureSource,
    dataset: Dataset,
    episodes: Sequence[Episode],
    *,
    ways: int = 1,
    scoring: Scoring = Scoring(),
    progress: bool = False,
) -> EpisodeTally:
    """Predict every episode's query and count; class ids are places in ``dataset.classes``.

    Of several ``ways``, as of ``EpisodeList.sample``, a pixel is given to one class of its query or to none.
    Several processes take the batches in turn, and all get the whole tally. The batches are those
    of one process, since convolutions may round otherwise in batches of another size.
    """
    places = {name: i for i, name in enumerate(dataset.classes)}
    processes, size = PartialState(), ways * max(1, BATCH // ways)
    first, stride = processes.process_index * size, processes.num_processes * size
    mine = batch_indices(len(episodes), size, first, stride)
    if ways > 1:
        predict = partial(predict, ways=ways)
    tally = EpisodeTally()
    with tqdm(total=len(mine), desc="evaluate", unit="episode", disable=not progress) as bar:
        for batch in source.batches(episodes, size, start=first, stride=stride):
            done = len(tally)
            asked = [episodes[i] for i in mine[done : done + len(batch.target)]]
            ids = torch.tensor([places[episode.class_name] for episode in asked])
            if scoring == Scoring():
                tally.update(predict(batch), batch.target, ids)
            else:
                for mask, episode, place in zip(predict(batch).cpu().numpy(), asked, ids, strict=True):
                    own = dataset.reader.own_mask(episode.class_name, episode.query)
                    predicted, target = _comparable(mask, own, scoring)
                    tally.update(predicted[None], target[None], place[None])
            bar.update(len(ids))
    whole = np.empty((len(episodes), *tally.counts.shape[1:]), np.int64)
    for rows, counts in gather_object([(mine, tally.counts)]):
        whole[rows] = counts
    return EpisodeTally(whole, [dataset.reader.picture(each.listed, each.query) for each in episodes])


def _comparable(predicted: np.ndarray, own: np.ndarray, scoring: Scoring) -> tuple[np.ndarray, np.ndarray]:
    """Bring a prediction [size, size] and the label at its own size, [H, W], to one size."""
    if scoring.void == "background":
        own = np.where(own == IGNORE, 0, own).astype(np.uint8)
    if scoring.at == "network":
        return predicted, letterbox_mask(own, len(predicted))
    return unletterbox(predicted.astype(np.uint8), (own.shape[0], own.shape[1])), own


def evaluate(
    model: DANet,
    dataset: Dataset,
    episodes: EpisodeList,
    *,
    predict: Predictor | None = None,
    scoring: Scoring = Scoring(),
    allow_leak: bool = False,
    cache: bool = True,
    workers: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure a network, or a reference on its backbone's features, on an episode list.

    Args:
        model: the network; put into eval mode.
        dataset: where the list's pictures are.
        episodes: the list.
        predict: a reference to measure instead of the network's head.
        scoring: at which size, and what counts.
        allow_leak: measure also a network that was trained on classes of the test.
        cache: read features through the cache on disk.
        workers: processes that read pictures.
        progress: show bars.

    Returns:
        The public result format, fractions in 0..1, to every process; ``seconds`` is the only key
        that differs from run to run, whatever the number of processes. ``marked`` is the mean share
        of a query's labelled pixels that are predicted as object, at the network's size; ``counts``
        holds the integers of every episode, in the list's order, and the name of its query picture, of
        which there are ``pictures``. Of a list with absent supports all IoUs are None, since there is no
        object; with other ones, ``stays`` is the mean share of the query's first object, which was not
        asked for, that is marked. Of several ways, ``miou`` is PANet's, over the classes of each query's
        label map; an episode is a query asked for one class; and ``fb_iou`` is None.

    Raises:
        InputError: a bad picture, an episode list of other data, or a leak.
    """
    began = time.perf_counter()
    leak = [] if predict else leaked(model.trained, dataset)
    if leak and not allow_leak:
        raise InputError(
            f"leak: the network was trained on {', '.join(leak[:5])}{', ...' if leak[5:] else ''}, "
            f"{len(leak)} of the {len(dataset.all_classes or dataset.classes)} classes that the "
            f"test of {dataset.spec} keeps unseen; use weights trained without them (of this "
            "fold), or measure all the same with --allow-leak"
        )
    episodes.check(dataset)
    support = episodes.support
    if scoring != Scoring() and support != "own":
        raise InputError(f"--support {support} is scored at the network's size; leave --at and --void out")
    if scoring != Scoring():  # whether there are such labels, before minutes of work
        dataset.reader.own_mask(episodes[0].class_name, episodes[0].query)
    model.eval()
    labels_of = predict or network(model)
    shares: list[tuple[float, ...]] = []  # marked, and what stays, of each episode

    def noted(batch: FeatureBatch, **ways: int) -> Tensor:
        labels, labelled = labels_of(batch, **ways), batch.target != IGNORE
        found = (labels == 1) & labelled
        parts = [found.sum((1, 2)) / labelled.sum((1, 2)).clamp(min=1)]
        if support == "other":
            first = torch.stack([dataset.read(e.listed, e.query)[1] for e in batch.episodes]).to(found.device) == 1
            parts.append((found & first).sum((1, 2)) / first.sum((1, 2)).clamp(min=1))
        shares.extend(zip(*(part.tolist() for part in parts), strict=True))
        return labels

    tally = tally_episodes(
        noted,
        features_of(model, dataset, cache=cache, workers=workers, progress=progress),
        dataset,
        episodes.episodes,
        scoring=scoring,
        ways=episodes.ways,
        progress=progress,
    )
    marked, *stays = (fsum(part) / len(tally) for part in zip(*gather_object(shares), strict=True))  # in any order
    unverified = [UNVERIFIED] if support == "absent" and not dataset.reader.knows_absence else []
    return {
        **(_nothing(tally) if support == "absent" else scores(tally, dataset.classes)),
        "marked": marked,
        **({"stays": stays[0]} if stays else {}),
        **({"ways": episodes.ways, "fb_iou": None} if episodes.ways > 1 else {}),
        "support": support,
        "pictures": len({*tally.queries}),
        "counts": tally.to_json(),
        "episodes_sha256": episodes.sha256,
        "data": dataset.spec,
        "split": dataset.split,
        "fold": dataset.fold,
        "shots": len(episodes[0].support),
        "seed": episodes.source.get("seed"),
        "size": dataset.size,
        "scored_at": scoring.at,
        "void": scoring.void,
        "leaked_classes": leak,
        "notes": [*dataset.notes, *unverified, *model.backbone.notes(dataset.size)],
        "config": model.config.to_json(),
        "trained": model.trained,
        "seconds": round(time.perf_counter() - began, 3),
    }


def scores(tally: EpisodeTally, names: Sequence[str]) -> dict[str, Any]:
    """Every score of a tally; ``names[class id]`` is the class's name.

    ``not_covered`` names the classes that no episode counts for.
    """
    per_class = {names[i]: iou for i, iou in tally.per_class().items()}
    return {
        "miou": tally.miou(),
        "miou_interval": list(tally.interval()),
        "fb_iou": tally.fb_iou(),
        "mean_episode_iou": tally.mean_episode_iou(),
        "per_class": per_class,
        "episodes": len(tally),
        "classes": len(tally.classes),
        "not_covered": [name for name in names if name not in per_class],
    }


def _nothing(tally: EpisodeTally) -> dict[str, Any]:
    """The scores where there is no object to find; ``mean_episode_iou`` is the share of episodes without a mark."""
    return {
        **dict.fromkeys(("miou", "miou_interval", "fb_iou")),
        "mean_episode_iou": tally.mean_episode_iou(),
        "per_class": {},
        "episodes": len(tally),
        "classes": len(np.unique(tally.counts[:, 0])),
        "not_covered": [],
    }


def evaluate_checkpoint(
    checkpoint: str,
    data: str,
    *,
    split: str,
    fold: int,
    options: DataConfig,
    asked: Mapping[str, int | None],
    support: Support = "own",
    size: int | None = None,
    saved: Path | None = None,
    save_list: Path | None = None,
    skip_small_classes: bool = False,
    device: str = "cpu",
    backbone: str | None = None,
    pretrained: bool | Path = True,
    progress: bool = False,
    **how: Any,
) -> dict[str, Any]:
    """Measure a checkpoint or a reference by name, as ``fss eval`` does.

    Args:
        checkpoint: what ``fss.load`` takes, or a reference.
        data: the data set, as for ``open_dataset``.
        split: train, val or test.
        fold: of data with folds.
        options: which pictures and classes.
        asked: ``shots``, ``episodes``, ``seed`` and ``ways`` of the list, or None for the usual ones.
        support: of which class the supports are, as for ``EpisodeList.sample``.
        size: side of the pictures in pixels; by default as the network was trained.
        saved: a saved list to evaluate; what is ``asked`` has to agree with it.
        save_list: where to write the list.
        skip_small_classes: leave out classes with fewer pictures than an episode needs.
        device: cpu, cuda ...; a launcher's processes share the work.
        backbone: of a reference; by default that of the shipped networks.
        pretrained: the backbone's weights, as for ``DANet``.
        progress: show bars, in the main process.
        how: further options of ``evaluate``.

    Returns:
        The result of ``evaluate`` with ``checkpoint`` and ``options``.
    """
    accelerator = start(device)
    if is_reference(checkpoint):
        plain = DANetConfig.published(lda=False, pca=False)
        model = DANet(plain.override({"backbone": backbone or plain.backbone}), pretrained=pretrained)
        predict = reference(checkpoint, model)
    else:
        names = [*REFERENCES, *(f"{head}:P" for head in CLUSTERINGS)]
        if not Path(checkpoint).exists() and (meant := closest(checkpoint.strip().lower(), names)):
            raise InputError(f"{checkpoint}: no such checkpoint or reference; did you mean {meant!r}?")
        if backbone is not None:
            raise InputError(f"--backbone {backbone}: is of a reference, and {checkpoint} has its own; leave it out")
        model, predict = load(checkpoint, pretrained=pretrained), None
    size = model.trained.get("size", 224) if size is None else size
    dataset = open_dataset(data, split=split, fold=fold, size=size, options=options)
    episodes = _listed(dataset, saved, asked, support, skip_small_classes)
    main = accelerator.is_main_process
    if save_list is not None and main:
        episodes.save(save_list)
    return {
        "checkpoint": checkpoint,
        "options": options.to_json(),
        **evaluate(model.to(accelerator.device), dataset, episodes, predict=predict, progress=progress and main, **how),
    }


def _listed(
    dataset: Dataset, saved: Path | None, asked: Mapping[str, int | None], support: Support, skip_small: bool
) -> EpisodeList:
    """Draw the list that is asked for, or read a saved one that agrees with it."""
    if saved is None:
        numbers = {"shots": 1, "episodes": 1000, "seed": 0} | {
            name: number for name, number in asked.items() if number is not None
        }
        drawn_from = without_small_classes(dataset, numbers["shots"]) if skip_small else dataset
        return EpisodeList.sample(drawn_from, **numbers, support=support)
    if skip_small:
        raise InputError("--skip-small-classes is for a list that is drawn, not for --list")
    episodes = EpisodeList.load(saved)
    has = {
        "shots": len(episodes[0].support) if len(episodes) else 0,
        "episodes": len(episodes) // episodes.ways,
        "seed": episodes.source.get("seed"),
        "ways": episodes.ways,
    }
    if support not in ("own", episodes.support):
        raise InputError(f"--support {support}: the list {saved} has {episodes.support} ones; leave --support out")
    for name, number in asked.items():
        if number not in (None, has[name]):
            raise InputError(f"--{name} {number}: the list {saved} has {has[name]}, which stays; leave --{name} out")
    return episodes


def summary(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that ``fss eval`` prints of a result."""
    missed = result["not_covered"]
    where = (
        f"{result['classes']} classes{f' ({len(missed)} not covered)' if missed else ''}, {result['episodes']} "
        f"episodes of {result['shots']} shot, {result['data']} {result['split']}"
        + (f", {result['ways']} classes a query" if "ways" in result else "")
    )
    if result["support"] == "absent":
        yield (
            f"marked {100 * result['marked']:.1f} % of a picture without the object, "
            f"nothing in {100 * result['mean_episode_iou']:.1f} % of the episodes   {where}"
        )
    else:
        low, high = result["miou_interval"]
        stays = f"   stays {100 * result['stays']:.1f} %" if "stays" in result else ""
        yield (
            f"mIoU {100 * result['miou']:.1f} [{100 * low:.1f}, {100 * high:.1f}]   "
            + ("" if result["fb_iou"] is None else f"FB-IoU {100 * result['fb_iou']:.1f}{stays}   ")
            + where
        )
    yield from result["notes"]
    if result["leaked_classes"]:
        yield f"leak: the checkpoint was trained on {', '.join(result['leaked_classes'])}"
    elif result["leaked_classes"] is None:
        yield "perhaps a leak: the checkpoint does not say which classes it was trained on"
