"""A campaign: arms x seeds x data from one small declared table, and what its runs measured.

``FOLDER/campaign.toml`` declares it, and each run leaves ``FOLDER/<data>/<arm>-<seed>.json`` beside
it. Everything about a run follows from the declaration; ``fss.lab.ablate`` makes the runs. Every
table that the kit measures is one: arms that it trains, weights that exist, or references.

A result holds ``settings``, ``machine`` and ``rows``, one for each measurement: what ``fss eval
--json`` writes, with the arm's ``name`` and ``on``, the name of the other data that it was measured
on, or null. A training leaves its ``log`` and its ``seconds``.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Self

from fss.checkpoint import read_checkpoint
from fss.config import DANetConfig, DataConfig, Scoring, TrainConfig, arm, preset, with_settings
from fss.data import open_dataset
from fss.data.dataset import Dataset
from fss.episodes import EpisodeList
from fss.errors import InputError, nearest
from fss.evaluate import REFERENCES
from fss.metrics import COLUMNS, EpisodeTally, paired_interval

DECLARATION = "campaign.toml"
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")  # of a file or folder, on every system
KEYS: dict[str, dict[str, Any]] = {
    "campaign": {
        "preset": "quick",
        "baseline": "base",
        "fold": 0,
        "shots": [1, 5],
        "episodes": 1000,
        "list_seed": 0,
        "lists": 1,
        "options": {},
        "scoring": {},
        "references": [],
        "set": [],
        "data": {},
        "arms": {},
    },
    "data": {"spec": "", "fold": 0, "options": {}, "scoring": {}, "set": [], "also": {}},
    "arm": {"arm": "", "checkpoint": "", "fold": 0, "allow_leak": False, "set": [], "seeds": 1, "data": []},
}
"""What may stand in each table, with the defaults; a value has its default's type. A data set's
fold, ``options`` (those of ``DataConfig``) and ``scoring`` are the campaign's where it gives none.
An arm is trained, on another ``fold`` than the test's where it gives one, or it is a ``checkpoint``;
``allow_leak`` measures it also on classes that it was trained on."""


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
        fold, shots, episodes, list_seed: how it is measured.
        lists: episode lists, of the seeds from ``list_seed`` on.
        options: which pictures and classes of the data.
        scoring: what predictions are compared with.
        also: name -> spec of other data whose test classes it is measured on with one shot.
        train_fold: the fold it is trained on; another one than ``fold`` is a leak on purpose.
        checkpoint: weights to measure as they are, a name or a path, or "".
        allow_leak: measure also on classes that were trained on.
    """

    data: str
    arm: str
    seed: int
    spec: str
    config: DANetConfig
    schedule: TrainConfig
    fold: int
    shots: tuple[int, ...]
    episodes: int
    list_seed: int
    lists: int
    options: DataConfig
    scoring: Scoring
    also: Mapping[str, str]
    train_fold: int
    checkpoint: str = ""
    allow_leak: bool = False

    @property
    def name(self) -> str:
        """``<data>/<arm>-<seed>``: the run's place below the campaign's folder."""
        return f"{self.data}/{self.arm}-{self.seed}"

    @property
    def reference(self) -> bool:
        """Whether it is one of the references, which have no weights."""
        return self.arm in REFERENCES

    @property
    def trained(self) -> bool:
        """Whether the run trains a network."""
        return not (self.reference or self.checkpoint)

    def settings(self) -> dict[str, Any]:
        """Everything that the figures depend on besides the code, as JSON values."""
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
        if self.also:
            how["also"] = dict(self.also)
        if self.reference:
            return {**how, "reference": self.arm, "backbone": self.config.backbone}
        if self.checkpoint:
            return {**how, "checkpoint": self.checkpoint, "config": self.config.to_json()}
        if self.train_fold != self.fold:
            how["train_fold"] = self.train_fold
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
            fold=self.fold if split == "test" else self.train_fold,
            size=self.schedule.size,
            options=self.options if spec is None else DataConfig(),
        )

    def episodes_of(self, dataset: Dataset, shots: int, lists: int) -> EpisodeList:
        """Draw so many lists, one after another."""
        drawn = [
            EpisodeList.sample(dataset, shots=shots, episodes=self.episodes, seed=self.list_seed + n)
            for n in range(lists)
        ]
        return EpisodeList(tuple(chain.from_iterable(drawn)), drawn[0].source)


