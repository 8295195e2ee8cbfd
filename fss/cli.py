"""The command line: ``fss train | eval | predict | check | bench | ablate | reproduce | ...``.

Heavy imports wait until a command runs, so that ``fss --help`` answers at once.
"""

import io
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields
from functools import partial, wraps
from inspect import signature
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import tyro

from fss.config import ARMS, DANetConfig, DataConfig, Scoring, with_settings
from fss.config import arm as named_arm
from fss.config import preset as named_preset
from fss.errors import InputError, Stopped, closest, nearest

_help = tyro.conf.arg
Data = Annotated[
    str,
    _help(
        help="shapes, shapes:KNOB=VALUE,..., folder:PATH, fss1000:PATH or pascal5i:PATH",
        metavar="SPEC",
    ),
]
# Their fields are options of the command itself: --lists, --classes ..., and --at, --void.
Options = Annotated[DataConfig, _help(name="", help="which pictures and classes")]
Scored = Annotated[Scoring, _help(name="", help="what predictions are compared with")]
Fold = Annotated[int, _help(help="0..3, the fold kept for the test; ignored by data without folds")]
Device = Annotated[str, _help(help="cpu, cuda, cuda:1, ...")]
Workers = Annotated[int, _help(help="processes that read pictures; -1 means one a core, at most 4")]
BackboneWeights = Annotated[Path | None, _help(help="file of the backbone's ImageNet weights", metavar="PATH")]
SkipSmallClasses = Annotated[bool, _help(help="leave out classes with fewer pictures than an episode needs")]
Set = Annotated[
    tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]],
    _help(help="other settings: --set channels=96 steps=4000", metavar="NAME=VALUE ..."),
]
Quiet = Annotated[bool, _help(help="no progress bars")]
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


def train(
    out: Annotated[Path, _help(help="folder of the run: weights and log", metavar="PATH")],
    data: Data = "shapes",
    preset: Annotated[str, _help(help="quick (minutes on two cores) or paper")] = "quick",
    arm: Annotated[str, _help(help=", ".join(ARMS))] = "published",
    fold: Fold = 0,
    seed: Annotated[int, _help(help="of weights, episodes, augmentation and dropout")] = 0,
    set: Set = (),  # noqa: A002
    options: Options = DataConfig(),
    resume: Annotated[
        bool, _help(help="go on with the run that --out holds, or start one where it holds none")
    ] = False,
    skip_small_classes: SkipSmallClasses = False,
    device: Device = "cpu",
    accumulate: Annotated[
        int, _help(help="parts that each process computes its share of a batch in, to save memory")
    ] = 1,
    workers: Workers = -1,
    backbone_weights: BackboneWeights = None,
    quiet: Quiet = False,
) -> None:
    """Train a network on a fold's training classes; keep the best and the last weights."""
    schedule = named_preset(preset).override({"seed": seed})
    config, schedule = with_settings(named_arm(arm), schedule, sum(set, ()))
    from fss.train import train as run

    model = run(
        config,
        schedule,
        data,
        out,
        fold=fold,
        device=device,
        pretrained=backbone_weights or True,
        resume=resume,
        workers=_workers(workers),
        progress=not quiet,
        skip_small_classes=skip_small_classes,
        options=options,
        accumulate=accumulate,
    )
    if not _is_main_process():
        return
    best, step = model.trained["best"], model.trained["step"]
    print(f"{out}/best.safetensors: validation mIoU {100 * best:.1f}, at step {step}")


