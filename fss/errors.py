"""One exception for everything that a user can mend, and the hint that names the likely typo."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and how to mend it.

    The command line prints it as ``fss: error: ...`` and exits with 2; in a notebook it is the
    last line of the traceback.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: the known name nearest to ``name``, or all known names."""
    names = list(known)
    match = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {match[0]!r}?" if match else f"known: {', '.join(names)}"