@dataclass(frozen=True)
class Result:
    """What a run measured.

    Attributes:
        run: what it is a run of.
        tallies: shots -> the integers of every episode, list after list.
        also: name of other data -> the integers of every episode there, with one shot.
        record: the whole file, with ``figures``, the rows of the own data by the shots.
    """

    run: Run
    tallies: Mapping[int, EpisodeTally]
    also: Mapping[str, EpisodeTally]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Campaign:
    """All runs of a declaration, in its order; ``baseline`` is the arm that others compare to."""

    folder: Path
    runs: tuple[Run, ...]
    baseline: str = "base"

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read ``folder/campaign.toml``.

        Raises:
            InputError: no such file, or it declares what does not exist; the message names it.
        """
        folder = Path(folder)
        path = folder / DECLARATION
        try:
            declared = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; it declares a campaign's arms") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: cannot be read as TOML ({error})") from error
        return cls.declared(folder, declared)

    @classmethod
    def declared(cls, folder: Path, declared: Mapping[str, Any]) -> Self:
        """Make the campaign that ``folder/campaign.toml`` declares, or is going to.

        Raises:
            InputError: it declares what does not exist; the message names it.
        """
        path = folder / DECLARATION
        try:
            campaign = _checked("campaign", "", declared)
            runs = tuple(_runs(campaign))
            if campaign["baseline"] not in campaign["arms"]:
                hint = nearest(campaign["baseline"], campaign["arms"])
                raise InputError(f"baseline = {campaign['baseline']!r}: no such arm; {hint}")
            return cls(folder, runs, campaign["baseline"])
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def path(self, run: Run) -> Path:
        """Return the file that holds the run's result."""
        return self.folder / f"{run.name}.json"

    def results(self) -> dict[str, Result]:
        """Read the results that there are, by the run's name.

        Raises:
            InputError: a file that cannot be read, that was made with other settings than those
                declared, that no run is declared for, or of other episodes than the others.
        """
        found = {run.name: self._result(run) for run in self.runs if self.path(run).is_file()}
        strays = {str(path.relative_to(self.folder).with_suffix("")) for path in self.folder.glob("*/*.json")} - {
            run.name for run in self.runs
        }
        if strays:
            first = min(strays)
            raise InputError(
                f"{self.folder / first}.json: no run of {DECLARATION} has this name; "
                "remove the file, or declare its arm and seed"
            )
        lists: dict[tuple[Any, ...], tuple[str, str]] = {}
        for name, result in found.items():
            for row in result.record["rows"]:
                sha256 = row.get("episodes_sha256")
                first, other = lists.setdefault((result.run.data, row["on"], row["shots"]), (name, sha256))
                if other != sha256:
                    raise InputError(
                        f"{self.path(result.run)}: measured on other episodes than "
                        f"{first}; were the pictures of one other ones?"
                    )
        return found

    def _result(self, run: Run) -> Result:
        path = self.path(run)
        try:
            record = json.loads(path.read_bytes())
            declared, made = run.settings(), _completed(record["settings"])
            record["rows"] = record.get("rows") or _older_rows(record)
            tallies, also, record["figures"] = {}, {}, {}
            for row in record["rows"]:
                tally = EpisodeTally.from_json({name: row["counts"][name] for name in COLUMNS})
                if row["on"] is None:
                    tallies[row["shots"]], record["figures"][str(row["shots"])] = tally, row
                else:
                    also[row["on"]] = tally
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
            raise InputError(f"{path}: no result of a run ({error}); remove it") from error
        for name, value in _flat(declared).items():
            if _flat(made).get(name) != value:
                raise InputError(
                    f"{path}: was made with {name} = {_flat(made).get(name)!r}, and {DECLARATION} "
                    f"declares {value!r}; results of different settings are not mixed: remove the "
                    "file, or take another folder"
                )
        return Result(run, tallies, also, record)


def summary(results: Mapping[str, Result], *, baseline: str = "base", also: str | None = None) -> list[dict[str, Any]]:
    """Return a row for every data set, arm and number of shots that has results.

    Args:
        results: of ``Campaign.results``.
        baseline: the arm that the others are compared to.
        also: sum up what was measured on this other data, instead of on the own test classes.

    Returns:
        Per row ``data``, ``arm``, ``shots``, ``seeds``; ``miou`` and ``fb_iou``, means over the
        seeds; ``spread``, the standard deviation of the mIoU over the seeds (None for one); and
        ``gain`` with ``gain_interval``, the difference of the mIoU to ``baseline`` and its 95 %
        interval over episodes and seeds (None for the baseline, or where it has no results).
        All are fractions.
    """
    groups: dict[tuple[str, str, int], list[EpisodeTally]] = {}
    for result in results.values():
        tallies_of = result.tallies
        if also is not None:
            tallies_of = {1: result.also[also]} if also in result.also else {}
        for shots, tally in tallies_of.items():
            groups.setdefault((result.run.data, result.run.arm, shots), []).append(tally)
    rows = []
    for (data, name, shots), tallies in groups.items():
        mious = [tally.miou() for tally in tallies]
        row: dict[str, Any] = {
            "data": data,
            "arm": name,
            "shots": shots,
            "seeds": len(tallies),
            "miou": mean(mious),
            "fb_iou": mean(tally.fb_iou() for tally in tallies),
            "spread": stdev(mious) if len(mious) > 1 else None,
            "gain": None,
            "gain_interval": None,
        }
        base = groups.get((data, baseline, shots), [])
        if base and name != baseline:
            row["gain"] = row["miou"] - mean(tally.miou() for tally in base)
            row["gain_interval"] = paired_interval(tallies, base)
        rows.append(row)
    return rows