def eval(  # noqa: A001
    checkpoint: Annotated[
        str,
        _help(help="a shipped name, a file, a run's folder, or one of the references all-foreground and prototype"),
    ] = "intended-lite0-shapes",
    data: Data = "shapes",
    split: Annotated[str, _help(help="train, val or test")] = "test",
    fold: Fold = 0,
    options: Options = DataConfig(),
    scoring: Scored = Scoring(),
    allow_leak: Annotated[bool, _help(help="measure a checkpoint also on classes that it was trained on")] = False,
    shots: Annotated[int | None, _help(help="support pictures an episode; default: 1")] = None,
    episodes: Annotated[int | None, _help(help="episodes of the list; default: 1000")] = None,
    seed: Annotated[int | None, _help(help="of the episode list; default: 0")] = None,
    size: Annotated[int | None, _help(help="side of the pictures; default: as the checkpoint was trained")] = None,
    list: Annotated[  # noqa: A002
        Path | None, _help(help="evaluate this saved list instead", metavar="PATH")
    ] = None,
    save_list: Annotated[Path | None, _help(help="write the episode list there", metavar="PATH")] = None,
    json: Annotated[  # noqa: A002
        Path | None, _help(help="write all figures there", metavar="PATH")
    ] = None,
    skip_small_classes: SkipSmallClasses = False,
    cache: Annotated[bool, _help(help="read features through the cache on disk")] = True,
    device: Device = "cpu",
    workers: Workers = -1,
    backbone_weights: BackboneWeights = None,
    quiet: Quiet = False,
) -> None:
    """Measure mIoU and FB-IoU over a fixed list of episodes."""
    from fss.checkpoint import load
    from fss.data import open_dataset
    from fss.engine import start
    from fss.episodes import EpisodeList, without_small_classes
    from fss.evaluate import REFERENCES, evaluate, reference
    from fss.files import check_writable, write_json
    from fss.model import DANet

    accelerator = start(device)
    for path in (save_list, json):
        if path is not None:
            check_writable(path)
    weights: Path | bool = backbone_weights or True
    if checkpoint in REFERENCES:
        model = DANet(DANetConfig.published(lda=False, pca=False), pretrained=weights)
        predict = reference(checkpoint, model)
    else:
        model, predict = load(checkpoint, pretrained=weights), None
    size = model.trained.get("size", 224) if size is None else size
    dataset = open_dataset(data, split=split, fold=fold, size=size, options=options)
    if list is None:
        k = 1 if shots is None else shots
        drawn_from = without_small_classes(dataset, k) if skip_small_classes else dataset
        episode_list = EpisodeList.sample(
            drawn_from, shots=k, episodes=1000 if episodes is None else episodes, seed=seed or 0
        )
    else:
        if skip_small_classes:
            raise InputError("--skip-small-classes is for a list that is drawn, not for --list")
        episode_list = EpisodeList.load(list)
        has = {
            "shots": len(episode_list[0].support) if len(episode_list) else 0,
            "episodes": len(episode_list),
            "seed": episode_list.source.get("seed"),
        }
        for name, asked in {"shots": shots, "episodes": episodes, "seed": seed}.items():
            if asked not in (None, has[name]):
                raise InputError(f"--{name} {asked}: the list {list} has {has[name]}, which stays; leave --{name} out")
    if save_list is not None and accelerator.is_main_process:
        episode_list.save(save_list)
    result = evaluate(
        model.to(accelerator.device),
        dataset,
        episode_list,
        predict=predict,
        scoring=scoring,
        allow_leak=allow_leak,
        cache=cache,
        workers=_workers(workers),
        progress=not quiet and accelerator.is_main_process,
    )
    if not accelerator.is_main_process:
        return
    result = {"checkpoint": checkpoint, "options": options.to_json(), **result}
    if json is not None:
        write_json(json, result)
    low, high = result["miou_interval"]
    missed = result["not_covered"]
    print(
        f"mIoU {100 * result['miou']:.1f} [{100 * low:.1f}, {100 * high:.1f}]   "
        f"FB-IoU {100 * result['fb_iou']:.1f}   {result['classes']} classes"
        f"{f' ({len(missed)} not covered)' if missed else ''}, "
        f"{result['episodes']} episodes of {result['shots']} shot, {data} {split}"
    )
    for note in result["notes"]:
        print(note)
    if result["leaked_classes"]:
        print(f"leak: the checkpoint was trained on {', '.join(result['leaked_classes'])}")
    elif result["leaked_classes"] is None:
        print("perhaps a leak: the checkpoint does not tell the classes it was trained on")


