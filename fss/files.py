"""Writing files whole or not at all, one process a folder, what a folder holds, and where caches lie."""

import glob
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EISDIR, ENOENT
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fss.errors import InputError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write beside ``path``, then rename: a reader sees the old file or the whole new one.

    Raises:
        InputError: the folder cannot be written, or the disk is full. The old file stays.
    """
    path = Path(path)
    with _as_input_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # a file of tempfile's would be private
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Find out before minutes of work, rather than after, whether a file can be written.

    Nothing is left behind, and missing folders on the way to ``path`` are not made.

    Raises:
        InputError: ``path`` is a folder, or no file can be made where it is to lie.
    """
    path = Path(path)
    with _as_input_error(path):
        if path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass


def remove_leftovers(path: str | Path) -> None:
    """Remove what ``write_atomically`` leaves of ``path`` where its process is killed."""
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        left.unlink(missing_ok=True)


@contextmanager
def held(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a folder, which is made where it is missing.

    The lock is the operating system's: it ends with the process, whatever ends that. On the way
    out, folders that were made here and are still empty go again.

    Raises:
        InputError: another process holds the folder and we do not ``wait`` for its end, or it cannot
            be written.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / ".lock")
    try:
        with _as_input_error(folder):
            if made:
                folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=-1 if wait else 0)
            except Timeout:
                raise InputError(
                    f"{folder}: another process is writing here; wait for its end, or choose another folder"
                ) from None
        try:
            yield
        finally:
            (folder / ".lock").unlink(missing_ok=True)  # while it is held: one that waits makes it anew
            lock.release()
    finally:
        with suppress(OSError):  # something was written: that folder and those around it stay
            for path in made:
                path.rmdir()


@contextmanager
def _as_input_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place or make room") from error


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def cache_folder() -> Path:
    """The kit's folder for what can be made again: ``$XDG_CACHE_HOME/fss`` or ``~/.cache/fss``.

    Raises:
        FileNotFoundError: no home folder is known, as in a container under any user's number.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fss"
    except RuntimeError as error:
        raise FileNotFoundError(ENOENT, "no home folder is known; set XDG_CACHE_HOME") from error


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, sorted; raises `InputError` if it cannot be read.

    Hidden ones are left out, and what systems leave in a tree: of archives, disks and network drives.
    """
    try:
        return sorted(
            name
            for name in os.listdir(folder)
            if not name.startswith(
                (".", "__MACOSX", "lost+found", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information")
            )
        )
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); correct its permissions") from error


def expanded(path: str | Path) -> Path:
    """Return an absolute path whose ``~`` or ``~user`` is replaced by that home folder.

    Raises:
        InputError: no such user, or one without a home folder.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise InputError(f"{path}: no home folder is known for its ~; write the whole path") from error
