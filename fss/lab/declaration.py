"""What a campaign declares: which runs there are, and everything that each of them depends on."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from fss.checkpoint import read_checkpoint
from fss.config import DANetConfig, DataConfig, Scoring, TrainConfig, arm, preset, with_settings
from fss.data import open_dataset
from fss.data.dataset import Dataset
from fss.episodes import EpisodeList, Support
from fss.errors import InputError, nearest
from fss.evaluate import REFERENCES, is_reference

CONTROLS: tuple[Support, ...] = ("absent", "other")  # supports that every run is measured with as well
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")  # of a file or folder, on every system
KEYS: dict[str, dict[str, Any]] = {
    "campaign": {
        "preset": "quick",
        "baseline": "base",
        "fold": 0,
        "split": "test",
        "shots": [1, 5],
        "episodes": 1000,
        "list_seed": 0,
        "lists": 1,
        "grid_episodes": 500,
        "options": {},
        "scoring": {},
        "skip_small_classes": False,
        "references": [],
        "set": [],
        "data": {},
        "arms": {},
    },
    "data": {
        "spec": "",
        "fold": 0,
        "options": {},
        "scoring": {},
        "set": [],
        "also": {},
        "grid": {},
        "group": "",
        "skip_small_classes": False,
    },
    "arm": {
        "arm": "",
        "checkpoint": "",
        "fold": 0,
        "allow_leak": False,
        "set": [],
        "seeds": 1,
        "data": [],
        "parent": "",
    },
}
"""What may stand in each table, with the defaults; a value has its default's type. A data set's fold,
``options`` (those of ``DataConfig``), ``scoring`` and ``skip_small_classes`` are the campaign's where it
gives none. ``split`` says whose classes are measured: those of the test, or, in a campaign that chooses
between arms, ``"val"``. Data of one ``group``, such as the folds of a data set, are also summed up together.
An arm is trained, on another ``fold`` than the test's where it gives one, or it is a ``checkpoint``;
``allow_leak`` measures it also on classes that it was trained on. Its ``parent`` is the arm that it is
compared to, by default the campaign's ``baseline``."""


