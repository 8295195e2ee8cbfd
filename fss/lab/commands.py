"""The lab's commands: ``fss predict | check | download | bench | compare | ablate | reproduce | replay``.

Importing this module registers them.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm.auto import tqdm

from fss.cli import (
    COMMANDS,
    SHARING,
    BackboneWeights,
    Data,
    Device,
    Fold,
    Import,
    Options,
    Quiet,
    Scored,
    Set,
    Workers,
    check_alone,
    import_modules,
    processes,
)
from fss.config import DataConfig, Scoring
from fss.errors import InputError, nearest

_help = tyro.conf.arg


@dataclass(frozen=True)
class Making:
    """How runs are made: the options that ablate and reproduce share."""

    jobs: Annotated[int, _help(help="runs at a time; -1 means one a core or a GPU, and one with a launcher")] = -1
    runs: Annotated[Path, _help(help="folder for weights and logs", metavar="PATH")] = Path("runs")
    launch: Annotated[
        str,
        _help(help="what starts each run, as in 'torchrun --nproc_per_node 2'", metavar="COMMAND"),
    ] = ""
    device: Device = "cpu"
    workers: Annotated[
        int,
        _help(help="processes that read pictures, of each run; -1 means none on a CPU, else up to 4"),
    ] = -1
    modules: Import = ()
    quiet: Quiet = False

    def how(self) -> dict[str, Any]:
        """What making one run takes."""
        workers = 0 if self.workers < 0 and self.device == "cpu" else processes(self.workers)
        return {"device": self.device, "workers": workers, "progress": not self.quiet}

    def make(self, folder: Path, weights: Path, names: Collection[str] | None = None) -> None:
        """Make the runs of a campaign, or those of some names."""
        from fss.lab.ablate import ablate

        launch = words_of(self.launch)
        jobs = jobs_of(self.jobs, self.device, self.launch)
        ablate(folder, runs=weights, jobs=jobs, launch=launch, modules=self.modules, names=names, **self.how())


Shared = Annotated[Making, _help(name="", help="how runs are made")]


def predict(
    support: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[Path, Path], ...]],
        _help(help="a labelled picture and its mask; of several classes NAME=IMAGE MASK", metavar="IMAGE MASK"),
    ],
    query: Annotated[Path, _help(help="the picture to segment, or a folder of pictures", metavar="IMAGE")],
    out: Annotated[
        Path,
        _help(help="the mask, a PNG of 0 and 255, or of the classes' numbers; a folder for a folder", metavar="MASK"),
    ],
    overlay: Annotated[
        Path | None, _help(help="a picture of the query under its mask, to look at", metavar="IMAGE")
    ] = None,
    checkpoint: Annotated[str, _help(help="a shipped name, a file, or a run's folder")] = "best-lite0-photos",
    size: Annotated[int | None, _help(help="side the pictures are fitted into; default: as trained")] = None,
    device: Device = "cpu",
    backbone_weights: BackboneWeights = None,
    modules: Import = (),
    quiet: Quiet = False,
) -> None:
    """Segment pictures by one or more labelled pictures of the same kind of object, or of several kinds."""
    import_modules(modules)
    from fss.checkpoint import load
    from fss.engine import check_device
    from fss.lab.label import label_files

    check_device(device)
    model = load(checkpoint, pretrained=backbone_weights or True).to(device)
    made = []
    for sound, line in label_files(model, support, query, out, size=size, overlay=overlay, progress=not quiet):
        tqdm.write(line, file=sys.stdout if sound else sys.stderr)
        made.append(sound)
    sys.exit(0 if all(made) else 1)


def check(
    data: Data = "shapes",
    fold: Fold = 0,
    size: Annotated[int, _help(help="side of the pictures")] = 224,
    options: Options = DataConfig(),
    workers: Workers = -1,
    quiet: Quiet = False,
) -> None:
    """Read a whole data set and list every bad class, file and picture; exit code 1 if there is any."""
    from fss.lab.check import check_data

    notes, problems = check_data(
        data, fold=fold, size=size, options=options, workers=max(1, processes(workers)), progress=not quiet
    )
    print(*notes, sep="\n", end="\n" if notes else "")
    found = 0
    for found, problem in enumerate(problems, 1):  # noqa: B007
        print(problem)
    print(f"{data}: {f'{found} problem' + 's' * (found > 1) if found else 'every picture is sound'}")
    sys.exit(1 if found else 0)


def download(
    what: Annotated[
        str,
        _help(
            help="pascal5i (VOC 2012 and SBD, merged), fss1000 (how to get it), or the weights of "
            "resnet50, resnet101, vgg16_bn or resnet50_deep",
            metavar="NAME",
        ),
        tyro.conf.Positional,
    ],
    out: Annotated[
        Path | None,
        _help(help="folder for it; default: data, or torch's cache for weights", metavar="PATH"),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fetch a data set or ImageNet weights over https; goes on where it was cut, checks hashes."""
    from fss.lab.download import download as fetch

    print(fetch(what, out, progress=not quiet))


