"""The paper's tables as campaigns: which trainings each needs, and how they are measured.

Tables 1 and 3 are of the same trainings, so that they share a declaration, and one that is made
after the other into the same folder goes on from it.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fss.config import DataConfig, Scoring, arm, with_settings
from fss.config import preset as named_preset
from fss.errors import InputError, nearest
from fss.files import check_writable, held, write_atomically
from fss.lab.campaign import DECLARATION, Campaign
from fss.lab.paper_tables import FOLDS, TABLES

TITLES = {"pascal5i": "Pascal-5i", "fss1000": "FSS-1000"}
BENCHMARKS = {"table1": "pascal5i", "table2": "fss1000", "table3": "pascal5i"}
ARMS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "pascal5i": {name: (name, "resnet50") for name in ("pfenet", "pca", "lda", "published")},
    "fss1000": {
        "published-vgg16": ("published", "vgg16_bn"),
        "published-resnet50": ("published", "resnet50"),
    },
}
"""The trainings of a benchmark: name -> arm and backbone."""
SHOTS = (1, 5)


class Preset(NamedTuple):
    """How much of the paper's protocol is run; the schedule is the paper's, but for ``settings``.

    Attributes:
        folds: that are run where none are asked for.
        lists: episode lists of each number of shots.
        episodes: of each list.
        settings: of network and schedule, NAME=VALUE.
        full: whether the backbones are the paper's.
    """

    folds: tuple[int, ...]
    lists: int
    episodes: int
    settings: tuple[str, ...]
    full: bool


PRESETS = {
    "paper": Preset((0, 1, 2, 3), 5, 1000, ("channels=256",), full=True),
    "smoke": Preset(
        (0, 1),
        1,
        100,
        (
            "steps=100",
            "val_every=50",
            "val_episodes=20",
            "size=128",
            "channels=16",
            "optimizer=adamw",
            "lr=0.004",
            "dropout=0.1",
            "iou_weight=1",
        ),
        full=False,
    ),
}


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
    benchmark, chosen = BENCHMARKS[table], PRESETS[preset]
    kind = data.partition(":")[0]
    if kind not in (benchmark, "shapes"):
        raise InputError(
            f"{table} is {TITLES[benchmark]}, not {data}; give {benchmark}:PATH, or shapes to try the machinery"
        )
    if kind == "shapes":
        scoring = scoring.override({"at": "network"})
    places = (
        {f"fold-{fold}": {"spec": data, "fold": fold} for fold in range(len(FOLDS))}
        if benchmark == "pascal5i"
        else {kind: {"spec": data}}
    )
    arms = {
        name: {"arm": own, "set": [*([f"backbone={net}"] if chosen.full else []), *settings]}
        for name, (own, net) in ARMS[benchmark].items()
    }
    declared = {
        "preset": "paper",
        "baseline": next(iter(arms)),
        "shots": list(SHOTS),
        "episodes": chosen.episodes,
        "lists": chosen.lists,
        "set": list(chosen.settings),
        "options": changed(options, DataConfig()),
        "scoring": changed(scoring, Scoring()),
        "data": places,
        "arms": arms,
    }
    return Campaign.declared(out, declared), declared


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
    wanted = set(folds or PRESETS[preset].folds)
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