@dataclass(frozen=True)
class Run:
    """One training and its measurement; or that of a checkpoint or a reference, not trained here.

    Attributes:
        data: name of the data.
        arm: name of the arm or the reference.
        seed: of the training; 0 for a reference.
        spec: the data set's spec as declared; ``$NAME`` in it is an environment variable, so that
            no private path enters a result.
        config: the network.
        schedule: the training; its seed is ``seed``.
        fold, split, shots, episodes, list_seed: how it is measured.
        lists: episode lists, of the seeds from ``list_seed`` on.
        options: which pictures and classes of the data.
        scoring: what predictions are compared with.
        skip_small_classes: train without the classes that have too few pictures for an episode.
        also: name -> spec of other data whose classes it is measured on with one shot.
        grid: the same, with own supports alone and ``grid_episodes`` episodes: a knob moved, value by value.
        grid_episodes: of each of them.
        train_fold: the fold it is trained on; another one than ``fold`` is a leak on purpose.
        checkpoint: weights to measure as they are, a name or a path, or "".
        allow_leak: measure also on classes that were trained on.
        parent: the arm that it is compared to; "" means the campaign's baseline.
        group: of the data, which are summed up together; "" means on their own alone.
    """

    data: str
    arm: str
    seed: int
    spec: str
    config: DANetConfig
    schedule: TrainConfig
    fold: int
    split: Literal["val", "test"]
    shots: tuple[int, ...]
    episodes: int
    list_seed: int
    lists: int
    options: DataConfig
    scoring: Scoring
    skip_small_classes: bool
    also: Mapping[str, str]
    grid: Mapping[str, str]
    grid_episodes: int
    train_fold: int
    checkpoint: str = ""
    allow_leak: bool = False
    parent: str = ""
    group: str = ""

    @property
    def name(self) -> str:
        """``<data>/<arm>-<seed>``: the run's place below the campaign's folder; no file of Windows has a colon."""
        return f"{self.data}/{self.arm.replace(':', '=')}-{self.seed}"

    @property
    def reference(self) -> bool:
        """Whether it is one of the references, which have no weights."""
        return is_reference(self.arm)

    @property
    def trained(self) -> bool:
        """Whether the run trains a network."""
        return not (self.reference or self.checkpoint)

    @property
    def asked(self) -> list[tuple[str | None, int, Support]]:
        """What the run measures: name of the other data, or None for its own; shots; whose supports.

        The controls are measured with the fewest shots.
        """
        rows: list[tuple[str | None, int, Support]] = [(None, shots, "own") for shots in self.shots]
        rows += [(None, min(self.shots), support) for support in CONTROLS]
        rows += [(name, 1, support) for name in self.also for support in ("own", *CONTROLS)]
        return rows + [(name, 1, "own") for name in self.grid]

    @property
    def others(self) -> Mapping[str, str]:
        """Name -> spec of all other data that it is measured on."""
        return {**self.also, **self.grid}

    def settings(self) -> dict[str, Any]:
        """Everything that the scores depend on besides the code, as JSON values."""
        how = {
            "data": self.spec,
            "fold": self.fold,
            "size": self.schedule.size,
            "shots": list(self.shots),
            "episodes": self.episodes,
            "list_seed": self.list_seed,
            "lists": self.lists,
            "options": self.options.to_json(),
            "scoring": self.scoring.to_json(),
        }
        if self.split != "test":  # older results do not name it
            how["split"] = self.split
        if self.also:
            how["also"] = dict(self.also)
        if self.grid:
            how |= {"grid": dict(self.grid), "grid_episodes": self.grid_episodes}
        if self.reference:
            return {**how, "reference": self.arm, "backbone": self.config.backbone}
        if self.checkpoint:
            return {**how, "checkpoint": self.checkpoint, "config": self.config.to_json()}
        if self.train_fold != self.fold:
            how["train_fold"] = self.train_fold
        if self.skip_small_classes:
            how["skip_small_classes"] = True
        return {**how, "config": self.config.to_json(), "train": self.schedule.to_json()}

    def open_spec(self, spec: str | None = None) -> str:
        """Fill a spec's environment variables (default: the run's); InputError if one is unset."""
        declared = spec or self.spec
        spec = os.path.expandvars(declared)
        if missing := re.search(r"\$\{?(\w+)", spec):
            raise InputError(f"{self.data}: {declared} needs {missing[1]}; set it: {missing[1]}=path/to/pictures")
        return spec

    def open(self, split: str, spec: str | None = None) -> Dataset:
        """Open a split of the data, or of other data, which the options do not concern."""
        return open_dataset(
            self.open_spec(spec),
            split=split,
            fold=self.fold if split == self.split else self.train_fold,
            size=self.schedule.size,
            options=self.options if spec is None else DataConfig(),
        )

    def episodes_of(self, dataset: Dataset, on: str | None, shots: int, support: Support = "own") -> EpisodeList:
        """Draw what a row that is ``asked`` is measured on; of the own data, the lists one after another."""
        lists = self.lists if on is None and support == "own" else 1
        number = self.grid_episodes if on in self.grid else self.episodes
        drawn = [
            EpisodeList.sample(dataset, shots=shots, episodes=number, seed=self.list_seed + n, support=support)
            for n in range(lists)
        ]
        return EpisodeList(tuple(chain.from_iterable(drawn)), drawn[0].source)