def bench(
    json: Annotated[  # noqa: A002
        Path | None, _help(help="write all measurements there", metavar="PATH")
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


def compare(
    a: Annotated[Path, _help(help="written by fss eval --json", metavar="A.json"), tyro.conf.Positional],
    b: Annotated[Path, _help(help="likewise, of the same episodes", metavar="B.json"), tyro.conf.Positional],
    json: Annotated[  # noqa: A002
        Path | None, _help(help="write the difference there", metavar="PATH")
    ] = None,
) -> None:
    """Give the difference of two measurements of the same episodes, with its interval."""
    from fss.files import check_writable, write_json
    from fss.lab.compare import compare as difference, lines

    if json is not None:
        check_writable(json)
    compared = difference(a, b)
    if json is not None:
        write_json(json, compared)
    print(*lines(compared), sep="\n")


def ablate(
    campaign: Annotated[
        Path,
        _help(help="folder with campaign.toml; gets the results", metavar="FOLDER"),
        tyro.conf.Positional,
    ],
    only: Annotated[str | None, _help(help="make this run, in this process", metavar="DATA/ARM-SEED")] = None,
    making: Shared = Making(),
) -> None:
    """Train and measure arms x seeds x data, as FOLDER/campaign.toml declares; resumable."""
    if only is None:
        check_alone()
    import_modules(making.modules)
    from fss.lab.ablate import CHILD, make_run, obey_parent
    from fss.lab.campaign import Campaign

    # A campaign gives its processes its own folder.
    weights = making.runs if CHILD in os.environ else making.runs / campaign.resolve().name
    if only is None:
        making.make(campaign, weights)
        return
    obey_parent()
    declared = Campaign.read(campaign)
    names = {run.name: run for run in declared.runs}
    if only not in names:
        raise InputError(f"--only {only}: not declared; {nearest(only, names)}")
    if only in declared.results():
        print(f"{declared.path(names[only])}: is there already; remove it to measure anew")
        return
    make_run(declared, names[only], weights, **making.how())


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
    making: Shared = Making(),
) -> None:
    """Make one of the paper's tables and set it beside the paper's numbers; resumable."""
    import_modules(making.modules)
    from fss.engine import check_device
    from fss.files import check_writable, write_atomically
    from fss.lab.paper_tables import table_of
    from fss.lab.plan import plan
    from fss.lab.reproduce import changed, choose, declare, write_declaration

    folder = out or Path("reproduced") / table
    settings = sum(set, ())
    whole, declared = declare(table, data, folder, preset=preset, settings=settings, options=options, scoring=scoring)
    campaign = choose(whole, table, preset, folds)
    names = [run.name for run in campaign.runs]
    weights = making.runs / folder.resolve().name
    check_writable(folder / f"{table}.md")
    done = whole.results()
    if dry_run:
        done = {name: done[name] for name in names if name in done}
        print(plan(campaign, done, weights, tflops), end="")
        return
    check_device(making.device)
    words_of(making.launch)  # before anything is written
    write_declaration(whole, declared)
    making.make(folder, weights, names)
    words = ["fss", "reproduce", table, "--data", data, "--preset", preset]
    words += ["--folds", *map(str, folds)] if folds else []
    words += ["--set", *settings] if settings else []
    words += [word for module in making.modules for word in ("--import", module)]
    for chosen, usual in ((options, DataConfig()), (scoring, Scoring(at="label"))):
        for name, value in changed(chosen, usual).items():
            option = f"--{name.replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
    text = table_of(table, preset, campaign, whole.results(), shlex.join(words))
    write_atomically(folder / f"{table}.md", text.encode())
    print(text, end="")


def replay(
    failed: Annotated[Path, _help(help="a run's nonfinite.safetensors", metavar="PATH"), tyro.conf.Positional],
    device: Device = "cpu",
    backbone_weights: BackboneWeights = None,
    modules: Import = (),
) -> None:
    """Repeat the training step that stopped a run because its loss was not finite."""
    import_modules(modules)
    from fss.lab.replay import replay as repeat

    loss = repeat(failed, device=device, pretrained=backbone_weights or True)
    print(f"{failed}: the loss is {loss:.6g} here, which is finite")


COMMANDS |= {
    "predict": predict,
    "check": check,
    "download": download,
    "bench": bench,
    "compare": compare,
    "ablate": ablate,
    "reproduce": reproduce,
    "replay": replay,
}
SHARING.add("ablate")  # one run of a campaign: --only


def jobs_of(count: int, device: str, launch: str) -> int:
    """Return the runs at a time, where a negative count leaves them to the machine."""
    if count < 0 and launch:  # whose processes share out what there is
        return 1
    if count < 0 and device != "cpu":
        import torch

        return max(1, torch.cuda.device_count()) if device == "cuda" else 1
    return processes(count) or 1


def words_of(launch: str) -> list[str]:
    """Return the words of a launcher's command; InputError where it cannot be started."""
    try:
        words = shlex.split(launch)
    except ValueError as error:
        raise InputError(f"--launch {launch}: not a command ({error})") from error
    if words and shutil.which(words[0]) is None:
        raise InputError(f"--launch {launch}: no program {words[0]!r} here; give its path")
    return words
