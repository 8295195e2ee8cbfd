"""Fetch VOC 2012, SBD and ImageNet weights: over https alone, resumed, checked, safely unpacked.

torchvision's own downloaders tell where the files are. They do not fetch them here, since they try
plain http after a failure of https, begin anew after a break, and unpack whatever an archive holds.
"""

import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm.auto import tqdm

from fss.data.pictures import IGNORE
from fss.errors import InputError, nearest
from fss.files import held

LIMIT = 8 * 10**9  # bytes of a file, or of what an archive holds: four times those published
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
WEIGHTS = ("resnet50", "resnet101", "vgg16_bn", "resnet50_deep")
KNOWN = ("pascal5i", "fss1000", *WEIGHTS)


def download(what: str, out: Path | None = None, *, progress: bool = False) -> str:
    """Fetch what is missing of a data set or of a backbone's weights.

    Args:
        what: ``pascal5i`` (VOC 2012 and SBD, merged), one of ``WEIGHTS``, or ``fss1000``.
        out: folder for it. Default: ``data`` for pascal5i (which gets ``data/VOCdevkit/VOC2012``),
            torch's cache, where ``load_backbone`` looks, for weights.
        progress: show bars.

    Returns:
        What to tell the user: where it lies now; for fss1000, how to get it.

    Raises:
        InputError: an unknown name, no network, a file that is not the published one, no room, or a
            folder in the way. What was fetched of a file stays as ``<name>.part`` to go on from.
    """
    if what == "fss1000":
        return FSS1000
    if what == "pascal5i":
        folder = out or Path("data")
        with held(folder):
            return _pascal5i(folder, progress)
    if what not in WEIGHTS:
        raise InputError(f"cannot download {what!r}; {nearest(what, KNOWN)}")
    import torch

    source = weights_source(what)
    path = (out or Path(torch.hub.get_dir()) / "checkpoints") / source.name
    with held(path.parent):
        fetch(source, path, progress=progress)
    return f"{path}: the published ImageNet weights of {what}"


def weights_source(backbone: str) -> Source:
    """Where torchvision, or timm for resnet50_deep, publishes the weights of a backbone."""
    if backbone == "resnet50_deep":
        from timm.models import get_pretrained_cfg

        published: Any = get_pretrained_cfg("resnet50s.gluon_in1k")
    else:
        from torchvision.models import get_model_weights

        published = get_model_weights(backbone)["IMAGENET1K_V1"]
    _, _, sha256 = Path(published.url).stem.rpartition("-")  # as torch.hub reads such names
    return Source(published.url, sha256)


def _pascal5i(folder: Path, progress: bool) -> str:
    voc, sbd = folder / "VOCdevkit" / "VOC2012", folder / "SBD" / "cls"
    merged = voc / "SegmentationClassAug"
    if not merged.exists():
        for source, inner, place in (
            (VOC, "VOCdevkit/VOC2012", voc),
            (SBD, "benchmark_RELEASE/dataset/cls", sbd),
        ):
            if not place.exists():
                archive = folder / source.name
                fetch(source, archive, progress=progress)
                unpack(archive, inner, place)
        merge_sbd(voc, sbd, progress=progress)
    count = len(list(merged.glob("*.png")))
    return f"{voc}: VOC 2012 with {count:,} masks; next: fss check --data pascal5i:{voc}"


# --- files --------------------------------------------------------------------------------------