def runs_of(declared: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Run, ...]]:
    """Return a declaration with its defaults, and its runs in their order.

    Raises:
        InputError: it declares what does not exist; the message names it.
    """
    campaign = _checked("campaign", "", declared)
    for key in ("data", "arms", "shots"):
        if not campaign[key] and not (key == "arms" and campaign["references"]):
            raise InputError(f"declares no {key}")
    for key in ("data", "arms"):
        for name in campaign[key]:
            if not NAME.fullmatch(name):
                raise InputError(f"{key}.{name}: use small letters, digits, '-', '_' and '.'")
    for name in campaign["references"]:
        if not is_reference(name):
            raise InputError(f"references: no {name!r}; {nearest(name, REFERENCES)}")
    if campaign["split"] not in ("val", "test"):
        raise InputError(f"split = {campaign['split']!r}: use 'val' or 'test'")
    arms = {name: {**KEYS["arm"], "arm": "base", "fold": None} for name in campaign["references"]}
    arms |= {name: _arm(name, given, campaign) for name, given in campaign["arms"].items()}
    groups = {table["group"] for table in campaign["data"].values() if isinstance(table, dict) and "group" in table}
    if named := sorted(groups & campaign["data"].keys()):
        raise InputError(f"group = {named[0]!r}: is the name of data; take another")
    runs = []
    for data, given in campaign["data"].items():
        table = _checked("data", f"data.{data}", given)
        for key in ("also", "grid"):
            for name, spec in table[key].items():
                if not NAME.fullmatch(name) or not isinstance(spec, str):
                    raise InputError(
                        f"data.{data}.{key}.{name} = {spec!r}: give a name of small letters and digits, and a data set"
                    )
        if twice := sorted(table["also"].keys() & table["grid"].keys()):
            raise InputError(f"data.{data}.grid.{twice[0]}: the name is one of also; take another")
        here = {key: given.get(key, campaign[key]) for key in ("fold", "options", "scoring", "skip_small_classes")}
        for name, wanted in arms.items():
            if wanted["data"] and data not in wanted["data"]:
                continue
            config, schedule = _chosen(wanted, campaign["preset"], campaign["set"] + table["set"])
            runs += [
                Run(
                    data=data,
                    arm=name,
                    seed=seed,
                    spec=table["spec"] or data,
                    config=config,
                    schedule=schedule.override({"seed": seed}),
                    fold=here["fold"],
                    split=campaign["split"],
                    shots=tuple(campaign["shots"]),
                    episodes=campaign["episodes"],
                    list_seed=campaign["list_seed"],
                    lists=campaign["lists"],
                    options=DataConfig.from_json(here["options"]),
                    scoring=Scoring.from_json(here["scoring"]),
                    skip_small_classes=here["skip_small_classes"],
                    also=table["also"],
                    grid=table["grid"],
                    grid_episodes=campaign["grid_episodes"],
                    train_fold=here["fold"] if wanted["fold"] is None else wanted["fold"],
                    checkpoint=wanted["checkpoint"],
                    allow_leak=wanted["allow_leak"],
                    parent=wanted["parent"],
                    group=table["group"],
                )
                for seed in range(wanted["seeds"])
            ]
    parents = {f"arms.{name}.parent": wanted["parent"] for name, wanted in arms.items() if wanted["parent"]}
    for key, parent in {"baseline": campaign["baseline"], **parents}.items():
        if parent not in arms:
            raise InputError(f"{key} = {parent!r}: no such arm; {nearest(parent, arms)}")
    return campaign, tuple(runs)


def _arm(name: str, given: Any, campaign: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's table with its defaults; its fold is None where it gives none."""
    checked = _checked("arm", f"arms.{name}", given)
    wanted = {**checked, "arm": checked["arm"] or name, "fold": given.get("fold")}
    if is_reference(name):
        raise InputError(f"arms.{name}: that is the name of a reference")
    for data in wanted["data"]:
        if data not in campaign["data"]:
            raise InputError(f"arms.{name}.data: no data {data!r}; {nearest(data, campaign['data'])}")
    training = sorted(given.keys() & {"arm", "set", "seeds", "fold"})
    if wanted["checkpoint"] and training:
        raise InputError(f"arms.{name}.{training[0]}: a checkpoint is measured as it is; leave it out")
    return wanted


def _chosen(wanted: Mapping[str, Any], preset_name: str, base: Sequence[str]) -> tuple[DANetConfig, TrainConfig]:
    """The network and the schedule of an arm; of a checkpoint's, only the size counts."""
    if wanted["checkpoint"]:
        header, _ = read_checkpoint(wanted["checkpoint"])
        size = header["trained"].get("size", preset(preset_name).size)
        return DANetConfig.from_json(header["config"]), preset(preset_name).override({"size": size})
    settings = [*base, *wanted["set"]]
    if seed := next((each for each in settings if each.startswith("seed=")), None):
        raise InputError(f"set {seed}: give the arms a number of seeds, which are 0, 1 and so on: seeds = N")
    return with_settings(arm(wanted["arm"]), preset(preset_name), settings)


def _checked(kind: str, place: str, given: Any) -> dict[str, Any]:
    """A table with its defaults; InputError for an unknown key or a value of another type."""
    known = KEYS[kind]
    if not isinstance(given, dict):
        raise InputError(f"{place}: is a table of {', '.join(known)}")
    for key, value in given.items():
        name = f"{place}.{key}".lstrip(".")
        if key not in known:
            raise InputError(f"{name}: no such key; {nearest(key, known)}")
        if type(value) is not type(known[key]):
            raise InputError(f"{name} = {value!r}: give a {type(known[key]).__name__}")
        parts = value if isinstance(value, list) else [value]
        part_type = int if key == "shots" else str if isinstance(value, list) else type(value)
        if not all(type(part) is part_type for part in parts):
            raise InputError(f"{name} = {value!r}: give a list of {part_type.__name__}")
        least = 0 if key in ("fold", "list_seed") else 1
        if part_type is int and min(parts, default=least) < least:
            raise InputError(f"{name} = {value!r}: use {least} or more")
    return {**known, **given}
