"""Errors that a user can correct, a stop that a user asked for, and the hint that names the likely typo."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from types import FrameType


class InputError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do.

    The command line prints it as ``fss: error: ...`` and exits with 2; in a notebook it is the
    last line of the traceback.
    """


class Stopped(KeyboardInterrupt):
    """A signal ended the work; nothing half-written is left. The message says how to go on.

    Attributes:
        number: the signal; the command line exits with 128 + number, as a shell would report it.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


@contextmanager
def on_signals(handler: Callable[[int, FrameType | None], object], *numbers: signal.Signals) -> Iterator[None]:
    """Have signals call ``handler`` instead of what they do otherwise; outside the main thread, nothing changes."""
    main = threading.current_thread() is threading.main_thread()  # a notebook's kernel may run us in another
    before = {number: signal.signal(number, handler) for number in numbers if main}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``name`` is probably a typo of, or None.

    A name that begins with a known one, or the other way round, is meant rather than a similar one.
    """
    names = list(known)
    if len(name) > 2 and (same := [n for n in names if n.startswith(name) or name.startswith(n)]):
        names = same
    return next(iter(get_close_matches(name, names, n=1, cutoff=0.6)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: the known name nearest to ``name``, or all known names."""
    names = list(known)
    match = closest(name, names)
    return f"did you mean {match!r}?" if match else f"known: {', '.join(names)}"


def one_line(error: BaseException) -> str:
    """Return an error in one line: some messages are empty, a bare key, or a page."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
