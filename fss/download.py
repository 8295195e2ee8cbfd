"""Fetch VOC 2012, SBD and ImageNet weights: over https alone, resumed, checked, safely unpacked.

The files are those of torchvision and timm. They do not fetch them here, since their downloaders
have no time limit, begin anew after a break, and unpack whatever an archive holds.
"""

import hashlib
import shutil
import tarfile
import zlib
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib import request
from urllib.error import HTTPError

from tqdm.auto import tqdm

from fss.errors import InputError, nearest, one_line
from fss.files import held

LIMIT = 8 * 10**9  # bytes of what an archive holds: four times those published
MEMBERS = 100_000  # of an archive: twice those of VOC
TIMEOUT = 30  # seconds without an answer

FSS1000 = """\
FSS-1000 lies on a drive that forbids scripts. Get it with a browser:
1. Follow the link in https://github.com/HKUSTCV/FSS-1000, which is
   https://drive.google.com/open?id=16TgqOeI_0P41Eh3jWQlxlRXG9KIqtMgI
2. Unpack the archive. PATH is the folder that then holds 1,000 folders, one a class (abacus to
   zucchini), each with 1.jpg to 10.jpg and the masks 1.png to 10.png.
3. No hash is published, so read every file once: fss check --data fss1000:PATH
4. The lists of 520, 240 and 240 classes in common use come with HSNet
   (https://github.com/juhongm999/hsnet, data/splits/fss)."""


class Source(NamedTuple):
    """A published file.

    Attributes:
        url: where it is.
        sha256: its SHA-256 in hexadecimal digits, or their beginning.
    """

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


# The addresses and hashes are torchvision's (datasets/voc.py, datasets/sbd.py and its prototypes).
VOC = Source(
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
)
SBD = Source(
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    "6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
)
# The file of a backbone's ImageNet weights (torchvision's IMAGENET1K_V1; of resnet50_deep timm's resnet50s) bears
# the first digits of its hash.
WEIGHTS = {
    "resnet50": Source("https://download.pytorch.org/models/resnet50-0676ba61.pth", "0676ba61"),
    "resnet101": Source("https://download.pytorch.org/models/resnet101-63fe2227.pth", "63fe2227"),
    "vgg16_bn": Source("https://download.pytorch.org/models/vgg16_bn-6c64b313.pth", "6c64b313"),
    "resnet50_deep": Source(
        "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1/"
        "gluon_resnet50_v1s-1762acc0.pth",
        "1762acc0",
    ),
}
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
    from fss.data.voc import Voc

    folder = out or Path("data")
    with held(folder):
        for source, inner in ((VOC, "VOCdevkit/VOC2012"), (SBD, "benchmark_RELEASE/dataset/cls")):
            if not (folder / inner).exists():
                fetch(source, folder / source.name, progress=progress)
                unpack(folder / source.name, inner, folder)
    voc = Voc.find(folder / "VOCdevkit" / "VOC2012")
    return f"{voc.root}: VOC 2012 with {len(voc.labelled()):,} masks; next: fss check --data pascal5i:{voc.root}"


def weights_file(backbone: str, folder: Path | None = None, *, progress: bool = False) -> Path:
    """Return the file of a backbone's published ImageNet weights, which is fetched if it is missing.

    Args:
        backbone: one of ``WEIGHTS``.
        folder: for the file; default: torch's cache.
        progress: show a bar.

    Raises:
        InputError: as of ``fetch``, or the folder cannot be written.
    """
    from torch.hub import get_dir

    source = WEIGHTS[backbone]
    path = (folder or Path(get_dir()) / "checkpoints") / source.name
    if not is_published(path, source.sha256):  # a folder that has the file may be read-only
        with held(path.parent, wait=True):  # for another process of the same training, which fetches it for both
            fetch(source, path, progress=progress)
    return path


def fetch(source: Source, path: Path, *, progress: bool = False) -> None:
    """Fetch a file, or what is missing of it; no server is asked for a file that is there already.

    Args:
        source: an https address and the hash.
        path: where the file is to lie; what was fetched of it so far lies at ``<path>.part``.
        progress: show a bar.

    Raises:
        InputError: no answer, a redirection away from https, a file that ends early (its part stays)
            or is not the published one (it is removed), another file at ``path``, or no room.
    """
    if is_published(path, source.sha256):
        return
    if path.exists():
        raise InputError(f"{path}: is there, and is not the published file; move it away, and run again")
    opener = request.OpenerDirector()  # without a handler of plain http, to which a server may redirect
    for handler in (
        request.ProxyHandler,
        request.HTTPSHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
        request.HTTPDefaultErrorHandler,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    part = path.with_name(f"{path.name}.part")
    begun = part.stat().st_size if part.exists() else 0
    asked = request.Request(source.url, headers={"User-Agent": "fss", "Range": f"bytes={begun}-"})
    try:
        with opener.open(asked, timeout=TIMEOUT) as answer:
            begun *= answer.status == 206  # else the server knows no ranges, and sends all of it
            missing = answer.length or 0
            _check_room(path.parent, missing)
            with (
                part.open("ab" if begun else "wb") as file,
                tqdm.wrapattr(
                    file, "write", begun + missing, desc=path.name, initial=begun, disable=not progress
                ) as counted,
            ):
                shutil.copyfileobj(answer, counted, 1 << 20)
                if file.tell() < begun + missing:
                    raise EOFError(f"the connection ended after {file.tell():,} of {begun + missing:,} bytes")
    except (OSError, HTTPException, EOFError) as error:
        if isinstance(error, HTTPError):
            error.close()
        if getattr(error, "code", None) != 416:  # which says that nothing is missing
            raise InputError(
                f"{source.url}: cannot be fetched ({one_line(error)}); check the network and run again to go on "
                f"from there, or get that file elsewhere and put it at {path}"
            ) from error
    if not is_published(part, source.sha256):
        part.unlink(missing_ok=True)
        raise InputError(
            f"{source.url}: what came is not the published file (its SHA-256 does not begin with "
            f"{source.sha256[:8]}) and was removed; run again, or get that file elsewhere and put it at {path}"
        )
    part.replace(path)


def is_published(path: Path, sha256: str) -> bool:
    """Whether a file is there and its SHA-256 begins with these digits."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256)


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
            _check_room(folder, sum(member.size for member in wanted))
            tar.extractall(part, wanted, filter="data")
        (folder / inner).parent.mkdir(parents=True, exist_ok=True)
        (part / inner).rename(folder / inner)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{archive}: not unpacked ({one_line(error)}); remove it and run again") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_room(folder: Path, size: int) -> None:
    if size > (free := shutil.disk_usage(folder).free):
        raise InputError(
            f"{folder}: {size:,} bytes are needed and {free:,} are free; make room, or choose another place with --out"
        )