class _HttpsOnly(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if (scheme := urlsplit(newurl).scheme) != "https":
            raise HTTPError(req.full_url, code, f"leads to {scheme}, not https", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(source: Source, path: Path, *, progress: bool = False) -> None:
    """Fetch a file, or what is missing of it; nothing is asked where it lies there already.

    Args:
        source: an https address and the hash.
        path: where the file is to lie. What another program left there, cut short, is gone on from,
            and given back where it turns out to be something else.
        progress: show a bar.

    Raises:
        InputError: no answer, a redirection away from https, a file that ends early (the part stays
            as ``<path>.part``) or is not the published one (it is thrown away), another file where
            it is to lie, or no room.
    """
    if path.exists() and _is_published(path, source):
        return
    part = path.with_name(f"{path.name}.part")
    begun = path if path.exists() else part
    start = begun.stat().st_size if begun.exists() else 0
    found = 0  # bytes that were there under the file's own name
    other = f"{path}: is there, and is not the published file; move it away, and run again"
    with _answer(source.url, start, path) as answer:
        if begun is path:
            if answer.status == 416:
                raise InputError(other)
            if answer.status == 206:
                path.replace(part)
                found = start
        if answer.status != 416:  # nothing lies beyond the part: it is whole, or not of this file
            start *= answer.status == 206  # else the server begins anew
            missing = answer.length
            if missing is None or missing > LIMIT:
                told = "no size" if missing is None else f"{missing:,} bytes"
                raise InputError(f"{source.url}: announces {told}; {_by_hand(path)}")
            _check_room(path.parent, missing)
            with (
                part.open("ab" if start else "wb") as file,
                tqdm(
                    desc=path.name,
                    total=start + missing,
                    initial=start,
                    unit="B",
                    unit_scale=True,
                    disable=not progress,
                ) as bar,
            ):
                for block in _blocks(answer):
                    file.write(block)
                    bar.update(len(block))
            if (size := part.stat().st_size) < start + missing:
                raise InputError(
                    f"{source.url}: the connection ended after {size:,} of {start + missing:,} "
                    "bytes; run the same command again to go on from there"
                )
    if not _is_published(part, source):
        if found:
            os.truncate(part, found)
            part.replace(path)
            raise InputError(other)
        part.unlink()
        raise InputError(
            f"{source.url}: what came is not the published file (its SHA-256 does not begin with "
            f"{source.sha256[:8]}) and was thrown away; run again, or {_by_hand(path)}"
        )
    part.replace(path)


def _answer(url: str, start: int, path: Path) -> Any:
    """The answer to a request of all bytes from ``start`` on: status 200, 206 or 416."""
    request = Request(url, headers={"User-Agent": "fss"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return build_opener(_HttpsOnly).open(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and start:
            return error
        error.close()
        reason = f"{error.code} {error.reason}"
    except URLError as error:
        reason = str(getattr(error.reason, "strerror", None) or error.reason)
    except (OSError, HTTPException, ValueError) as error:  # a redirection may be no address at all
        reason = str(error) or type(error).__name__
    raise InputError(f"{url}: cannot be fetched ({reason[:200]}); check the network, or {_by_hand(path)}")


def _blocks(answer: Any) -> Iterator[bytes]:
    """What comes, until the end or a break; the length tells which it was."""
    try:
        while block := answer.read(1 << 20):
            yield block
    except (OSError, HTTPException):
        return


def _by_hand(path: Path) -> str:
    return f"get that file elsewhere, put it at {path}, and run again"


def _is_published(path: Path, source: Source) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(source.sha256)


def _check_room(folder: Path, size: int) -> None:
    if size > (free := shutil.disk_usage(folder).free):
        raise InputError(
            f"{folder}: {size:,} bytes are needed and {free:,} are free; make room, or choose another place with --out"
        )


# --- archives -----------------------------------------------------------------------------------


def unpack(archive: Path, inner: str, folder: Path) -> None:
    """Unpack the folder ``inner`` of a tar archive as ``folder``, whole or not at all.

    All members are looked at before the first byte is written. Only regular files are unpacked.

    Raises:
        InputError: the archive is damaged or lacks ``inner``; or a member leaves the folder, is a
            link or a device, or brings the sum beyond ``LIMIT`` bytes or ``MEMBERS`` members; or
            the disk has no room.
    """
    if not hasattr(tarfile, "data_filter"):
        raise InputError("this Python unpacks archives unsafely; use 3.11.4 or newer")
    try:
        with tarfile.open(archive, "r:gz" if archive.suffix == ".tgz" else "r:") as tar:
            wanted = []
            size = 0
            for number, member in enumerate(tar, 1):
                size += member.size
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    reason = "would leave the folder"
                elif not (member.isreg() or member.isdir()):
                    reason = "is neither a file nor a folder"
                elif member.size < 0 or size > LIMIT or number > MEMBERS:
                    reason = f"is beyond {LIMIT:,} bytes or {MEMBERS:,} members"
                else:
                    if member.isreg() and path.is_relative_to(inner):
                        wanted.append(member.replace(name=str(path.relative_to(inner)), deep=False))
                    continue
                raise InputError(
                    f"{archive}: not unpacked, since its member {member.name[:80]!r} {reason}; "
                    "remove the archive and run again"
                )
            if not wanted:
                raise InputError(f"{archive}: holds no {inner}; remove the archive and run again")
            folder.parent.mkdir(parents=True, exist_ok=True)
            _check_room(folder.parent, sum(member.size for member in wanted))
            with _whole(folder) as part:
                tar.extractall(part, wanted, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, BadGzipFile) as error:
        raise InputError(f"{archive}: damaged ({error}); remove it and run again") from error


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes ``folder`` in the end, or goes."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    part.mkdir()
    try:
        yield part
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


# --- VOC and SBD --------------------------------------------------------------------------------


def merge_sbd(voc: Path, sbd: Path, *, progress: bool = False) -> None:
    """Write ``SegmentationClassAug``: VOC's own masks, and SBD's of the pictures without one.

    So it is in common use (12,031 masks): VOC's masks have the border of 255 that SBD's lack.

    Args:
        voc: ``VOC2012`` of a VOCdevkit.
        sbd: SBD's folder ``cls`` of class masks, ``.mat`` as published or ``.png``.
        progress: show a bar.

    Raises:
        InputError: a part of VOC or all of SBD is missing, or a mask of SBD cannot be read or does
            not hold classes 0..20 (or 255).
    """
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        if not (voc / part).is_dir():
            raise InputError(f"{voc}: has no {part}; move that folder away and download it anew")
    own = {path.stem: path for path in (voc / "SegmentationClass").glob("[!.]*.png")}
    theirs = {path.stem: path for end in ("png", "mat") for path in sbd.glob(f"[!.]*.{end}")}
    for folder, masks in ((voc / "SegmentationClass", own), (sbd, theirs)):
        if not masks:
            raise InputError(f"{folder}: holds no masks; move that folder away and run again")
    with Image.open(next(iter(own.values()))) as mask:
        palette = mask.getpalette()
    with _whole(voc / "SegmentationClassAug") as merged:
        for name in tqdm(sorted(own | theirs), desc="SegmentationClassAug", disable=not progress):
            if name in own:
                shutil.copyfile(own[name], merged / f"{name}.png")
                continue
            image = Image.fromarray(_sbd_mask(theirs[name]))
            if palette:  # to be looked at: the indices are the same
                image.putpalette(palette)
            image.save(merged / f"{name}.png")


def _sbd_mask(path: Path) -> UInt8[np.ndarray, "H W"]:
    from scipy.io import loadmat

    try:
        if path.suffix == ".mat":
            mask = loadmat(path)["GTcls"][0]["Segmentation"][0]
        else:
            with Image.open(path) as image:
                mask = np.asarray(image)
        found = set(np.unique(mask))
        if mask.ndim != 2 or not found <= {*range(21), IGNORE}:
            raise ValueError("not one class of 0..20 a pixel")
    except Exception as error:  # scipy and Pillow raise a dozen kinds
        raise InputError(
            f"{path}: no mask of SBD ({str(error)[:100] or type(error).__name__}); unpack the archive again"
        ) from error
    return mask.astype(np.uint8)
