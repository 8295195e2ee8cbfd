"""The command line: ``fss train | eval``.

A command is a function in ``COMMANDS``; its parameters are its options. ``fss.lab.commands`` adds
the lab's, and ``fss.__main__`` puts the two together. Heavy imports wait until a command runs, so
that ``fss --help`` answers at once.
"""

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import tyro

from fss.config import ARMS, DataConfig, Scoring, arm as named_arm, preset as named_preset, with_settings
from fss.errors import InputError, Stopped, nearest, on_signals, one_line

_help = tyro.conf.arg
Data = Annotated[
    str,
    _help(
        help="shapes, shapes:KNOB=VALUE,..., folder:PATH, semantic:PATH, fss1000:PATH or pascal5i:PATH", metavar="SPEC"
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
Import = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    _help(name="import", help="a Python module to import first, which registers your own modules", metavar="MODULE"),
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
    modules: Import = (),
    quiet: Quiet = False,
) -> None:
    """Train a network on a fold's training classes; keep the best and the last weights."""
    import_modules(modules)
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
        workers=processes(workers),
        progress=not quiet,
        skip_small_classes=skip_small_classes,
        options=options,
        accumulate=accumulate,
    )
    if _is_main_process():
        print(
            f"{out}/best.safetensors: validation mIoU {100 * model.trained['best']:.1f}, "
            f"at step {model.trained['step']}"
        )


def eval(  # noqa: A001
    checkpoint: Annotated[
        str,
        _help(
            help="a shipped name, a file, a run's folder, or a reference, which needs no training: all-foreground, "
            "prototype, prototypes:P, em:P, superpixels:P (P of them, say 8), nearest, attended; NAME@DELTA moves its "
            "threshold"
        ),
    ] = "intended-lite0-shapes",
    data: Data = "shapes",
    split: Annotated[str, _help(help="train, val or test")] = "test",
    fold: Fold = 0,
    options: Options = DataConfig(),
    scoring: Scored = Scoring(),
    support: Annotated[
        Literal["own", "absent", "other"],
        _help(help="of which class the supports are: the query's, one that it does not show, or another that it shows"),
    ] = "own",
    allow_leak: Annotated[bool, _help(help="measure a checkpoint also on classes that it was trained on")] = False,
    shots: Annotated[int | None, _help(help="support pictures an episode; default: 1")] = None,
    episodes: Annotated[int | None, _help(help="episodes of the list; default: 1000")] = None,
    seed: Annotated[int | None, _help(help="of the episode list; default: 0")] = None,
    ways: Annotated[int | None, _help(help="classes that each query is asked for at once; default: 1")] = None,
    size: Annotated[int | None, _help(help="side of the pictures; default: as the checkpoint was trained")] = None,
    list: Annotated[  # noqa: A002
        Path | None, _help(help="evaluate this saved list instead", metavar="PATH")
    ] = None,
    save_list: Annotated[Path | None, _help(help="write the episode list there", metavar="PATH")] = None,
    json: Annotated[  # noqa: A002
        Path | None, _help(help="write all results there", metavar="PATH")
    ] = None,
    skip_small_classes: SkipSmallClasses = False,
    cache: Annotated[bool, _help(help="extract the features anew, without the cache on disk")] = True,
    device: Device = "cpu",
    workers: Workers = -1,
    backbone: Annotated[
        str | None, _help(help="of a reference: efficientnet_lite1, resnet50, timm:NAME ...", metavar="NAME")
    ] = None,
    backbone_weights: BackboneWeights = None,
    modules: Import = (),
    quiet: Quiet = False,
) -> None:
    """Measure mIoU and FB-IoU over a fixed list of episodes."""
    import_modules(modules)
    from fss.evaluate import evaluate_checkpoint, summary
    from fss.files import check_writable, write_json

    for path in (save_list, json):
        if path is not None:
            check_writable(path)
    result = evaluate_checkpoint(
        checkpoint,
        data,
        split=split,
        fold=fold,
        options=options,
        scoring=scoring,
        allow_leak=allow_leak,
        asked={"shots": shots, "episodes": episodes, "seed": seed, "ways": ways},
        support=support,
        size=size,
        saved=list,
        save_list=save_list,
        skip_small_classes=skip_small_classes,
        cache=cache,
        device=device,
        workers=processes(workers),
        backbone=backbone,
        pretrained=backbone_weights or True,
        progress=not quiet,
    )
    if _is_main_process():
        if json is not None:
            write_json(json, result)
        print(*summary(result), sep="\n")


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "eval": eval,
}
SHARING = {"train", "eval"}  # whose work several processes may share; the other commands refuse a launcher


def import_modules(names: Sequence[str]) -> None:
    """Import modules by name, also from the current folder, for what they register.

    Raises:
        InputError: there is no such module, or running it fails; one line says how.
    """
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file here must not stand in for an installed module
    for name in names:
        try:
            import_module(name)
        except (Exception, SystemExit) as error:
            raise InputError(
                f"--import {name}: {one_line(error)}; give the name of a module of this folder, of PYTHONPATH or "
                f"installed, without .py, for which `python -c 'import {name}'` works"
            ) from error


def processes(count: int) -> int:
    """Return ``count``, or of a negative one the number of cores that we may use, at most 4."""
    if count >= 0:
        return count
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, usable)


def check_alone() -> None:
    """Raise ``InputError`` where a launcher started several processes of a command that does not share its work."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError(
            "only train, eval and a campaign's single runs share their work among several "
            "processes; use no launcher (ablate and reproduce take one by --launch)"
        )


def main(args: list[str] | None = None) -> None:
    """Run the command line; on bad input it says on stderr what is wrong, and the exit code is 2."""
    # Threads that spin while they wait slow everything on busy cores; read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    args = sys.argv[1:] if args is None else args
    if sys.stdout is None:  # closed by who called us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know all names
    try:
        with on_signals(_stop, signal.SIGTERM):
            if args and not args[0].startswith("-") and args[0] not in COMMANDS:
                raise InputError(f"unknown command {args[0]!r}; {nearest(args[0], COMMANDS)}")
            if not SHARING.intersection(args[:1]):
                check_alone()
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                args=args,
                prog="fss",
                description="Few-shot segmentation with attention: train, measure, use.",
                config=(tyro.conf.FlagCreatePairsOff,),
            )
            sys.stdout.flush()
    except InputError as error:
        _end(2, f"error: {error}")
    except (RuntimeError, MemoryError) as error:
        # Python's, torch's CUDA or its CPU allocator has no more; torch need not be loaded.
        if type(error).__name__ in ("MemoryError", "OutOfMemoryError") or "not enough memory" in str(error):
            _end(
                2,
                "error: out of memory; give the device back what others hold, or ask for less: a "
                "smaller --set size= or batch=, fewer shots, or, to train, --accumulate 2",
            )
        if not (type(error).__name__.startswith("Dist") or "gloo" in str(error)):
            raise
        _end(
            2,
            f"error: another of the processes has ended or does not answer ({one_line(error)}); see what it "
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


def _stop(number: int, _: FrameType | None) -> None:
    """Let SIGTERM end the work as Ctrl-C does, so that what is half-written is tidied up."""
    raise Stopped(f"stopped by {signal.Signals(number).name}", number)