def notes(runs: Sequence[Run]) -> list[str]:
    """Return what a reader of the runs' figures should know of their data."""
    data = {run.data: run for run in runs}
    return list(
        dict.fromkeys(note for run in data.values() for split in ("train", "test") for note in run.open(split).notes)
    )


def _older_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a result from before there were any, by shots and by the other data's name."""
    lists = record["episodes_sha256"]
    own = [
        {**record["figures"][k], "on": None, "shots": int(k), "counts": counts, "episodes_sha256": lists[k]}
        for k, counts in record["tallies"].items()
    ]
    return own + [
        {"on": name, "shots": 1, "counts": counts, "episodes_sha256": lists[name]}
        for name, counts in record.get("also", {}).items()
    ]


def _runs(campaign: Mapping[str, Any]) -> list[Run]:
    runs = []
    for key in ("data", "arms", "shots"):
        if not campaign[key]:
            raise InputError(f"declares no {key}")
    for key in ("data", "arms"):
        for name in campaign[key]:
            if not NAME.fullmatch(name):
                raise InputError(f"{key}.{name}: use small letters, digits, '-', '_' and '.'")
    for data, given in campaign["data"].items():
        table = _checked("data", f"data.{data}", given)
        for name, spec in table["also"].items():
            if not NAME.fullmatch(name) or not isinstance(spec, str):
                raise InputError(
                    f"data.{data}.also.{name} = {spec!r}: give a name of small letters and digits, and a data set"
                )
        base = campaign["set"] + table["set"]
        here = {key: given.get(key, campaign[key]) for key in ("fold", "options", "scoring")}
        measured = dict(
            data=data,
            spec=table["spec"] or data,
            fold=here["fold"],
            shots=tuple(campaign["shots"]),
            episodes=campaign["episodes"],
            list_seed=campaign["list_seed"],
            lists=campaign["lists"],
            options=DataConfig.from_json(here["options"]),
            scoring=Scoring.from_json(here["scoring"]),
            also=table["also"],
        )
        for name in campaign["references"]:
            if name not in REFERENCES:
                raise InputError(f"references: no {name!r}; {nearest(name, REFERENCES)}")
            config, schedule = with_settings(arm("base"), preset(campaign["preset"]), base)
            runs.append(Run(arm=name, seed=0, config=config, schedule=schedule, train_fold=here["fold"], **measured))
        for name, given_arm in campaign["arms"].items():
            if name in REFERENCES:
                raise InputError(f"arms.{name}: that is the name of a reference")
            options = _checked("arm", f"arms.{name}", given_arm)
            for wanted in options["data"]:
                if wanted not in campaign["data"]:
                    hint = nearest(wanted, campaign["data"])
                    raise InputError(f"arms.{name}.data: no data {wanted!r}; {hint}")
            if options["data"] and data not in options["data"]:
                continue
            if seed := next((s for s in base + options["set"] if s.startswith("seed=")), None):
                raise InputError(f"set {seed}: give arms.{name} a number of seeds, which are 0, 1 and so on: seeds = N")
            if options["checkpoint"]:
                config, schedule = _of_checkpoint(name, given_arm, preset(campaign["preset"]))
            else:
                config, schedule = with_settings(
                    arm(options["arm"] or name), preset(campaign["preset"]), base + options["set"]
                )
            for seed in range(options["seeds"]):
                runs.append(
                    Run(
                        arm=name,
                        seed=seed,
                        config=config,
                        schedule=schedule.override({"seed": seed}),
                        train_fold=given_arm.get("fold", here["fold"]),
                        checkpoint=options["checkpoint"],
                        allow_leak=options["allow_leak"],
                        **measured,
                    )
                )
    return runs


def _of_checkpoint(name: str, given: Mapping[str, Any], schedule: TrainConfig) -> tuple[DANetConfig, TrainConfig]:
    """The network of an arm that is not trained, and a schedule of the size that it was trained at."""
    if training := sorted(given.keys() & {"arm", "set", "seeds", "fold"}):
        raise InputError(f"arms.{name}.{training[0]}: a checkpoint is measured as it is; leave it out")
    header, _ = read_checkpoint(given["checkpoint"])
    size = header["trained"].get("size", schedule.size)
    return DANetConfig.from_json(header["config"]), schedule.override({"size": size})


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


def _completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those that did not exist yet when they were written; each has its default."""
    completed = {"lists": 1, "options": DataConfig().to_json(), "scoring": Scoring().to_json(), **settings}
    if "config" in settings:
        completed["config"] = DANetConfig.from_json(settings["config"]).to_json()
    if "train" in settings:
        completed["train"] = TrainConfig.from_json(settings["train"]).to_json()
    return completed


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of network and training beside the others.

    Two have one name: the shots of the episodes that are trained on, and those of the test lists.
    """
    train = settings.get("train", {})
    return {**settings, **settings.get("config", {}), **train} | {
        "config": None,
        "train": None,
        "shots": settings.get("shots"),
        "shots of the training": train.get("shots"),
    }
