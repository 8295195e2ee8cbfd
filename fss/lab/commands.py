"""The lab's commands: ``fss bench | ablate | reproduce``. Importing this module registers them."""

import os
import shlex
import shutil
from pathlib import Path
from typing import Annotated

import tyro

from fss.cli import COMMANDS, SHARING, Data, Device, Options, Quiet, Scored, Set, check_alone, processes
from fss.config import DataConfig, Scoring
from fss.errors import InputError, nearest

_help = tyro.conf.arg
Jobs = Annotated[int, _help(help="runs at a time; -1 means one a core or a GPU, and one with a launcher")]
Readers = Annotated[
    int,
    _help(help="processes that read pictures, of each run; -1 means none on a CPU, else up to 4"),
]
Runs = Annotated[Path, _help(help="folder for weights and logs", metavar="PATH")]
Launch = Annotated[
    str,
    _help(help="what starts each run, as in 'torchrun --nproc_per_node 2'", metavar="COMMAND"),
]


def bench(
    json: Annotated[  # noqa: A002
        Path | None, _help(help="write all figures there", metavar="PATH")
    ] = None,
    only: Annotated[
        str | None,
        _help(
            help="renderer, steps, floor, full_size, attention, queries, clicks or startup",
            metavar="NAME",
        ),
    ] = None,
) -> None:
    """Measure what the kit costs on this machine, in minutes."""
    from fss.files import check_writable, write_json
    from fss.lab.bench import measure, tables

    if json is not None:
        check_writable(json)
    result = measure(only)
    if json is not None:
        command = f"fss bench --only {only}" if only else "fss bench"
        write_json(json, {"command": command, **result})
    print(tables(result), end="")


def ablate(
    campaign: Annotated[
        Path,
        _help(help="folder with campaign.toml; gets the results", metavar="FOLDER"),
        tyro.conf.Positional,
    ],
    only: Annotated[str | None, _help(help="make this run, in this process", metavar="DATA/ARM-SEED")] = None,
    jobs: Jobs = -1,
    runs: Runs = Path("runs"),
    launch: Launch = "",
    device: Device = "cpu",
    workers: Readers = -1,
    quiet: Quiet = False,
) -> None:
    """Train and measure arms x seeds x data, as FOLDER/campaign.toml declares; resumable."""
    from fss.lab.ablate import CHILD, make_run, obey_parent
    from fss.lab.ablate import ablate as make
    from fss.lab.campaign import Campaign

    if only is None:
        check_alone()
    if CHILD not in os.environ:  # a campaign tells its processes its own folder
        runs = runs / campaign.resolve().name
    if only is None:
        make(
            campaign,
            runs=runs,
            jobs=_jobs(jobs, device, launch),
            device=device,
            workers=_readers(workers, device),
            launch=_words(launch),
            progress=not quiet,
        )
        return
    obey_parent()
    declared = Campaign.read(campaign)
    names = {run.name: run for run in declared.runs}
    if only not in names:
        raise InputError(f"--only {only}: not declared; {nearest(only, names)}")
    if only in declared.results():
        print(f"{declared.path(names[only])}: is there already; remove it to measure anew")
        return
    make_run(
        declared,
        names[only],
        runs,
        device=device,
        workers=_readers(workers, device),
        progress=not quiet,
    )


def reproduce(
    table: Annotated[str, _help(help="table1, table2 or table3", metavar="TABLE"), tyro.conf.Positional],
    data: Data,
    preset: Annotated[str, _help(help="paper, or smoke: minutes on two cores, to try the machinery")] = "paper",
    out: Annotated[
        Path | None,
        _help(help="folder of the results; default: reproduced/TABLE", metavar="FOLDER"),
    ] = None,
    folds: Annotated[tuple[int, ...], _help(help="of Pascal-5i, to run alone; default: all, or 0 and 1 in smoke")] = (),
    set: Set = (),  # noqa: A002
    options: Options = DataConfig(),
    scoring: Scored = Scoring(at="label"),
    dry_run: Annotated[bool, _help(help="print the runs, what is done, and what the rest takes; make nothing")] = False,
    tflops: Annotated[float, _help(help="what the GPU really does in a second, for the hours of --dry-run")] = 6.0,
    jobs: Jobs = -1,
    runs: Runs = Path("runs"),
    launch: Launch = "",
    device: Device = "cpu",
    workers: Readers = -1,
    quiet: Quiet = False,
) -> None:
    """Make one of the paper's tables and set it beside the paper's numbers; resumable."""
    from fss.engine import check_device
    from fss.files import check_writable, write_atomically
    from fss.lab.ablate import ablate as make
    from fss.lab.paper_tables import table_of
    from fss.lab.plan import plan
    from fss.lab.reproduce import changed, choose, declare, write_declaration

    folder = out or Path("reproduced") / table
    settings = sum(set, ())
    whole, declared = declare(table, data, folder, preset=preset, settings=settings, options=options, scoring=scoring)
    campaign = choose(whole, table, preset, folds)
    names = [run.name for run in campaign.runs]
    weights = runs / folder.resolve().name
    check_writable(folder / f"{table}.md")
    done = whole.results()
    if dry_run:
        done = {name: done[name] for name in names if name in done}
        print(plan(campaign, done, weights, tflops), end="")
        return
    check_device(device)
    started = _words(launch)
    write_declaration(whole, declared)
    make(
        folder,
        runs=weights,
        jobs=_jobs(jobs, device, launch),
        device=device,
        workers=_readers(workers, device),
        launch=started,
        names=names,
        progress=not quiet,
    )
    words = ["fss", "reproduce", table, "--data", data, "--preset", preset]
    words += ["--folds", *map(str, folds)] if folds else []
    words += ["--set", *settings] if settings else []
    for chosen, usual in ((options, DataConfig()), (scoring, Scoring(at="label"))):
        for name, value in changed(chosen, usual).items():
            option = f"--{name.replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
    text = table_of(table, preset, campaign, whole.results(), shlex.join(words))
    write_atomically(folder / f"{table}.md", text.encode())
    print(text, end="")


COMMANDS |= {"bench": bench, "ablate": ablate, "reproduce": reproduce}
SHARING.add("ablate")  # one run of a campaign: --only


def _jobs(count: int, device: str, launch: str) -> int:
    if count < 0 and launch:  # whose processes share out what there is
        return 1
    if count < 0 and device != "cpu":
        import torch

        return max(1, torch.cuda.device_count()) if device == "cuda" else 1
    return processes(count) or 1


def _readers(count: int, device: str) -> int:
    return 0 if count < 0 and device == "cpu" else processes(count)


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"--launch {command}: not a command ({error})") from error
    if words and shutil.which(words[0]) is None:
        raise InputError(f"--launch {command}: no program {words[0]!r} here; give its path")
    return words
