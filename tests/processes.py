"""The command line in processes of its own, each without the seconds that importing torch takes.

They are forked from one process that has imported everything and done nothing: real processes, that
take real signals, with exit code and output as of ``python -m fss``.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["fss.__main__", "fss.lab.check", "fss.predict", "fss.train", "timm"])
PATIENCE = 240  # seconds; only a hanging test takes that long


def _main(args: Sequence[str], out: str, err: str, environment: dict[str, str], patches: dict[str, Any]) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    # A process of a fork server starts its own workers by a server too, which imports torch anew.
    multiprocessing.set_start_method(None, force=True)
    for name, value in patches.items():
        module, _, attribute = name.rpartition(".")
        setattr(import_module(module), attribute, value)
    sys.stdout, sys.stderr = open(out, "w", buffering=1), open(err, "w", buffering=1)  # noqa: SIM115
    from fss.__main__ import main

    main(list(args))


class Fss:
    """A running ``fss``; its output lies in files, so that it can be read while it runs.

    Args:
        args: of the command line.
        folder: where its output goes.
        environment: further variables.
        patches: name -> what the process has under that name in place of the kit's own.
    """

    def __init__(
        self,
        *args: Any,
        folder: Path,
        environment: Mapping[str, str] = {},
        patches: Mapping[str, Any] = {},
    ) -> None:
        # The cache is this test's; the parent of all processes has the environment of the first.
        environment = {"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"], **environment}
        self.paths = folder / "stdout", folder / "stderr"
        for path in self.paths:
            path.write_text("")
        self.process = CONTEXT.Process(
            target=_main,
            args=([str(arg) for arg in args], *map(str, self.paths), environment, dict(patches)),
        )
        self.process.start()

    @property
    def out(self) -> str:
        return self.paths[0].read_text()

    @property
    def err(self) -> str:
        return self.paths[1].read_text()

    def wait_for(self, text: str) -> None:
        """Until ``text`` is on stdout; fails if the process ends first."""
        self.wait_until(lambda: text in self.out)

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Until something has happened; fails if the process ends first."""
        until = time.monotonic() + PATIENCE
        while not happened():
            assert self.process.is_alive() or happened(), f"ended early: {self.out}{self.err}"
            assert time.monotonic() < until, f"not in time: {self.out}{self.err}"
            time.sleep(0.005)

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> int:
        """Wait for the end; returns the exit code, -n for a process that signal n killed."""
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still running: {self.out}{self.err}")
        assert self.process.exitcode is not None
        return self.process.exitcode