def predict(
    support: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[Path, Path], ...]],
        _help(help="a labelled picture and its mask", metavar="IMAGE MASK"),
    ],
    query: Annotated[Path, _help(help="the picture to segment", metavar="IMAGE")],
    out: Annotated[Path, _help(help="the mask, a PNG of 0 and 255", metavar="MASK")],
    checkpoint: Annotated[str, _help(help="a shipped name, a file, or a run's folder")] = "intended-lite0-shapes",
    size: Annotated[int | None, _help(help="side the pictures are fitted into; default: as trained")] = None,
    device: Device = "cpu",
    backbone_weights: BackboneWeights = None,
) -> None:
    """Segment a picture by one or more labelled pictures of the same kind of object."""
    if not support:
        raise InputError("--support: give at least one labelled picture, --support IMAGE MASK")
    from fss.checkpoint import load
    from fss.engine import check_device
    from fss.predict import predict_files

    check_device(device)
    model = load(checkpoint, pretrained=backbone_weights or True).to(device)
    side = model.trained.get("size", 224) if size is None else size
    share = predict_files(model, support, query, out, side)
    print(f"{out}: {100 * share:.1f} % of the picture is object")


def replay(
    failed: Annotated[Path, _help(help="a run's nonfinite.safetensors", metavar="PATH"), tyro.conf.Positional],
    device: Device = "cpu",
    backbone_weights: BackboneWeights = None,
) -> None:
    """Repeat the training step that stopped a run because its loss was not finite."""
    from fss.train import replay as repeat

    loss = repeat(failed, device=device, pretrained=backbone_weights or True)
    print(f"{failed}: the loss is {loss:.6g} here, which is finite")


def check(
    data: Data = "shapes",
    fold: Fold = 0,
    size: Annotated[int, _help(help="side of the pictures")] = 224,
    options: Options = DataConfig(),
    workers: Workers = -1,
    quiet: Quiet = False,
) -> None:
    """Read a whole data set and list every bad class, file and picture; exit code 1 if any is."""
    from fss.check import check_pictures
    from fss.data import open_whole, report

    problems: list[str] = []
    datasets = open_whole(data, fold=fold, size=size, options=options, problems=problems)
    notes = (note for dataset in datasets for note in dataset.notes)
    for line in dict.fromkeys(chain(report(data, options, problems), notes)):
        print(line)
    found = 0
    bad = check_pictures(datasets, workers=max(1, _workers(workers)), progress=not quiet)
    known = dict.fromkeys(problems)  # a folder's own comes with every split
    for problem in chain(known, (each for each in bad if each not in known)):
        print(problem)
        found += 1
    lines = "1 problem" if found == 1 else f"{found} problems"
    print(f"{data}: {lines if found else 'every picture is sound'}")
    sys.exit(1 if found else 0)


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
    """Make one of the paper's tables and set it beside the paper's figures; resumable."""
    from fss.engine import check_device
    from fss.files import check_writable, write_atomically
    from fss.lab.ablate import ablate as make
    from fss.lab.paper import table_of
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
    from fss.download import download as fetch

    print(fetch(what, out, progress=not quiet))


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "eval": eval,
    "predict": predict,
    "check": check,
    "bench": bench,
    "ablate": ablate,
    "reproduce": reproduce,
    "download": download,
    "replay": replay,
}


def main(args: list[str] | None = None) -> None:
    """Run the command line; bad input is one line on stderr and exit code 2."""
    # Threads that spin while they wait slow everything on busy cores; read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    args = sys.argv[1:] if args is None else args
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know all names
    try:
        with _termination_unwinds():
            if args and not args[0].startswith("-") and args[0] not in COMMANDS:
                raise InputError(f"unknown command {args[0]!r}; {nearest(args[0], COMMANDS)}")
            alone = args[:1] not in (["train"], ["eval"]) and "--only" not in args
            if int(os.environ.get("WORLD_SIZE", 1)) > 1 and alone:
                raise InputError(
                    "only train, eval and a campaign's single runs share their work among several "
                    "processes; use no launcher (ablate and reproduce take one by --launch)"
                )
            _parse(args)()
            sys.stdout.flush()
    except InputError as error:
        _end(2, f"error: {error}")
    except (RuntimeError, MemoryError) as error:
        if _is_out_of_memory(error):
            _end(
                2,
                "error: out of memory; give the device back what others hold, or ask for less: a "
                "smaller --set size= or batch=, fewer shots, or, to train, --accumulate 2",
            )
        if not (type(error).__name__.startswith("Dist") or "gloo" in str(error)):
            raise
        reason = str(error).partition("\n")[0]
        _end(
            2,
            f"error: another of the processes has ended or does not answer ({reason}); see what it "
            "says, and start all of them again by torchrun or accelerate launch",
        )
    except BrokenPipeError:  # `fss check | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)  # as if by SIGPIPE
    except OSError as error:  # whatever the disk or its permissions refuse elsewhere
        place = f"{error.filename}: " if error.filename else ""
        _end(2, f"error: {place}{error.strerror or error}; correct the path or its permissions")
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        _end(128 + number, str(error) or "interrupted")


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch's CUDA or its CPU allocator has no more; torch need not be loaded."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "not enough memory" in str(error)
    )


