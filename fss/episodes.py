"""Episodes: which pictures are support and which is the query, and batches of them.

An episode is a pure function of (seed, index): the same whatever the number of workers or the order
in which episodes are asked for. It does not depend on the number of shots either, except that more
shots append support pictures: the 5-shot list of a seed asks the queries of the 1-shot list.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset as TorchDataset

from fss.data.dataset import Dataset
from fss.data.pictures import IGNORE
from fss.errors import InputError
from fss.files import write_json

T = TypeVar("T")
Support = Literal["own", "absent", "other"]
TRIES = 10_000  # queries that are drawn in search of one that can be asked for another class
Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Episode:
    """One task: segment ``query`` given labelled ``support``; all pictures differ.

    Attributes:
        class_name: what is asked for, and what the support shows.
        query: name of the picture that is asked.
        support: names of the labelled pictures.
        shown: the class that the query is listed under where it is asked for another one, which it
            does not show (an *absent* support) or shows as well (*other*); else None.
    """

    class_name: str
    query: str
    support: tuple[str, ...]
    shown: str | None = None

    @property
    def listed(self) -> str:
        """The class that the query is listed under."""
        return self.shown or self.class_name


def draw_episode(dataset: Dataset, shots: int, seed: int, index: int, support: Support = "own") -> Episode:
    """Draw episode ``index`` of ``seed``: a class, all as likely, then its 1 + shots pictures.

    With another ``support`` the query is then asked for a class that it does not show (``"absent"``), or
    for another one that it shows (``"other"``), all as likely; a query without such a class is drawn again.

    Raises:
        InputError: no query has such a class.

    >>> from fss.data import open_dataset
    >>> data = open_dataset("shapes", split="test", fold=0, size=32)
    >>> one, five = (draw_episode(data, shots, seed=0, index=7) for shots in (1, 5))
    >>> one.query == five.query, one.support == five.support[:1]
    (True, True)
    """
    rng = np.random.default_rng([seed, index])
    for _ in range(TRIES):
        class_name = dataset.classes[rng.integers(len(dataset.classes))]
        names = dataset.images[class_name]
        query, *others = (names[i] for i in rng.permutation(len(names))[: shots + 1])
        if support == "own":
            return Episode(class_name, query, tuple(others))
        asked = _another_class(dataset, class_name, query, support, rng)
        if asked is not None:
            return _asking(dataset, asked, class_name, query, shots, rng)
    wanted = {
        "other": "shows two of its classes, as --support other needs",
        "absent": "is known not to show one of its classes, as --support absent and a training's absent=SHARE need",
    }
    raise InputError(f"{dataset.spec}, {dataset.split}: hardly a picture {wanted[support]}")


def _asking(dataset: Dataset, asked: str, listed: str, query: str, shots: int, rng: np.random.Generator) -> Episode:
    """Ask a query for a class that it is not listed under, with any of that class's other pictures."""
    picture = dataset.reader.picture(listed, query)
    names = tuple(name for name in dataset.images[asked] if dataset.reader.picture(asked, name) != picture)
    return Episode(asked, query, tuple(names[i] for i in rng.permutation(len(names))[:shots]), listed)


def _asked(dataset: Dataset, shots: int, seed: int, index: int, support: Support, ways: int) -> Iterator[Episode]:
    """Yield the episodes of one query: that of ``draw_episode``, and those of ``ways`` - 1 other classes."""
    own = draw_episode(dataset, shots, seed, index, support)
    yield own
    rng = np.random.default_rng([seed, index, ways])
    others = [name for name in dataset.classes if name != own.class_name]
    for place in rng.permutation(len(others))[: ways - 1]:
        yield _asking(dataset, others[place], own.class_name, own.query, shots, rng)


def _another_class(
    dataset: Dataset, class_name: str, query: str, support: Support, rng: np.random.Generator
) -> str | None:
    """Draw a class that a query does not show, or another one that it is listed under as well."""
    reader = dataset.reader
    for place in rng.permutation(len(dataset.classes)):
        other = dataset.classes[place]
        shown = reader.shows(class_name, query, other)
        if support == "other":
            if other != class_name and shown and query in dataset.images[other]:
                return other
        elif shown is False or (shown is None and not reader.knows_absence):
            return other
    return None


def relabelled(dataset: Dataset, episode: Episode, label: Tensor) -> Tensor:
    """Return what an episode's target is, given the query's label [h,w] of the class that it is listed under."""
    if episode.shown is None:
        return label
    if dataset.reader.shows(episode.shown, episode.query, episode.class_name):
        other = dataset.reader.read_other(episode.shown, episode.query, episode.class_name, dataset.size)
        return torch.from_numpy(np.ascontiguousarray(other))
    return torch.where(label == IGNORE, label, 0)


