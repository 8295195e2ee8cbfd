"""Fetch ImageNet weights, and other published files: over https alone, resumed, checked.

The weights are those of torchvision and timm. They do not fetch them here, since their downloaders
have no time limit and begin anew after a break.
"""

import hashlib
import shutil
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib import request
from urllib.error import HTTPError

from tqdm.auto import tqdm

from fss.errors import InputError, one_line
from fss.files import held

TIMEOUT = 30  # seconds without an answer


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
            check_room(path.parent, missing)
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


def check_room(folder: Path, size: int) -> None:
    """Raise `InputError` where a folder's disk has no room for so many bytes."""
    if size > (free := shutil.disk_usage(folder).free):
        raise InputError(
            f"{folder}: {size:,} bytes are needed and {free:,} are free; make room, or choose another place with --out"
        )
