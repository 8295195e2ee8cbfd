"""The paper's tables as campaigns: which trainings each needs, and how they are measured.

``pascal5i.toml`` and ``fss1000.toml`` beside this file declare them. Tables 1 and 3 are of the same
trainings, so that one that is made after the other into the same folder goes on from it.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fss.config import DataConfig, Scoring, arm, preset as named_preset, with_settings
from fss.errors import InputError, nearest
from fss.files import check_writable, held, write_atomically
from fss.lab.campaign import DECLARATION, Campaign
from fss.lab.paper_tables import FOLDS, TABLES

TITLES = {"pascal5i": "Pascal-5i", "fss1000": "FSS-1000"}
BENCHMARKS = {"table1": "pascal5i", "table2": "fss1000", "table3": "pascal5i"}
PRESETS = {"paper": (0, 1, 2, 3), "smoke": (0, 1)}
"""How much of the paper's protocol is run, and the folds where none are asked for."""


def declare(
    table: str,
    data: str,
    out: Path,
    *,
    preset: str = "paper",
    settings: Sequence[str] = (),
    options: DataConfig = DataConfig(),
    scoring: Scoring = Scoring(at="label"),
) -> tuple[Campaign, dict[str, Any]]:
    """Return the campaign whose runs a table needs some of, and its declaration.

    Args:
        table: ``"table1"``, ``"table2"`` or ``"table3"``.
        data: a spec of the table's benchmark, or of the shapes world, to try the machinery.
        out: the campaign's folder.
        preset: ``"paper"`` or ``"smoke"``.
        settings: further settings of all networks and schedules, NAME=VALUE.
        options: which pictures and classes of the data.
        scoring: what predictions are compared with; drawn pictures, which have no size of their
            own, are always compared at the network's.

    Raises:
        InputError: no such table, preset or setting, or data of another kind.
    """
    if table not in BENCHMARKS:
        raise InputError(f"unknown table {table!r}; {nearest(table, BENCHMARKS)}")
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; {nearest(preset, PRESETS)}")
    for setting in settings:
        if setting.startswith("seed="):
            raise InputError(f"--set {setting}: a table is of trainings with seed 0; leave it out")
    with_settings(arm("published"), named_preset("paper"), settings)  # bad ones are named here
    benchmark = BENCHMARKS[table]
    kind = data.partition(":")[0]
    if kind not in (benchmark, "shapes"):
        raise InputError(
            f"{table} is {TITLES[benchmark]}, not {data}; give {benchmark}:PATH, or shapes to try the machinery"
        )
    if kind == "shapes":
        scoring = scoring.override({"at": "network"})
    declared = _checked_in(benchmark)
    if preset == "smoke":
        declared |= _checked_in("smoke")
    for place in declared["data"].values():
        place["spec"] = data
    for given in declared["arms"].values():
        own = given["set"] if preset == "paper" else []  # the paper's backbone
        given["set"] = [*own, *settings]
    declared["options"] = changed(options, DataConfig())
    declared["scoring"] = changed(scoring, Scoring())
    return Campaign.declared(out, declared), declared


def _checked_in(name: str) -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text(encoding="utf-8"))


def choose(campaign: Campaign, table: str, preset: str, folds: Sequence[int] = ()) -> Campaign:
    """Return the campaign with the runs of a table and of some folds alone.

    Args:
        campaign: what ``declare`` gave.
        table: as given there.
        preset: as given there.
        folds: 0..3, each once; default: the preset's. FSS-1000 has none.

    Raises:
        InputError: a fold that does not exist or is asked for twice.
    """
    if folds and BENCHMARKS[table] == "fss1000":
        raise InputError("--folds: FSS-1000 has no folds; leave it out")
    for fold in folds:
        if fold not in range(len(FOLDS)) or list(folds).count(fold) > 1:
            raise InputError(f"--folds {' '.join(map(str, folds))}: give each of 0..3 at most once")
    arms = {row.arm for row in TABLES[table]}
    wanted = set(folds or PRESETS[preset])
    runs = tuple(run for run in campaign.runs if run.arm in arms and run.fold in wanted)
    return replace(campaign, runs=runs)


def write_declaration(campaign: Campaign, declared: Mapping[str, Any]) -> None:
    """Write ``campaign.toml``, so that ``fss ablate`` reads it.

    Raises:
        InputError: the folder cannot be written, or another process works there.
    """
    path = campaign.folder / DECLARATION
    check_writable(path)
    lines = ["# Declared by fss reproduce, which makes the runs of a table; fss ablate makes all."]
    tables = {key: value for key, value in declared.items() if isinstance(value, dict)}
    lines += [_toml(key, value) for key, value in declared.items() if key not in tables]
    for key, entries in tables.items():
        nested = {f"{key}.{name}": e for name, e in entries.items() if isinstance(e, dict)}
        for name, entry in (nested or {key: entries}).items():
            lines += ["", f"[{name}]", *(_toml(*item) for item in entry.items())]
    text = "".join(f"{line}\n" for line in lines)
    try:
        content = text.encode()
        sound = tomllib.loads(text) == declared
    except ValueError:  # of TOML, or a path that is not UTF-8
        sound = False
    if not sound:
        raise InputError(f"{path}: a name among the settings cannot be written; rename that folder")
    with held(campaign.folder):
        write_atomically(path, content)


def changed(settings: Any, default: Any) -> dict[str, Any]:
    """Return the settings that are not as by default."""
    usual = default.to_json()
    return {key: value for key, value in settings.to_json().items() if value != usual[key]}


def _toml(key: str, value: Any) -> str:
    return f"{key} = {json.dumps(value, ensure_ascii=False)}"