def without_small_classes(dataset: Dataset, shots: int) -> Dataset:
    """Leave out the classes with too few pictures for an episode.

    Raises:
        InputError: no class is left.
    """
    large = {name: images for name, images in dataset.images.items() if len(images) > shots}
    if dataset.images and not large:
        raise InputError(
            f"{dataset.spec}: no {dataset.split} class has the {shots + 1} pictures that a "
            f"{shots}-shot episode needs; add pictures, or use fewer shots"
        )
    return replace(dataset, images=large)


def check_shots(dataset: Dataset, shots: int) -> None:
    """Raise InputError unless every class has a query and ``shots`` support pictures."""
    if shots < 1:
        raise InputError(f"shots = {shots}: an episode needs at least 1 support picture")
    if not dataset.classes:
        raise InputError(f"{dataset.spec}: no classes in split {dataset.split!r}")
    small = [name for name, images in dataset.images.items() if len(images) < shots + 1]
    if small:
        raise InputError(
            f"{dataset.spec}: class {small[0]!r} has {len(dataset.images[small[0]])} pictures, but "
            f"a {shots}-shot episode needs {shots + 1} ({len(small)} such classes); add pictures, "
            "use fewer shots, or leave such classes out with --skip-small-classes"
        )


@dataclass(frozen=True)
class EpisodeStream(Sequence[Episode]):
    """The first ``length`` episodes of a seed, drawn when asked for: what training reads."""

    dataset: Dataset
    shots: int
    seed: int
    length: int
    absent: float = 0.0  # share of the episodes whose query does not show what is asked for

    def __post_init__(self) -> None:
        check_shots(self.dataset, self.shots)
        if self.absent:  # whether there are such episodes, before anything begins
            draw_episode(self.dataset, self.shots, self.seed, 0, "absent")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:  # an episode, or a list of them for a slice
        chosen = range(self.length)[index]
        if isinstance(chosen, range):
            return [self[i] for i in chosen]
        absent = self.absent and np.random.default_rng([self.seed, chosen, 1]).random() < self.absent
        return draw_episode(self.dataset, self.shots, self.seed, chosen, "absent" if absent else "own")


