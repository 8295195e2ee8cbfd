"""Make the runs of a campaign: resumable, each result written whole or not at all.

The parent only starts processes and shows how far they are; each run is a separate process, which
trains, measures and writes its result. Whatever is interrupted goes on when asked again.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from fss.checkpoint import load, read_checkpoint
from fss.config import Scoring
from fss.data.dataset import Dataset
from fss.engine import check_device, start
from fss.episodes import check_shots
from fss.errors import InputError, Stopped
from fss.evaluate import evaluate, reference
from fss.features import CachedFeatures
from fss.files import expanded, held, write_atomically, write_json
from fss.lab.campaign import Campaign, check_code
from fss.lab.declaration import Run
from fss.lab.machine import describe, imported
from fss.leak import leaked
from fss.model import DANet
from fss.run import LAST, LOG, read_log
from fss.train import step_count, train

CODE = "code.json"  # beside a run's weights: the files it was begun with
CHILD = "FSS_RUN_OF_A_CAMPAIGN"  # set for the processes of a campaign
ERROR = "fss: error: "  # begins the line that says what a user has to correct
PATIENCE = 60.0  # seconds that a process has for its last checkpoint


def make_run(
    campaign: Campaign,
    run: Run,
    runs: Path,
    *,
    device: str = "cpu",
    workers: int = 0,
    progress: bool = False,
) -> None:
    """Train, measure on the test lists of every number of shots and on the controls, and write the result.

    Args:
        campaign: where the result goes.
        run: what to do; one that is interrupted goes on from its last checkpoint.
        runs: folder for the weights and logs of all runs.
        device: ``"cpu"``, ``"cuda"`` ...
        workers: processes that read pictures.
        progress: show bars.
    """
    out = runs / run.name
    machine, code = describe(), imported()  # now: the files may have changed when the training ends
    if run.trained:
        begun = out / CODE
        if begun.is_file():
            check_code(json.loads(begun.read_bytes()), code, str(out))
        else:
            out.mkdir(parents=True, exist_ok=True)
            write_json(begun, code)
    if run.trained:
        model = train(
            run.config,
            run.schedule,
            run.open_spec(),
            out,
            fold=run.train_fold,
            device=device,
            resume=True,
            workers=workers,
            progress=progress,
            options=run.options,
            skip_small_classes=run.skip_small_classes,
        )
    else:
        model = load(run.checkpoint) if run.checkpoint else DANet(run.config)
        model = model.to(start(device).device)
    predict = reference(run.arm, model) if run.reference else None
    rows = []
    for on, shots, support in run.asked:
        spec = run.spec if on is None else run.others[on]
        dataset = run.open(run.split, None if on is None else spec)
        own = on is None and support == "own"
        try:
            if support == "other":  # refused at once where a label says nothing of other classes
                name = dataset.classes[0]
                dataset.reader.read_other(name, dataset.images[name][0], name, dataset.size)
            episodes = run.episodes_of(dataset, on, shots, support)
        except InputError:
            if support == "own":
                raise
            continue  # there is no picture for this control
        row = evaluate(
            model,
            dataset,
            episodes,
            predict=predict,
            scoring=run.scoring if own else Scoring(),
            # Of one data set's own splits, its lists decide; the row names what they share.
            allow_leak=run.allow_leak or (on is None and run.trained and run.train_fold == run.fold),
            cache=run.schedule.cache,
            workers=workers,
            progress=progress,
        )
        rows.append({"name": run.arm, "on": on, **_without_paths(run, spec, row)})
    if int(os.environ.get("RANK", 0)) > 0:  # of several processes of a launcher, the first writes
        return
    record = {"settings": run.settings(), "machine": machine, "code": code, "rows": rows}
    if run.trained:
        seconds = read_checkpoint(out / LAST)[0]["trained"]["seconds"]  # of all sittings
        record |= {"log": read_log(out / LOG), "seconds": seconds}
    path = campaign.path(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(v)}" for key, v in record.items())
    write_atomically(path, f"{{\n{lines}\n}}\n".encode())


def _without_paths(run: Run, spec: str, row: dict[str, Any]) -> dict[str, Any]:
    """Put the declared specs where a measurement names the data, so that no private path enters a result."""
    _, _, declared = spec.partition(":")
    _, _, path = run.open_spec(spec).partition(":")
    notes = row["notes"]
    if path != declared:
        notes = [note.replace(str(expanded(path)), declared).replace(path, declared) for note in notes]
    trained = row["trained"] | ({"data": run.spec} if run.trained else {})
    return {**row, "data": spec, "notes": notes, "trained": trained}


def ablate(
    folder: Path,
    *,
    runs: Path,
    jobs: int,
    device: str = "cpu",
    workers: int = 0,
    launch: Sequence[str] = (),
    modules: Sequence[str] = (),
    names: Collection[str] | None = None,
    progress: bool = True,
) -> None:
    """Make all runs of ``folder`` that have no result yet, ``jobs`` at a time.

    Args:
        folder: holds ``campaign.toml``, and gets the results.
        runs: folder for weights and logs; where runs are resumed from.
        jobs: runs at a time, each on one core.
        device: ``"cpu"``, or ``"cuda"``, of which each run at a time gets one.
        workers: processes that read pictures, of each run.
        launch: words of a command that starts a Python module in one or several processes, as
            ``torchrun --nproc_per_node 2`` does; default: this Python.
        modules: to import in each run's process, for what they register.
        names: of the runs to make; default: all.
        progress: show a bar of all steps with the time left.

    Raises:
        InputError: a bad declaration, results of other settings, or a run that failed.
        Stopped: SIGINT or SIGTERM came; the same command goes on.
    """
    campaign = Campaign.read(folder)
    check_device(device)

    def command(run: Run, slot: int) -> list[str]:
        """What makes a run; of those at a time, each has a slot from 0 on."""
        own = f"{device}:{slot}" if device == "cuda" and jobs > 1 and not launch else device
        words = [*(launch or [sys.executable]), "-m", "fss", "ablate", str(folder), "--only", run.name]
        words += ["--runs", str(runs), "--device", own, "--workers", str(workers), "--quiet"]
        return words + [word for module in modules for word in ("--import", module)]

    with held(folder):
        done = campaign.results()
        for result in done.values():
            check_code(result.record.get("code", {}), imported(), str(campaign.path(result.run)))
        if names is not None:
            campaign = replace(campaign, runs=tuple(run for run in campaign.runs if run.name in names))
        # All arms of one seed before the next seed: an interrupted campaign is a smaller one.
        left = sorted((run for run in campaign.runs if run.name not in done), key=lambda run: run.seed)
        if left:
            _check_and_warm(left, device, max(jobs, workers), progress)
        _make_all(campaign, left, runs, jobs, command, progress)


def obey_parent() -> None:
    """End this process as by SIGTERM when a campaign that started it ends, whatever ended that."""
    if CHILD not in os.environ:
        return

    def watch() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


class Needed(NamedTuple):
    """Pictures that runs read; ``spec`` is that of other data that they are measured on, None for their own."""

    run: Run
    split: str
    spec: str | None

    def open(self) -> Dataset:
        """Open them."""
        return self.run.open(self.split, self.spec)


def needed(runs: Iterable[Run]) -> list[Needed]:
    """Return what runs read, each once: where they cache features, each is a cache."""
    found: dict[tuple[Any, ...], Needed] = {}
    for run in runs:
        masked = run.config.prior == "masked_input"
        own = dict.fromkeys(("train", "val", run.split) if run.trained else (run.split,))
        other = [(run.split, spec) for spec in run.others.values()]
        for split, spec in [*((split, None) for split in own), *other]:
            key = (
                run.spec,
                spec,
                split,
                run.fold if split == run.split else run.train_fold,
                run.options,
                run.scoring,
                run.schedule.size,
                run.config.backbone,
                masked,
                run.schedule.cache,
            )
            found.setdefault(key, Needed(run, split, spec))
    return list(found.values())


def _check_and_warm(left: Sequence[Run], device: str, workers: int, progress: bool) -> None:
    """Open all data before the first run starts, and extract the features that runs share."""
    for run in {(run.data, run.train_fold): run for run in left if run.trained and not run.allow_leak}.values():
        foreign = [None] if run.train_fold != run.fold else []
        for spec in [*foreign, *run.others.values()]:
            leak = leaked({"classes": run.open("train").classes}, run.open(run.split, spec))
            if leak:
                raise InputError(
                    f"{run.data}, {f'also {spec}' if spec else f'fold {run.fold}'}: a leak, {', '.join(leak[:5])} "
                    f"being among the training classes; take other data, or set allow_leak = true for {run.arm}"
                )
    backbones = set()
    for pictures in needed(left):
        run, split, other = pictures
        dataset = pictures.open()
        if other is not None:
            check_shots(dataset, 1)
        elif split == run.split:
            check_shots(dataset, max(run.shots))
            if run.scoring != Scoring():  # whether there are labels of their own size
                first = dataset.classes[0]
                dataset.reader.own_mask(first, dataset.images[first][0])
        if run.schedule.cache:
            model = DANet(run.config).to(device)
            CachedFeatures(model, dataset, workers=workers, progress=progress)
        elif run.config.backbone not in backbones:  # whether its weights are there
            backbones.add(run.config.backbone)
            DANet(run.config)


def _make_all(
    campaign: Campaign,
    left: Sequence[Run],
    runs: Path,
    jobs: int,
    command: Callable[[Run, int], list[str]],
    progress: bool,
) -> None:
    steps = {run.name: steps_of(run) for run in campaign.runs}
    total, waiting = sum(steps.values()), list(left)
    finished = total - sum(steps[run.name] for run in left)
    running: dict[int, tuple[Run, subprocess.Popen[bytes]]] = {}  # by slot
    bar = tqdm(
        total=total, initial=finished, desc=campaign.folder.name, unit="step", disable=not progress, dynamic_ncols=True
    )
    with bar, tempfile.TemporaryDirectory() as said, _ended_together(running):
        while waiting or running:
            for slot in range(jobs):
                if slot in running and running[slot][1].poll() is not None:
                    run, process = running.pop(slot)
                    if process.returncode:
                        raise InputError(f"{run.name}: {_reason(process.returncode, Path(said) / str(slot))}")
                    finished += steps[run.name]
                    if progress:
                        bar.write(f"{run.name}: done")
                if waiting and slot not in running:
                    run = waiting.pop(0)
                    running[slot] = run, _start(command(run, slot), Path(said) / str(slot))
            names = [run.name for run, _ in running.values()]
            bar.set_postfix_str(", ".join(names), refresh=False)
            bar.update(finished + sum(logged(runs / name) for name in names) - bar.n)
            time.sleep(0.2)


def _start(command: Sequence[str], said: Path) -> subprocess.Popen[bytes]:
    """Start a run; what it says goes to a file, which no length can fill up as it does a pipe."""
    # Its own session: Ctrl-C reaches only us, and we pass it on. It watches its stdin for our end.
    with said.open("wb") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", CHILD: "1"},
        )


def _reason(code: int, said: Path) -> str:
    """Why a run failed: the kit's own line, around which a launcher draws a box, or the last."""
    lines = said.read_text(errors="replace").splitlines()
    own = [line for line in lines if line.startswith(ERROR)]
    last = [line for line in lines if line.strip("= ")]
    return (own or last or [f"ended with {code}"])[-1].removeprefix(ERROR)


@contextmanager
def _ended_together(running: Mapping[int, tuple[Run, subprocess.Popen[bytes]]]) -> Iterator[None]:
    """Whatever ends the campaign ends its processes, each with a checkpoint."""
    try:
        yield
    except BaseException as error:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
        if isinstance(error, KeyboardInterrupt):
            number = error.number if isinstance(error, Stopped) else signal.SIGINT
            raise Stopped(f"stopped by {signal.Signals(number).name}; the same command goes on", number) from None
        raise


def steps_of(run: Run) -> int:
    """Return the optimiser steps of a run, for which its data may have to be opened."""
    if not run.trained:
        return 0
    return run.schedule.steps or step_count(run.schedule, run.open("train"))


def logged(out: Path) -> int:
    """Return the last step in a run's log; 0 without a log."""
    try:
        return int(read_log(out / LOG)[-1]["step"])
    except (OSError, IndexError, InputError):
        return 0
