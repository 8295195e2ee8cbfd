"""Make the runs of a campaign: one core a run, resumable, each result written whole or not at all.

The parent only starts processes and shows how far they are; each run is a process of its own, which
trains, measures and writes its result. Whatever is interrupted goes on when asked again.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from fss.campaign import Campaign, Run
from fss.data import open_dataset
from fss.episodes import EpisodeList
from fss.errors import InputError, Stopped
from fss.evaluate import REFERENCES, figures, network, tally_episodes
from fss.features import CachedFeatures
from fss.files import held, write_atomically
from fss.machine import describe
from fss.model import DANet
from fss.run import LOG
from fss.train import step_count, train

CHILD = "FSS_RUN_OF_A_CAMPAIGN"  # set for the processes of a campaign
PATIENCE = 60.0  # seconds that a process has for its last checkpoint


def make_run(campaign: Campaign, run: Run, runs: Path, *, progress: bool = False) -> None:
    """Train, measure on the test list of every number of shots, and write the result.

    Args:
        campaign: where the result goes.
        run: what to do; one that is interrupted goes on from its last checkpoint.
        runs: folder for the weights and logs of all runs.
        progress: show bars.
    """
    spec, out = run.open_spec(), runs / run.name
    machine = describe()  # now: the code on disk may have changed when the training ends
    start = time.perf_counter()
    if run.reference:
        model = DANet(run.config)
    else:
        model = train(
            run.config, run.schedule, spec, out, fold=run.fold, resume=True, progress=progress
        )
    trained = time.perf_counter() - start
    predict = REFERENCES[run.arm] if run.reference else network(model)
    dataset = open_dataset(spec, split="test", fold=run.fold, size=run.schedule.size)
    source = CachedFeatures(model, dataset, progress=progress)
    record: dict[str, Any] = {"settings": run.settings(), "machine": machine}
    measured, tallies = {}, {}
    lists: dict[int | str, str] = {}
    for k in run.shots:
        episodes = EpisodeList.sample(dataset, shots=k, episodes=run.episodes, seed=run.list_seed)
        tally = tally_episodes(predict, source, dataset, episodes.episodes, progress=progress)
        measured[k], tallies[k] = figures(tally, dataset.classes), tally.to_json()
        lists[k] = episodes.sha256
    also = {}
    for name, other in run.also.items():
        dataset = open_dataset(
            run.open_spec(other), split="test", fold=run.fold, size=run.schedule.size
        )
        episodes = EpisodeList.sample(dataset, shots=1, episodes=run.episodes, seed=run.list_seed)
        source = CachedFeatures(model, dataset, progress=progress)
        tally = tally_episodes(predict, source, dataset, episodes.episodes, progress=progress)
        also[name], lists[name] = tally.to_json(), episodes.sha256
    record |= {"figures": measured, "episodes_sha256": lists}
    if not run.reference:
        kept = {key: model.trained[key] for key in ("step", "best")}
        log = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
        record |= {"kept": kept, "log": log}
    record |= {"tallies": tallies} | ({"also": also} if also else {})
    record["seconds"] = {
        "train": round(trained, 1), "all": round(time.perf_counter() - start, 1)
    }  # fmt: skip
    path = campaign.path(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(v)}" for key, v in record.items())
    write_atomically(path, f"{{\n{lines}\n}}\n".encode())


def ablate(folder: Path, *, runs: Path, jobs: int, progress: bool = True) -> None:
    """Make all runs of ``folder`` that have no result yet, ``jobs`` at a time.

    Args:
        folder: holds ``campaign.toml``, and gets the results.
        runs: folder for weights and logs; where runs are resumed from.
        jobs: processes at a time, each on one core.
        progress: show a bar of all steps with the time left.

    Raises:
        InputError: a bad declaration, results of other settings, or a run that failed.
        Stopped: SIGINT or SIGTERM came; the same command goes on.
    """
    campaign = Campaign.read(folder)
    with held(folder):
        done = campaign.results()
        # All arms of one seed before the next seed: an interrupted campaign is a smaller one.
        left = sorted(
            (run for run in campaign.runs if run.name not in done), key=lambda run: run.seed
        )
        if left:
            _check_and_warm(left, jobs, progress)
        _make_all(campaign, left, runs, jobs, progress)


def obey_parent() -> None:
    """End this process as by SIGTERM when a campaign that started it ends, whatever ended that."""
    if CHILD not in os.environ:
        return

    def watch() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _check_and_warm(left: Sequence[Run], jobs: int, progress: bool) -> None:
    """Open all data before the first run starts, and extract the features that runs share."""
    seen = set()
    for run in left:
        spec, size = run.open_spec(), run.schedule.size
        splits = ("test",) if run.reference else ("train", "val", "test")
        masked = run.config.prior == "masked_input"
        for split in splits:
            mirrors = split == "train" and run.schedule.augment == "flip"
            key = (spec, split, run.fold, size, run.config.backbone, masked, mirrors)
            if key in seen or not run.schedule.cache:
                continue
            seen.add(key)
            dataset = open_dataset(spec, split=split, fold=run.fold, size=size)
            CachedFeatures(
                DANet(run.config), dataset, mirrors=mirrors, workers=jobs, progress=progress
            )


def _make_all(
    campaign: Campaign, left: Sequence[Run], runs: Path, jobs: int, progress: bool
) -> None:
    waiting = list(left)
    steps = {run.name: _steps(run) for run in campaign.runs}
    finished = sum(steps.values()) - sum(steps[run.name] for run in left)
    running: dict[str, subprocess.Popen[str]] = {}
    total = sum(steps.values())
    bar = tqdm(total=total, initial=finished, desc=campaign.folder.name, unit="step",
               disable=not progress, dynamic_ncols=True)  # fmt: skip
    with bar, _ended_together(running):
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                running[run.name] = _start(campaign, run, runs)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    finished += steps[name]
                    if process.returncode:
                        raise InputError(f"{name}: {_last_line(process)}")
                    if progress:
                        bar.write(f"{name}: done")
            now = finished + sum(_logged(runs / name) for name in running)
            bar.set_postfix_str(f"{', '.join(running)}", refresh=False)
            bar.update(now - bar.n)
            time.sleep(0.2)


def _start(campaign: Campaign, run: Run, runs: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fss", "ablate", str(campaign.folder), "--only", run.name,
               "--runs", str(runs), "--quiet"]  # fmt: skip
    # Its own session: Ctrl-C reaches only us, and we pass it on. It watches its stdin for our end.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", CHILD: "1"},
    )  # fmt: skip


@contextmanager
def _ended_together(running: dict[str, subprocess.Popen[str]]) -> Iterator[None]:
    """Whatever ends the campaign ends its processes, each with a checkpoint."""
    try:
        yield
    except BaseException as error:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
        if isinstance(error, KeyboardInterrupt):
            number = error.number if isinstance(error, Stopped) else signal.SIGINT
            raise Stopped(
                f"stopped by {signal.Signals(number).name}; the same command goes on", number
            ) from None
        raise


def _last_line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    lines = process.stderr.read().splitlines() or [f"ended with {process.returncode}"]
    return lines[-1].removeprefix("fss: error: ")


def _steps(run: Run) -> int:
    if run.reference:
        return 0
    if run.schedule.steps is not None:
        return run.schedule.steps
    dataset = open_dataset(run.open_spec(), split="train", fold=run.fold, size=run.schedule.size)
    return step_count(run.schedule, dataset)


def _logged(out: Path) -> int:
    """The last step that a run's log tells of."""
    try:
        return int(json.loads((out / LOG).read_text().splitlines()[-1])["step"])
    except (OSError, IndexError, ValueError):
        return 0
