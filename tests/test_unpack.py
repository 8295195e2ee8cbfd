"""Archives written here: good, damaged and hostile; those refused leave nothing."""

import gzip
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from archives import GOOD, hole, names, special, tar

from fss.errors import InputError
from fss.lab import download as module
from fss.lab.download import unpack


def hostile(outside: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> archive that would write to the folder `outside`, or fill the disk; what is said."""
    leaves, special_file = "which is outside the destination", "is neither a file nor a folder"
    link = special("in/l", tarfile.SYMTYPE, str(outside))
    return {
        "above": (tar(GOOD, ("../outside/evil", b"!")), leaves),
        "above from within": (tar(GOOD, ("in/a/../../../outside/evil", b"!")), leaves),
        "symbolic link": (tar(GOOD, link, ("in/l/evil", b"!")), "'in/l' is a (symbolic )?link to an absolute path"),
        "link that stays": (tar(GOOD, special("in/l", tarfile.SYMTYPE, "a")), special_file),
        "hard link": (
            tar(GOOD, special("in/l", tarfile.LNKTYPE, "../outside/kept"), ("in/l", b"!")),
            "'in/l' would link to .*, which is outside the destination",
        ),
        "pipe": (tar(GOOD, special("in/p", tarfile.FIFOTYPE)), "'in/p' is a special file"),
        "device": (tar(GOOD, special("elsewhere", tarfile.CHRTYPE)), "'elsewhere' is a special file"),
        "10 GB of a hole": (hole("in/bomb", 10**10), "'in/bomb' is beyond 8,000,000,000 bytes"),
        "less than nothing": (
            special("in/bomb", tarfile.REGTYPE, size=-512).tobuf(tarfile.GNU_FORMAT) + bytes(1024),
            "'in/bomb' is beyond",
        ),
        "many": (tar(*[(f"in/{n}", b"") for n in range(60)]), "'in/50' is beyond .* 50 members"),
    }


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("case", hostile(Path()))
def test_a_hostile_archive_is_refused_and_writes_nothing(case, compressed, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MEMBERS", 50)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("as it was")
    content, message = hostile(outside)[case]
    archive = tmp_path / f"hostile.{'tgz' if compressed else 'tar'}"
    archive.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(InputError, match=message) as error:
        unpack(archive, "in", tmp_path)
    assert str(error.value).startswith(f"{archive}: not unpacked (") and "\n" not in str(error.value)
    assert names(tmp_path) == [archive.name, "outside", "outside/kept"]
    assert (outside / "kept").read_text() == "as it was"


def test_a_compressed_bomb_is_refused_without_being_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 10**7)
    bomb = tar(*[special(f"in/{n}", tarfile.REGTYPE, size=3 * 10**6) for n in range(4)])
    (tmp_path / "bomb.tgz").write_bytes(gzip.compress(bomb))
    assert (tmp_path / "bomb.tgz").stat().st_size < 10**5
    with pytest.raises(InputError, match="'in/3' is beyond 10,000,000 bytes"):
        unpack(tmp_path / "bomb.tgz", "in", tmp_path)
    assert names(tmp_path) == ["bomb.tgz"]


def test_only_the_folder_asked_for_is_unpacked(tmp_path):
    (tmp_path / ".x.tar.part" / "in").mkdir(parents=True)  # a process was killed
    (tmp_path / ".x.tar.part" / "in" / "half").touch()
    content = tar(special("in", tarfile.DIRTYPE), GOOD, ("./in/y", b"y"), ("inside/z", b"z"))
    (tmp_path / "x.tar").write_bytes(content)
    unpack(tmp_path / "x.tar", "in", tmp_path)
    assert names(tmp_path) == ["in", "in/a", "in/a/x.txt", "in/y", "x.tar"]
    assert (tmp_path / "in" / "a" / "x.txt").read_bytes() == b"good"


def test_an_absolute_path_lies_outside_the_folder_asked_for(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar(GOOD, (f"{tmp_path}/evil", b"!"), ("/in/evil", b"!")))
    unpack(tmp_path / "x.tar", "in", tmp_path)
    assert names(tmp_path) == ["in", "in/a", "in/a/x.txt", "x.tar"]


def damaged() -> dict[str, bytes]:
    whole = tar(GOOD, ("in/noise", np.random.default_rng(0).bytes(300_000)))
    first, second = gzip.compress(whole[:100_000]), gzip.compress(whole[100_000:])
    return {
        "cut": (first + second)[:-9000],
        "spoilt header": first + bytes(99) + b"spoilt",
        "spoilt content": first + second[:10] + b"\xff" + second[11:],
        "no archive": b"<html>not here</html>",
        "nothing": b"",
    }


@pytest.mark.parametrize("case", damaged())
def test_a_damaged_archive_leaves_nothing(case, tmp_path):
    (tmp_path / "x.tgz").write_bytes(damaged()[case])
    with pytest.raises(InputError, match=r"x\.tgz: not unpacked \(.*\); remove it and run again"):
        unpack(tmp_path / "x.tgz", "in", tmp_path)
    assert names(tmp_path) == ["x.tgz"]


def test_an_archive_of_something_else(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar(GOOD))
    with pytest.raises(InputError, match=r"x\.tar: not unpacked .TarError: it holds no inn.; remove it and run again"):
        unpack(tmp_path / "x.tar", "inn", tmp_path)
    assert names(tmp_path) == ["x.tar"]


def test_no_room_to_unpack(tmp_path, monkeypatch):
    (tmp_path / "x.tar").write_bytes(tar(GOOD))
    usage = shutil.disk_usage(tmp_path)._replace(free=3)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match="4 bytes are needed and 3 are free"):
        unpack(tmp_path / "x.tar", "in", tmp_path)
    assert names(tmp_path) == ["x.tar"]