@dataclass(frozen=True)
class EpisodeList(Sequence[Episode]):
    """A fixed list of episodes, to evaluate on; it can be saved, loaded and named by its hash.

    Attributes:
        episodes: the episodes in order.
        source: what it was sampled from (spec, split, fold, shots, seed), for the reader.
    """

    episodes: tuple[Episode, ...]
    source: dict[str, str | int | None] = field(default_factory=dict, compare=False)

    @classmethod
    def sample(
        cls, dataset: Dataset, *, shots: int, episodes: int, seed: int, support: Support = "own", ways: int = 1
    ) -> "EpisodeList":
        """Draw the first ``episodes`` episodes of ``seed``; see ``draw_episode`` for ``support``.

        With several ``ways`` each query is asked for so many classes (PANet): its own, in an episode as of
        one way, and in episodes that follow it for others, all as likely, whether the query shows them or not.

        Raises:
            InputError: no episodes asked for, a class with too few pictures, no query that ``support`` can ask,
                more ways than classes, or several with a ``support`` other than ``"own"``.
        """
        for name, number, least in (("episodes", episodes, 1), ("seed", seed, 0), ("ways", ways, 1)):
            if number < least:
                raise InputError(f"{name} = {number}: use {least} or more")
        check_shots(dataset, shots)
        if ways > (most := len(dataset) if support == "own" else 1):
            raise InputError(
                f"ways = {ways}: there are {len(dataset)} classes; with support {support!r} use at most {most}"
            )
        source = dict(data=dataset.spec, split=dataset.split, fold=dataset.fold, shots=shots, seed=seed)
        return cls(
            tuple(
                episode for index in range(episodes) for episode in _asked(dataset, shots, seed, index, support, ways)
            ),
            source | ({} if support == "own" else {"support": support}) | ({"ways": ways} if ways > 1 else {}),
        )

    @property
    def support(self) -> str:
        """Whose supports the list has: ``"own"``, ``"absent"`` or ``"other"``."""
        return str(self.source.get("support", "own"))

    @property
    def ways(self) -> int:
        """How many classes each query is asked for, in episodes that follow one another."""
        return int(self.source.get("ways") or 1)

    @property
    def sha256(self) -> str:
        """Hash of the episodes alone: equal lists have equal hashes wherever they came from."""
        return hashlib.sha256(json.dumps([_as_json(e) for e in self.episodes]).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the list as JSON, with its hash."""
        write_json(path, {"sha256": self.sha256, "source": self.source, "episodes": [*map(_as_json, self.episodes)]})

    @classmethod
    def load(cls, path: str | Path) -> "EpisodeList":
        """Read a list that ``save`` wrote.

        Raises:
            InputError: no such file, not a list, or changed since it was saved.
        """
        try:
            content = json.loads(Path(path).read_bytes())
            episodes = tuple(Episode(**{**e, "support": tuple(e["support"])}) for e in content["episodes"])
            loaded = cls(episodes, dict(content["source"]))
            recorded = content["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: not a saved episode list ({type(error).__name__}: {error}); "
                "write one with fss eval --save-list"
            ) from error
        if loaded.sha256 != recorded:
            raise InputError(f"{path}: the episodes were changed since saving; sample them anew")
        return loaded

    def check(self, dataset: Dataset) -> None:
        """Raise InputError unless ``dataset`` has every picture and all episodes are sound."""
        if not self.episodes:
            raise InputError("the episode list is empty; sample a new one")
        shots = len(self.episodes[0].support)
        for first in range(0, len(self) if self.ways > 1 else 0, self.ways):
            group = self.episodes[first : first + self.ways]
            if len({each.class_name for each in group}) < self.ways or len({(e.listed, e.query) for e in group}) > 1:
                raise InputError(f"episodes from {first} on do not ask one query for {self.ways} classes; sample anew")
        for number, episode in enumerate(self.episodes):
            pairs = [(episode.listed, episode.query), *((episode.class_name, name) for name in episode.support)]
            absent = [name for class_name, name in pairs if name not in dataset[class_name].names]
            if absent:
                raise InputError(
                    f"episode {number}: class {episode.class_name!r} of {dataset.spec} has no "
                    f"picture {min(absent)!r}; use the data that the list was sampled from"
                )
            pictures = {dataset.reader.picture(*pair) for pair in pairs}
            if len(pictures) < len(pairs) or len(pairs) != shots + 1 or shots < 1:
                raise InputError(
                    f"episode {number}: {len(pairs) - 1} support pictures beside the query, "
                    f"{len(pictures)} different in all, in a list of {shots} shot; sample it anew"
                )

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: Any) -> Any:  # an episode, or a tuple of them for a slice
        return self.episodes[index]


def _as_json(episode: Episode) -> dict[str, Any]:
    """The fields of an episode; an own one has no ``shown``, as before there were others."""
    return {name: value for name, value in asdict(episode).items() if value is not None}


class EpisodeBatch(NamedTuple):
    """Pictures and labels of B episodes; labels hold 0, 1 (the class) and 255 (ignore)."""

    query: Float[Tensor, "B 3 H W"]
    target: UInt8[Tensor, "B H W"]
    support: Float[Tensor, "B K 3 H W"]
    mask: UInt8[Tensor, "B K H W"]


class EpisodeDataset(TorchDataset[EpisodeBatch]):
    """Reads the pictures of single episodes; picklable, so that loader workers can hold it.

    Args:
        dataset: where the pictures are.
        episodes: which.
        augment: changes a picture and its labels together; called for the query, then for each
            support picture, with ``episode_generator(seed, index)``.
        seed: of the augmentation.
    """

    def __init__(
        self,
        dataset: Dataset,
        episodes: Sequence[Episode],
        *,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        self.dataset, self.episodes, self.augment, self.seed = dataset, episodes, augment, seed

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> EpisodeBatch:
        episode = self.episodes[index]
        query, label = self.dataset.read(episode.listed, episode.query)
        pairs = [
            (query, relabelled(self.dataset, episode, label)),
            *(self.dataset.read(episode.class_name, name) for name in episode.support),
        ]
        if self.augment is not None:
            generator = episode_generator(self.seed, index)
            pairs = [self.augment(image, mask, generator) for image, mask in pairs]
        (query, target), *support = pairs
        pictures, masks = zip(*support, strict=True)
        return EpisodeBatch(query, target, torch.stack(pictures), torch.stack(masks))


def episode_generator(seed: int, index: int) -> torch.Generator:
    """Random numbers for the augmentation of episode ``index``: a pure function of both."""
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def episode_loader(
    episodes: EpisodeDataset,
    *,
    batch: int,
    workers: int = 0,
    start: int = 0,
    stride: int | None = None,
) -> DataLoader[EpisodeBatch]:
    """Load batches in order from episode ``start`` on; the same for any number of workers.

    Each begins ``stride`` episodes after the start of the one before, by default right after its end.
    """
    return DataLoader(
        episodes,
        batch_size=batch,
        sampler=batch_indices(len(episodes), batch, start, stride or batch),
        num_workers=workers,
    )


def batch_indices(episodes: int, batch: int, start: int, stride: int) -> list[int]:
    """Which episodes lie in batches that begin ``stride`` apart, from episode ``start`` on."""
    return [i for i in range(start, episodes) if (i - start) % stride < batch]


def read_all(loader: DataLoader[T]) -> Iterator[T]:
    """Iterate over a loader; a bad picture raises the same one line with and without workers."""
    try:
        yield from loader
    except InputError as error:
        # What a worker raised arrives with its whole traceback as the message.
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "a process that read pictures was killed, probably for lack of memory or of shared "
            "memory (a container's /dev/shm); use fewer workers, or 0"
        ) from error
