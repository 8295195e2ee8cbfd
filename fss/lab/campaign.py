"""A campaign: arms x seeds x data from one small declared table, and what its runs measured.

``FOLDER/campaign.toml`` declares it, and each run leaves ``FOLDER/<data>/<arm>-<seed>.json`` beside
it. Everything about a run follows from the declaration; ``fss.lab.ablate`` makes the runs. Every
table that the kit measures is one: arms that it trains, weights that exist, or references.

A result holds ``settings``, ``machine``, ``code`` (the kit's files that the run imported -> their
hashes) and ``rows``, one for each measurement: what ``fss eval --json`` writes, with the arm's ``name``
and ``on``, the name of the other data that it was measured on, or null. Its ``support`` is own, or that
of a control, absent or other, which is measured with the fewest shots and where the data have pictures
for it. A training leaves its ``log`` and its ``seconds``.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, variance
from typing import Any, Self

from fss.config import DANetConfig, DataConfig, Scoring, TrainConfig
from fss.errors import InputError
from fss.evaluate import is_reference
from fss.lab.declaration import Run, runs_of
from fss.lab.intervals import RUNS as RUNS, difference
from fss.metrics import EpisodeTally
from fss.settings import Settings

DECLARATION = "campaign.toml"
KINDS: Mapping[str, type[Settings]] = {
    "config": DANetConfig,
    "train": TrainConfig,
    "options": DataConfig,
    "scoring": Scoring,
}


@dataclass(frozen=True)
class Result:
    """What a run measured.

    Attributes:
        run: what it is a run of.
        tallies: shots -> the integers of every episode with own supports, list after list.
        also: name of other data -> the integers of every episode there, with one shot and own supports.
        record: the whole file, with ``figures``, the rows of the own data and supports by the shots.
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
            campaign, runs = runs_of(declared)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return cls(folder, runs, campaign["baseline"])

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
                first, other = lists.setdefault((result.run.data, *_asked(row)), (name, sha256))
                if other != sha256:
                    raise InputError(
                        f"{self.path(result.run)}: measured on other episodes than "
                        f"{first}; were the pictures of one other ones?"
                    )
        of_code = [result for result in found.values() if "code" in result.record]
        for result in of_code[1:]:
            check_code(result.record["code"], of_code[0].record["code"], str(self.path(result.run)))
        return found

    def _result(self, run: Run) -> Result:
        path = self.path(run)
        try:
            record = json.loads(path.read_bytes())
            declared = run.settings()
            made = {  # of before a setting was added, with its default
                key: KINDS[key].from_json(value).to_json() if key in KINDS else value
                for key, value in record["settings"].items()
            }
            tallies, also, record["figures"] = {}, {}, {}
            for row in record["rows"]:
                tally, (on, _, support) = EpisodeTally.from_json(row["counts"]), _asked(row)
                if support == "own" and on is None:
                    tallies[row["shots"]], record["figures"][str(row["shots"])] = tally, row
                elif on is not None and support == "own":
                    also[on] = tally
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
    """Return a row for every data set, arm and number of shots that has results, and for every group of data.

    Args:
        results: of ``Campaign.results``.
        baseline: the arm that those are compared to whose run names no parent.
        also: sum up what was measured on this other data, instead of on the own classes.

    Returns:
        Per row ``data`` (or the group), ``arm``, ``shots``, ``seeds`` (of each data); ``miou`` and
        ``fb_iou``, means over the seeds; ``spread``, the standard deviation of the mIoU over the seeds
        (None for one); ``miou_interval``, that of a single run over its query pictures (None for more, or
        where they have no names); ``parent``, the arm that it is compared to; and ``gain`` with
        ``gain_interval``, the difference of the mIoU to the parent's and its 95 % interval over runs and
        query pictures (both None for the baseline, or where the parent has no results; the interval also
        where the seeds say too little of how far others would spread, see ``difference``). Means over the
        seeds of the controls: ``marked``, the share of a picture that is marked with an absent support;
        ``other``, the mIoU with other supports, and ``stays``, the share of the first object that is still
        marked then; and the number of ``pictures`` that were asked so. These four are None where that was
        not measured. Scores, spreads, gains and shares are fractions. A group's scores are means over its
        data, each with the same weight; an arm that lacks some of them has no row.
    """
    rows = []
    groups = grouped(results, also=also)
    for (data, name, shots), folds in groups.items():
        found = [result for fold in folds for result in fold]
        tallies = tallies_of(folds, shots, also)
        mious = [[tally.miou() for tally in fold] for fold in tallies]
        several = min(map(len, mious)) > 1
        row: dict[str, Any] = {
            "data": data,
            "arm": name,
            "shots": shots,
            "seeds": min(map(len, mious)),
            "miou": mean(map(mean, mious)),
            "fb_iou": mean(mean(tally.fb_iou() for tally in fold) for fold in tallies),
            "spread": mean(variance(fold) for fold in mious) ** 0.5 if several else None,
            "miou_interval": list(tallies[0][0].interval()) if len(found) == 1 and tallies[0][0].queries else None,
            "parent": found[0].run.parent or baseline,
            "gain": None,
            "gain_interval": None,
            "marked": _mean_of(found, also, shots, "absent", "marked"),
            "other": _mean_of(found, also, shots, "other", "miou"),
            "stays": _mean_of(found, also, shots, "other", "stays"),
            "pictures": sum(_mean_of(fold, also, shots, "other", "pictures") or 0 for fold in folds) or None,
        }
        parent = groups.get((data, row["parent"], shots))
        if parent and name != row["parent"]:
            base = tallies_of(parent, shots, also)
            row["gain"] = row["miou"] - mean(mean(tally.miou() for tally in fold) for fold in base)
            parts = difference(tallies, base, fixed=(is_reference(name), is_reference(row["parent"])))
            row["gain_interval"] = parts and parts.estimate().interval()
        rows.append(row)
    return rows


