import errno
import os
import stat
from pathlib import Path

import pytest

from fss.errors import InputError
from fss.files import cache_folder, expanded, names_in, write_atomically, write_json


def test_writes_the_bytes_and_makes_the_folder(tmp_path):
    path = tmp_path / "a" / "b.bin"
    write_atomically(path, b"one")
    write_atomically(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["b.bin"]


def test_a_written_file_can_be_read_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, where):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, where, full)
    with pytest.raises(InputError, match="x: cannot be written .No space left on device.; choose"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_killed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("path", ["file/x", "file/folder/x", "folder"])
def test_a_place_that_cannot_be_written(tmp_path, path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"{path}: cannot be written") as error:
        write_atomically(tmp_path / path, b"new")
    assert "\n" not in str(error.value) and "None" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_json_is_readable(tmp_path):
    write_json(tmp_path / "x.json", {"name": "Möwe", "values": [1, 0.5]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text == '{\n "name": "Möwe",\n "values": [\n  1,\n  0.5\n ]\n}\n'


def test_cache_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fss"
    for unset in ("", None):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        if unset is not None:
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
        monkeypatch.setenv("HOME", "/home/someone")
        assert cache_folder() == Path("/home/someone/.cache/fss")


def test_a_home_folder_that_nobody_knows(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert expanded("~/x") == Path("/home/someone/x") and expanded("x") == Path.cwd() / "x"
    with pytest.raises(InputError, match=r"^~nobody_here/x: no home folder is known for its ~; write the whole path$"):
        expanded("~nobody_here/x")


def test_names_in_a_folder(tmp_path):
    for name in ("b", ".hidden", "a"):
        (tmp_path / name).touch()
    assert names_in(tmp_path) == ["a", "b"]
    with pytest.raises(InputError, match=r"a cannot be read \(Not a directory\)"):
        names_in(tmp_path / "a")