def _is_main_process() -> bool:
    """Whether this is the first, or only, of the processes that a launcher started."""
    return int(os.environ.get("RANK", 0)) == 0


def _end(code: int, message: str) -> None:
    if not _is_main_process():
        if code > 2:  # stopped, which the main process says
            sys.exit(code)
        time.sleep(3)  # it mostly says the same; the launcher then ends this one
    print(f"fss: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Let SIGTERM end the work as Ctrl-C does, so that what is half-written is tidied up."""

    def stop(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise Stopped(f"stopped by {name}", number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parse(args: list[str]) -> Callable[[], None]:
    """Return the call that the arguments ask for; what does not parse is an InputError."""

    def later(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
        @wraps(command)
        def bound(*values: Any, **named: Any) -> Callable[[], None]:
            return partial(command, *values, **named)

        return bound

    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                {name: later(command) for name, command in COMMANDS.items()},
                args=args,
                prog="fss",
                description="Few-shot segmentation with attention: train, measure, use.",
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as error:
        if not error.code:  # --help
            raise
        # tyro draws a box, of lines or of hyphens: a title, the reason, a rule, and advice.
        _, *lines = (line.strip("│ ") for line in said.getvalue().splitlines())
        parts = "\n".join(line if line.strip("─-╰╯") else "\0" for line in lines).split("\0")
        text = next((" ".join(part.split()) for part in parts if part.strip()), "").rstrip(" .")
        command = " ".join(["fss", *(name for name in args[:1] if name in COMMANDS)])
        text += _meant(text, args[0]) if args else ""
        text = re.sub(r"no type matching .*INT could be .* from (.*)", r"no whole number: \1", text)
        raise InputError(f"{text or 'arguments not understood'}; see {command} --help") from None


def _meant(text: str, command: str) -> str:
    """The option that an unrecognized one is probably a typo of, as the end of a sentence."""
    unknown = re.match(r"Unrecognized options: (--[\w-]+)", text)
    if not unknown or command not in COMMANDS:
        return ""
    options = []
    for name, option in signature(COMMANDS[command]).parameters.items():
        flat = isinstance(option.default, DataConfig | Scoring)
        names = [each.name for each in fields(option.default)] if flat else [name]
        no = "no-" if option.default is True else ""
        options += [f"--{no}{each.replace('_', '-')}" for each in names]
    match = closest(unknown[1], options)
    return f"; did you mean {match!r}?" if match else ""


def _jobs(count: int, device: str, launch: str) -> int:
    if count < 0 and launch:  # whose processes share out what there is
        return 1
    if count < 0 and device != "cpu":
        import torch

        return max(1, torch.cuda.device_count()) if device == "cuda" else 1
    return _workers(count) or 1


def _readers(count: int, device: str) -> int:
    return 0 if count < 0 and device == "cpu" else _workers(count)


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"--launch {command}: not a command ({error})") from error
    if words and shutil.which(words[0]) is None:
        raise InputError(f"--launch {command}: no program {words[0]!r} here; give its path")
    return words


def _workers(count: int) -> int:
    if count >= 0:
        return count
    if hasattr(os, "sched_getaffinity"):  # not the machine's cores, but those we may use
        return min(4, len(os.sched_getaffinity(0)))
    return min(4, os.cpu_count() or 1)