Folds = tuple[tuple[Result, ...], ...]  # the seeds' results of each data set of a group, or of the only one


def grouped(results: Mapping[str, Result], *, also: str | None = None) -> dict[tuple[str, str, int], Folds]:
    """Return what to sum up together, by data or group, arm and shots; a group's arm has results in all of its data."""
    found: dict[tuple[str, str, int], dict[str, list[Result]]] = {}
    data_of: dict[str, set[str]] = {}
    for result in results.values():
        run = result.run
        for shots in result.tallies if also is None else [1] if also in result.also else []:
            for name in (run.data, run.group) if run.group else (run.data,):
                found.setdefault((name, run.arm, shots), {}).setdefault(run.data, []).append(result)
                data_of.setdefault(name, set()).add(run.data)
    return {
        key: tuple(tuple(folds[data]) for data in sorted(folds))
        for key, folds in found.items()
        if folds.keys() == data_of[key[0]]
    }


def tallies_of(folds: Folds, shots: int, also: str | None = None) -> list[list[EpisodeTally]]:
    """Return the tallies of own supports, or of other data, seed by seed within fold by fold."""
    return [[result.tallies[shots] if also is None else result.also[also] for result in fold] for fold in folds]


def check_code(made: Mapping[str, str], other: Mapping[str, str], name: str) -> None:
    """Raise InputError, naming a file, where what was made with some files meets others.

    Files that one side alone imported, and results of before these were recorded, say nothing.
    """
    changed = sorted(file for file in made.keys() & other.keys() if made[file] != other[file])
    if changed:
        raise InputError(
            f"{name}: was made with another {changed[0]}{f' (and {len(changed) - 1} more)' if changed[1:] else ''}; "
            "one table holds results of one code: go back to the commit that it names, or remove it"
        )


def notes(runs: Sequence[Run]) -> list[str]:
    """Return what a reader of the runs' scores should know of their data."""
    data = {run.data: run for run in runs}
    return list(
        dict.fromkeys(note for run in data.values() for split in ("train", run.split) for note in run.open(split).notes)
    )


def _asked(row: Mapping[str, Any]) -> tuple[str | None, int, str]:
    """What a row measures; one from before there were controls has own supports."""
    return row["on"], row["shots"], row.get("support", "own")


def _mean_of(found: Sequence[Result], on: str | None, shots: int, support: str, key: str) -> float | None:
    """The mean of a key over the seeds that were measured so; None where none was."""
    rows = [row for result in found for row in result.record["rows"]]
    measured = [row[key] for row in rows if _asked(row) == (on, shots, support)]
    return mean(measured) if measured else None


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
