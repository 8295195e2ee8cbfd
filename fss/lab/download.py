"""Fetch VOC 2012 and SBD, safely unpacked; the command ``fss download``."""

import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from fss.data.voc import Voc
from fss.download import WEIGHTS, Source, check_room, fetch, weights_file
from fss.errors import InputError, nearest, one_line
from fss.files import held

LIMIT = 8 * 10**9  # bytes of what an archive holds: four times those published
MEMBERS = 100_000  # of an archive: twice those of VOC

FSS1000 = """\
FSS-1000 lies on a drive that forbids scripts. Get it with a browser:
1. Follow the link in https://github.com/HKUSTCV/FSS-1000, which is
   https://drive.google.com/open?id=16TgqOeI_0P41Eh3jWQlxlRXG9KIqtMgI
2. Unpack the archive. PATH is the folder that then holds 1,000 folders, one a class (abacus to
   zucchini), each with 1.jpg to 10.jpg and the masks 1.png to 10.png.
3. No hash is published, so read every file once: fss check --data fss1000:PATH
4. The lists of 520, 240 and 240 classes in common use come with HSNet
   (https://github.com/juhongm999/hsnet, data/splits/fss)."""

# The addresses and hashes are torchvision's (datasets/voc.py, datasets/sbd.py and its prototypes).
VOC = Source(
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
)
SBD = Source(
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    "6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
)
KNOWN = ("pascal5i", "fss1000", *WEIGHTS)


def download(what: str, out: Path | None = None, *, progress: bool = False) -> str:
    """Fetch what is missing of a data set or of a backbone's weights.

    Args:
        what: ``pascal5i`` (VOC 2012 and SBD, whose masks are merged when they are read), one of
            ``WEIGHTS``, or ``fss1000``.
        out: folder for it. Default: ``data`` for pascal5i (which gets ``data/VOCdevkit/VOC2012`` and
            ``data/benchmark_RELEASE/dataset/cls``), torch's cache for weights.
        progress: show bars.

    Returns:
        A sentence for the user: where it is now; for fss1000, how to get it.

    Raises:
        InputError: an unknown name, no network, a file that is not the published one, no room, or a
            folder in the way. What was fetched of a file stays as ``<name>.part`` to go on from.
    """
    if what not in KNOWN:
        raise InputError(f"cannot download {what!r}; {nearest(what, KNOWN)}")
    if what == "fss1000":
        return FSS1000
    if what in WEIGHTS:
        return f"{weights_file(what, out, progress=progress)}: the published ImageNet weights of {what}"
    folder = out or Path("data")
    with held(folder):
        for source, inner in ((VOC, "VOCdevkit/VOC2012"), (SBD, "benchmark_RELEASE/dataset/cls")):
            if not (folder / inner).exists():
                fetch(source, folder / source.name, progress=progress)
                unpack(folder / source.name, inner, folder)
    voc = Voc.find(folder / "VOCdevkit" / "VOC2012")
    return f"{voc.root}: VOC 2012 with {len(voc.labelled()):,} masks; next: fss check --data pascal5i:{voc.root}"


def unpack(archive: Path, inner: str, folder: Path) -> None:
    """Unpack the folder ``inner`` of a tar archive into ``folder``, whole or not at all.

    All members are checked before the first byte is written. Python's ``data`` filter refuses what
    would leave the folder; links are refused altogether, since some have deceived that filter.

    Raises:
        InputError: the archive is damaged or lacks ``inner``; or a member leaves the folder, is a
            link or a device, or brings the sum beyond ``LIMIT`` bytes or ``MEMBERS`` members; or
            the disk has no room.
    """
    if not hasattr(tarfile, "data_filter"):
        raise InputError("this Python unpacks archives unsafely; use 3.11.4 or newer")
    part = folder / f".{archive.name}.part"
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    try:
        with tarfile.open(archive) as tar:
            size = 0
            for number, member in enumerate(tar, 1):
                tarfile.data_filter(member, str(part))
                size += member.size
                if not (member.isfile() or member.isdir()):
                    raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder")
                if member.size < 0 or size > LIMIT or number > MEMBERS:
                    raise tarfile.TarError(f"{member.name!r} is beyond {LIMIT:,} bytes or {MEMBERS:,} members")
            wanted = [member for member in tar.getmembers() if PurePosixPath(member.name).is_relative_to(inner)]
            if not wanted:
                raise tarfile.TarError(f"it holds no {inner}")
            check_room(folder, sum(member.size for member in wanted))
            tar.extractall(part, wanted, filter="data")
        (folder / inner).parent.mkdir(parents=True, exist_ok=True)
        (part / inner).rename(folder / inner)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{archive}: not unpacked ({one_line(error)}); remove it and run again") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
