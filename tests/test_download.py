"""Downloads from servers on 127.0.0.1: whole, cut short, hostile, and of archives written here."""

import hashlib
import io
import os
import shutil
import signal
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import GOOD, names, tar
from PIL import Image
from processes import Fss
from scipy.io import savemat
from timm.models import get_pretrained_cfg
from torchvision.models import get_model_weights

from fss.data.voc import Voc
from fss.download import WEIGHTS, Source, fetch, weights_file
from fss.errors import InputError
from fss.files import held
from fss.lab import download as lab
from fss.lab.download import KNOWN, download

CERTIFICATE = Path(__file__).parent / "localhost.pem"
CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Files by path; keeps what was asked. The attributes make it misbehave."""

    def __init__(self, *, https: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.cut: int | None = None  # bytes after which an answer breaks off
        self.goes_on = threading.Event()  # cleared: a broken answer does not end either
        self.goes_on.set()
        self.ranges = True
        self.announce: Callable[[int], int | None] = lambda length: length
        self.redirects: dict[str, str] = {}
        self.url = f"http{'s' * https}://127.0.0.1:{self.server_port}"
        if https:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, *_) -> None:
        """Clients break connections off on purpose."""

    def publish(self, name: str, content: bytes) -> Source:
        self.files[f"/{name}"] = content
        return Source(f"{self.url}/{name}", hashlib.sha256(content).hexdigest())


class Answers(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802
        server = self.server
        server.asked.append((self.path, self.headers["Range"]))
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            self.end_headers()
            return
        if self.path not in server.files:
            self.send_error(404)
            return
        content, start = server.files[self.path], 0
        if self.headers["Range"] and server.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if (length := server.announce(len(content) - start)) is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content[start:][: server.cut])
        self.wfile.flush()
        server.goes_on.wait()


@contextmanager
def running(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.goes_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    monkeypatch.setenv("no_proxy", "*")
    with running(Server()) as https:
        yield https


@pytest.fixture
def plain(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with running(Server(https=False)) as http:
        http.files["/x"] = CONTENT
        yield http


# --- one file -----------------------------------------------------------------------------------


def test_a_file_is_fetched_once(server, tmp_path):
    source = server.publish("x", CONTENT)
    for _ in range(2):
        fetch(source, tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == CONTENT
    assert server.asked == [("/x", "bytes=0-")] and names(tmp_path) == ["x"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_cut_short_is_gone_on_from(server, tmp_path, ranges):
    """A server that knows no ranges begins anew."""
    source = server.publish("x", CONTENT)
    server.ranges = ranges
    (tmp_path / "x.part").write_bytes(CONTENT[:1000])
    fetch(source, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert server.asked == [("/x", "bytes=1000-")] and names(tmp_path) == ["x"]


def test_a_part_that_is_whole_needs_no_more_bytes(server, tmp_path):
    source = server.publish("x", CONTENT)
    (tmp_path / "x.part").write_bytes(CONTENT)
    fetch(source, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT and names(tmp_path) == ["x"]


@pytest.mark.parametrize("begun", [b"", b"of another file", CONTENT + b"and more"])
def test_what_is_not_the_published_file_is_removed(server, tmp_path, begun):
    source = server.publish("x", CONTENT)
    if begun:
        (tmp_path / "x.part").write_bytes(begun)
    else:
        server.files["/x"] = CONTENT[::-1]
    with pytest.raises(InputError, match="not the published file .*removed; run again"):
        fetch(source, tmp_path / "x")
    assert names(tmp_path) == []
    server.files["/x"] = CONTENT
    fetch(source, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize("mine", [b"my own", CONTENT + b"and more", CONTENT[:-1]])
def test_another_file_of_that_name_stays(server, tmp_path, mine):
    (tmp_path / "x").write_bytes(mine)
    with pytest.raises(InputError, match="x: is there, and is not the published file; move it"):
        fetch(server.publish("x", CONTENT), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == mine and names(tmp_path) == ["x"] and server.asked == []


def test_a_connection_that_breaks_leaves_a_part_to_go_on_from(server, tmp_path):
    source = server.publish("x", CONTENT)
    server.cut = 120_000
    for size in (120_000, 240_000):
        with pytest.raises(InputError, match=f"ended after {size:,} of 300,000 bytes.; .*run again"):
            fetch(source, tmp_path / "x")
        assert names(tmp_path) == ["x.part"]
        assert (tmp_path / "x.part").read_bytes() == CONTENT[:size]
    fetch(source, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT and names(tmp_path) == ["x"]
    assert [asked for _, asked in server.asked] == ["bytes=0-", "bytes=120000-", "bytes=240000-"]


@pytest.mark.parametrize("cut", [None, 1000])
def test_a_server_that_announces_no_size(server, tmp_path, cut):
    source = server.publish("x", CONTENT)
    server.announce = lambda true: None
    server.cut = cut
    if cut is None:
        fetch(source, tmp_path / "x")
        assert names(tmp_path) == ["x"]
        return
    with pytest.raises(InputError, match="not the published file"):
        fetch(source, tmp_path / "x")
    assert names(tmp_path) == []


def test_no_room_is_found_out_first(server, tmp_path, monkeypatch):
    source = server.publish("x", CONTENT)
    usage = shutil.disk_usage(tmp_path)._replace(free=299_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match="300,000 bytes are needed and 299,999 are free; make roo"):
        fetch(source, tmp_path / "x")
    assert names(tmp_path) == []


# --- https alone --------------------------------------------------------------------------------


def test_a_redirection_is_followed_within_https(server, tmp_path):
    source = server.publish("x", CONTENT)
    server.redirects["/old"] = "/x"
    (tmp_path / "x.part").write_bytes(CONTENT[:7])
    fetch(source._replace(url=f"{server.url}/old"), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert server.asked == [("/old", "bytes=7-"), ("/x", "bytes=7-")]


@pytest.mark.parametrize("to", ["http", "ftp", "file"])
def test_a_redirection_away_from_https_is_refused(server, plain, tmp_path, to):
    source = server.publish("x", CONTENT)
    (tmp_path / "secret").write_bytes(CONTENT)
    server.redirects["/x"] = {
        "http": f"{plain.url}/x",
        "ftp": f"ftp://127.0.0.1:{plain.server_port}/x",
        "file": f"file://{tmp_path}/secret",
    }[to]
    with pytest.raises(InputError, match="/x: cannot be fetched") as error:
        fetch(source, tmp_path / "x")
    assert to != "http" or "unknown url type: http" in str(error.value)
    assert plain.asked == [] and names(tmp_path) == ["secret"]


def test_no_plain_http_after_https_failed(plain, tmp_path):
    """The port speaks http alone: a client that tries that next is served, and caught."""
    source = Source(plain.url.replace("http", "https") + "/x", hashlib.sha256(CONTENT).hexdigest())
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch(source, tmp_path / "x")
    assert plain.asked == [] and names(tmp_path) == []


def test_a_certificate_that_nobody_vouches_for(server, tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(InputError, match="certificate verify failed"):
        fetch(server.publish("x", CONTENT), tmp_path / "x")
    assert server.asked == [] and names(tmp_path) == []


def test_a_file_that_is_not_there(server, tmp_path):
    with pytest.raises(InputError, match="cannot be fetched .HTTPError: HTTP Error 404: Not Found.; check the network"):
        fetch(Source(f"{server.url}/x", "0"), tmp_path / "x")


# --- VOC and SBD --------------------------------------------------------------------------------


def label(value: int, *, height: int = 5, width: int = 7) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[1:3, 2:] = value
    return mask


def png(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def mat(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    savemat(file, {"GTcls": {"Boundaries": np.zeros((20, 1)), "Segmentation": mask}})
    return file.getvalue()


OWN = label(3)
OWN[0] = 255
VOC = {
    "JPEGImages/both.jpg": b"never opened",
    "ImageSets/Segmentation/val.txt": b"both\n",
    "SegmentationClass/both.png": png(OWN),
    "SegmentationClass/own.png": png(label(20)),
}
SBD = {"both.mat": mat(label(4)), "theirs.mat": mat(label(1, height=6)), "._x.mat": b"of a Mac"}


def assert_merged(voc: Path) -> None:
    """The tree opens as it lies: VOC's own masks go before SBD's."""
    found = Voc.find(voc)
    assert len(found.masks) == 2 and sorted(found.labelled()) == ["both", "own", "theirs"]
    np.testing.assert_array_equal(found.labels("both"), OWN)  # VOC's, with its border
    np.testing.assert_array_equal(found.labels("own"), label(20))
    np.testing.assert_array_equal(found.labels("theirs"), label(1, height=6))


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def published(server, monkeypatch) -> dict[str, Source]:
    """VOC and SBD as archives, published by the server in place of the true ones."""
    outer = {"VOC": ("VOCdevkit/VOC2012", VOC), "SBD": ("benchmark_RELEASE/dataset/cls", SBD)}
    noise = ("benchmark_RELEASE/dataset/img/x.jpg", CONTENT)
    sources = {}
    for name, (inner, files) in outer.items():
        members = [(f"{inner}/{path}", content) for path, content in files.items()]
        compressed = name == "SBD"
        archive = tar(noise, *members, compressed=compressed)
        sources[name] = server.publish(f"{name}.{'tgz' if compressed else 'tar'}", archive)
        monkeypatch.setattr(lab, name, sources[name])
    return sources


@pytest.fixture
def said(tmp_path_factory):
    """Run `fss download` in a process of its own: exit code, stdout, stderr."""

    def run(*args, sources: Mapping[str, Source] = {}) -> tuple[int, str, str]:
        process = Fss(
            "download",
            *args,
            folder=tmp_path_factory.mktemp("said"),
            environment={"SSL_CERT_FILE": str(CERTIFICATE), "no_proxy": "*"},
            patches={f"fss.lab.download.{name}": source for name, source in sources.items()},
        )
        return process.end(), process.out, process.err

    return run


def test_voc_and_sbd_from_nothing_and_then_without_a_network(published, server, tmp_path, said):
    for _ in range(2):
        code, out, err = said("pascal5i", "--out", tmp_path, "--quiet", sources=published)
        voc = tmp_path / "VOCdevkit" / "VOC2012"
        assert (code, err) == (0, "")
        assert out == f"{voc}: VOC 2012 with 3 masks; next: fss check --data pascal5i:{voc}\n"
        assert_merged(voc)
        assert len(server.asked) == 2
    assert sorted(os.listdir(tmp_path)) == ["SBD.tgz", "VOC.tar", "VOCdevkit", "benchmark_RELEASE"]
    assert names(tmp_path / "benchmark_RELEASE" / "dataset" / "cls") == sorted(SBD)


@pytest.mark.parametrize("where", ["https://127.0.0.1:9/x", "https://nowhere.invalid/x"])
def test_without_a_network_there_is_one_line(where, tmp_path, said):
    out = tmp_path / "new"
    code, text, err = said("pascal5i", "--out", out, sources={"VOC": Source(where, "0")})
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"fss: error: {where}: cannot be fetched (")
    assert "); check the network and run again" in err
    assert err.endswith(f"or get that file elsewhere and put it at {out}/x\n")
    assert names(tmp_path) == []


def test_a_hostile_archive_in_place_of_voc(server, tmp_path, said):
    source = server.publish("VOC.tar", tar(GOOD, ("../evil", b"!")))
    code, out, err = said("pascal5i", "--out", tmp_path / "data", "--quiet", sources={"VOC": source})
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "VOC.tar: not unpacked (OutsideDestinationError: " in err and "outside the destination" in err
    assert names(tmp_path) == ["data", "data/VOC.tar"]


def test_a_stopped_download_is_gone_on_from(published, server, tmp_path):
    content = server.files["/VOC.tar"] + bytes(3_000_000)  # more than one block
    source = server.publish("VOC.tar", content)
    server.cut = 2_500_000
    server.goes_on.clear()
    options = {
        "folder": tmp_path,
        "environment": {"SSL_CERT_FILE": str(CERTIFICATE), "no_proxy": "*"},
        "patches": {"fss.lab.download.VOC": source, "fss.lab.download.SBD": published["SBD"]},
    }
    process = Fss("download", "pascal5i", "--out", tmp_path / "data", **options)
    part = tmp_path / "data" / "VOC.tar.part"
    process.wait_until(lambda: part.exists() and part.stat().st_size > 0)
    process.send(signal.SIGTERM)
    assert process.end() == 143
    assert process.err.splitlines()[-1] == "fss: stopped by SIGTERM"
    size = part.stat().st_size
    assert 0 < size <= 2_500_000 and part.read_bytes() == content[:size]
    server.cut = None
    server.goes_on.set()
    process = Fss("download", "pascal5i", "--out", tmp_path / "data", **options)
    assert process.end() == 0, process.err
    assert server.asked[:2] == [("/VOC.tar", "bytes=0-"), ("/VOC.tar", f"bytes={size}-")]
    assert "VOC.tar: 100%" in process.err and not part.exists()
    assert_merged(tmp_path / "data" / "VOCdevkit" / "VOC2012")


def test_weights_lie_where_torch_looks_for_them(server, tmp_path, monkeypatch):
    file = io.BytesIO()
    torch.save({"x": torch.arange(3)}, file)
    content = file.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    source = server.publish(f"resnet50-{digest[:8]}.pth", content)._replace(sha256=digest[:8])
    monkeypatch.setitem(WEIGHTS, "resnet50", source)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / source.name
    assert download("resnet50") == f"{path}: the published ImageNet weights of resnet50"
    state = torch.hub.load_state_dict_from_url(source.url, check_hash=True)
    assert state["x"].tolist() == [0, 1, 2] and len(server.asked) == 1
    assert "elsewhere" in download("resnet50", tmp_path / "elsewhere")
    assert names(tmp_path / "elsewhere") == [source.name]


def test_a_second_process_waits_for_the_weights_that_the_first_fetches(server, tmp_path, monkeypatch):
    source = server.publish("resnet50.pth", CONTENT)
    monkeypatch.setitem(WEIGHTS, "resnet50", source)
    with ThreadPoolExecutor(1) as pool:
        with held(tmp_path):
            second = pool.submit(weights_file, "resnet50", tmp_path)
            with pytest.raises(TimeoutError):
                second.result(timeout=0.2)
            (tmp_path / source.name).write_bytes(CONTENT)
        assert second.result(timeout=60) == tmp_path / source.name
    assert server.asked == [] and names(tmp_path) == [source.name]


def test_imagenet_weights_are_the_first_release():
    """PFENet and its successors use V1; V2 is another network to compare with."""
    for name in ("resnet50", "resnet101", "vgg16_bn"):
        assert WEIGHTS[name].url == get_model_weights(name)["IMAGENET1K_V1"].url
    assert WEIGHTS["resnet50_deep"].url == get_pretrained_cfg("resnet50s.gluon_in1k").url


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_have_an_address_and_a_hash(name):
    source = WEIGHTS[name]
    assert source.url.startswith("https://") and source.name.startswith(("resnet", "vgg", "gluon"))
    assert len(bytes.fromhex(source.sha256)) == 4 and f"-{source.sha256}.pth" in source.name


def test_voc_and_sbd_are_those_that_torchvision_knows():
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    assert (lab.VOC.url, lab.SBD.url) == (DATASET_YEAR_DICT["2012"]["url"], SBDataset.url)
    assert all(len(bytes.fromhex(source.sha256)) == 32 for source in (lab.VOC, lab.SBD))


def test_fss1000_is_explained_and_not_fetched(said):
    code, out, err = said("fss1000")
    assert (code, err) == (0, "")
    for part in ("https://github.com/HKUSTCV/FSS-1000", "fss check --data fss1000:PATH", "1,000"):
        assert part in out


def test_the_help_names_all_that_can_be_had(capsys):
    from fss.__main__ import main

    with pytest.raises(SystemExit):
        main(["download", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in KNOWN)
