import errno
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from networks import frozen
from tiny import Boxes, boxes, network

from fss.config import DANetConfig
from fss.episodes import EpisodeList
from fss.errors import InputError
from fss.features import STALE, CachedFeatures, FeatureBatch, LiveFeatures, _note, extract
from fss.model import DANet

DATA = boxes(classes=3, pictures=7)  # 21 pictures: the last chunk is ragged
EPISODES = EpisodeList.sample(DATA, shots=3, episodes=11, seed=1)
PRIORS = ["masked_features", "masked_input", None]

pytestmark = pytest.mark.numbers


def files(cache: Path) -> list[Path]:
    return sorted((cache / "fss" / "features").glob("*"))


def tensors(batch: FeatureBatch) -> list[torch.Tensor]:
    return [*batch.query, batch.target, *batch.support, batch.mask]


def read(source, batch: int = 4, start: int = 0) -> list[list[torch.Tensor]]:
    return [tensors(found) for found in source.batches(EPISODES, batch, start=start)]


def same(a: list[list[torch.Tensor]], b: list[list[torch.Tensor]]) -> bool:
    pairs = [(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)]
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


@pytest.fixture
def extracted(monkeypatch):
    """How many chunks of pictures go through ``extract``."""
    calls = []

    def counted(model, images, masks, **options):
        calls.append(len(images))
        return extract(model, images, masks, **options)

    monkeypatch.setattr("fss.features.extract", counted)
    return calls


@pytest.mark.parametrize("prior", PRIORS)
def test_cached_features_are_the_live_ones(prior):
    model = network(prior=prior)
    live = LiveFeatures(model, DATA)
    cached = CachedFeatures(model, DATA)
    for batch in (1, 4, 11):
        assert same(read(cached, batch), read(live, batch))
    assert [len(b[0]) for b in read(cached, 4)] == [4, 4, 3]
    for source in (live, cached):
        batches = list(source.batches(EPISODES, 2, start=1, stride=4))
        assert [batch.episodes for batch in batches] == [EPISODES.episodes[i : i + 2] for i in (1, 5, 9)]
    assert same(read(cached, 4, start=4), read(cached, 4)[1:])
    assert same(read(live, 4, start=4), read(cached, 4)[1:])


def test_masked_block4_is_made_of_the_support_alone(monkeypatch):
    monkeypatch.setattr("fss.features.CHUNK", 2)
    model, calls = network(prior="masked_input"), []
    make = model.masked_block4
    monkeypatch.setattr(model, "masked_block4", lambda *args: calls.append(1) or make(*args))
    images, labels = torch.rand(7, 3, 64, 96), torch.randint(0, 2, (7, 64, 96), dtype=torch.uint8)
    maps, whole = extract(model, images, labels)
    assert len(whole) == 7 and len(calls) == 4
    for first, chunks in ((4, 2), (5, 2), (6, 1)):
        calls.clear()
        again, masked = extract(model, images, labels, first=first)
        assert torch.equal(masked, whole[first:]) and len(calls) == chunks
        assert all(map(torch.equal, again, maps))


def test_cached_features_are_the_live_ones_of_a_real_backbone():
    with patch("fss.model.load_backbone", lambda name, pretrained: frozen(name)):
        model = DANet(DANetConfig.pfenet(channels=8))
    live = LiveFeatures(model, DATA)
    cached = CachedFeatures(model, DATA)
    assert same(read(cached, 3), read(live, 3))


@pytest.mark.parametrize("prior", PRIORS)
def test_they_are_what_the_network_would_have_seen(prior):
    model = network(prior=prior)
    batch = next(CachedFeatures(model, DATA).batches(EPISODES, 2))
    images = DATA[EPISODES[1].class_name]
    pictures = torch.stack([images[images.names.index(n)][0] for n in EPISODES[1].support])
    query = images[images.names.index(EPISODES[1].query)][0]
    with torch.no_grad():
        expected = model.support_features(pictures[None], batch.mask[1:])
        for found, live in zip(batch.support, expected, strict=True):
            torch.testing.assert_close(found[1:], live, rtol=1e-3, atol=1e-3)
        for found, live in zip(batch.query, model.backbone(query[None]), strict=True):
            torch.testing.assert_close(found[1:], live, rtol=1e-3, atol=1e-3)
            assert torch.equal(found, found.half().float())  # as it lies on disk


def test_the_cache_lies_where_the_environment_says(cache):
    source = CachedFeatures(network(), DATA)
    assert files(cache) == [source.file]
    assert all(source.table[name].dtype == np.float16 for name in ("block2", "block3", "block4"))


def test_a_cache_is_opened_without_extracting(extracted):
    model = network()
    first = read(CachedFeatures(model, DATA))
    assert sum(extracted) == 21
    again = CachedFeatures(model, DATA)
    assert sum(extracted) == 21
    assert same(read(again), first)
    CachedFeatures(network(channels=24, pca=False, prior=None), DATA)
    assert sum(extracted) == 21  # the head, and whether there is a prior, change no feature


def test_a_cache_is_keyed_by_what_its_content_depends_on(cache):
    model = network()
    opened = [
        CachedFeatures(model, DATA),
        CachedFeatures(model, boxes(3, 7, salt="drawn anew ")),
        CachedFeatures(model, boxes(3, 6)),
        CachedFeatures(model, boxes(3, 7, size=96)),
        CachedFeatures(model, replace(DATA, images=dict(reversed(DATA.images.items())))),
        CachedFeatures(network(seed=1), DATA),
        CachedFeatures(network(prior="masked_input"), DATA),
    ]
    assert len({source.file for source in opened}) == len(opened)
    assert files(cache) == sorted(source.file for source in opened)
    twin = replace(DATA, spec="the same under another name")
    assert CachedFeatures(model, twin).file == opened[0].file


def rewrite(file: Path, change) -> None:
    np.save(file, change(np.load(file)))


DAMAGE = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size - 1),
    "half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "cut in its header": lambda file: os.truncate(file, 50),
    "emptied": lambda file: os.truncate(file, 0),
    "removed": os.remove,
    "of other pictures": lambda file: rewrite(file, lambda table: table[:-1]),
    "of one map": lambda file: rewrite(file, lambda table: table["block3"]),
    "without the masks": lambda file: rewrite(file, lambda table: table[["key", "block2", "block3", "block4"]]),
    "of objects": lambda file: np.save(file, np.array([{}] * 21), allow_pickle=True),
    "garbage": lambda file: file.write_bytes(b"\x00" * 999),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_made_anew(damage, extracted):
    model = network()
    source = CachedFeatures(model, DATA)
    whole = read(source)
    del source.table  # or it would share the file's pages
    DAMAGE[damage](source.file)
    assert same(read(CachedFeatures(model, DATA)), whole)
    assert sum(extracted) == 2 * 21
    CachedFeatures(model, DATA)
    assert sum(extracted) == 2 * 21


def test_a_half_written_cache_is_never_used(cache, monkeypatch, extracted):
    model = network()

    def killed(*args, **kwargs):
        raise SystemExit("as if by kill -9: nothing is tidied up")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        patched.setattr(Path, "unlink", lambda *args, **kwargs: None)
        with pytest.raises(SystemExit):
            CachedFeatures(model, DATA)
    (left,) = files(cache)
    assert left.stat().st_size > 0
    source = CachedFeatures(model, DATA)
    assert sum(extracted) == 2 * 21
    assert files(cache) == sorted([left, source.file])  # it might be another's, still at work
    os.utime(left, (0, os.path.getmtime(left) - STALE - 60))
    CachedFeatures(model, boxes(1, 2))
    assert left not in files(cache)


class Failing(Boxes):
    def read(self, class_name, image_name, size):
        if (class_name, image_name) == ("test 2", "6"):  # the very last picture
            raise InputError("test 2/6.jpg is no picture; convert it to JPEG or PNG")
        return super().read(class_name, image_name, size)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_leaves_nothing_behind(cache, workers):
    with pytest.raises(InputError, match=r"^test 2/6\.jpg is no picture; convert it to JPEG or PNG$"):
        CachedFeatures(network(), replace(DATA, reader=Failing()), workers=workers)
    assert files(cache) == []


def test_an_interruption_leaves_nothing_behind(cache, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        CachedFeatures(network(), DATA)
    assert files(cache) == []


# --- where there can be no cache ----------------------------------------------------------------


def full(monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def file_in_the_way(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))


def read_only(monkeypatch, tmp_path):
    def refuse(self, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)


def homeless(monkeypatch, tmp_path):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)


REASONS = {
    full: r"\(.* GB needed, 1e-06 GB free; set XDG_CACHE_HOME to a larger disk\)",
    file_in_the_way: r"\(.*/file/fss/features: Not a directory\)",
    read_only: r"\(.*/fss/features: Permission denied\)",
    homeless: r"\(no home folder is known; set XDG_CACHE_HOME\)",
    lambda monkeypatch, tmp_path: monkeypatch.setenv("FSS_CACHE_GB", "0"): (
        r"\(.* GB needed, above the cap of 0 GB; set FSS_CACHE_GB higher\)"
    ),
}


@pytest.mark.parametrize("reason", REASONS, ids=["full", "file", "read-only", "homeless", "cap"])
def test_without_a_cache_the_features_are_the_same(reason, cache, tmp_path, monkeypatch, capsys):
    model = network()
    kept = read(CachedFeatures(model, DATA))
    before = files(cache)
    other = replace(DATA, size=96)
    reason(monkeypatch, tmp_path)
    _note.cache_clear()
    for data in (DATA, other, other):
        without = CachedFeatures(model, data)
        if without.live is not None and data is DATA:
            assert same(read(without), kept)
    assert without.live is not None and files(cache) == before
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert re.fullmatch(f"fss: no feature cache {REASONS[reason]}; pictures go .* each time\n", err)


def test_only_the_first_process_says_so(tmp_path, monkeypatch, capsys):
    file_in_the_way(monkeypatch, tmp_path)
    monkeypatch.setenv("RANK", "1")
    _note.cache_clear()
    assert CachedFeatures(network(), DATA).live is not None
    assert capsys.readouterr().err == ""


def test_two_processes_at_once_end_with_one_cache(cache, monkeypatch, extracted):
    model = network()
    rename, rivals = Path.replace, []

    def beaten(self, target):
        """Another process makes the same cache, and is done just before us."""
        if not rivals:
            rivals.append(None)
            rivals[0] = read(CachedFeatures(model, DATA))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", beaten)
    assert same(read(CachedFeatures(model, DATA)), rivals[0])
    assert len(files(cache)) == 1


def aged(source: CachedFeatures, age: int) -> CachedFeatures:
    """As if it had been used ``age`` seconds ago."""
    os.utime(source.file, (0, source.file.stat().st_mtime - age))
    return source


def test_the_longest_unused_caches_go_when_all_exceed_the_cap(cache, monkeypatch):
    model = network()
    sources = [aged(CachedFeatures(model, boxes(3, 7, salt=s)), 100 - 10 * i) for i, s in enumerate("abcd")]
    size = sources[0].file.stat().st_size
    CachedFeatures(model, boxes(3, 7, salt="a"))  # used again, so now the most recent
    used = read(sources[1])
    monkeypatch.setenv("FSS_CACHE_GB", str(3.5 * size / 1e9))
    last = CachedFeatures(model, boxes(3, 7, salt="e"))
    assert files(cache) == sorted([sources[0].file, sources[3].file, last.file])
    assert same(read(sources[1]), used)  # whoever has it open goes on
    monkeypatch.setenv("FSS_CACHE_GB", str(1.01 * size / 1e9))
    assert read(CachedFeatures(model, boxes(3, 7, salt="f")))
    assert len(files(cache)) == 1


def test_a_cache_above_the_cap_is_not_made_and_costs_no_other(cache, monkeypatch, extracted):
    model = network()
    whole = CachedFeatures(model, DATA)
    monkeypatch.setenv("FSS_CACHE_GB", str(0.9 * whole.file.stat().st_size / 1e9))
    assert CachedFeatures(model, DATA).live is None  # it is there, and needs no room
    extracted.clear()
    assert CachedFeatures(model, boxes(3, 7, salt="other ")).live is not None
    assert len(extracted) == 1  # found out after a first chunk, not after all
    assert files(cache) == [whole.file]


def test_a_cache_of_another_name_is_not_used(cache, extracted):
    model, other = network(), boxes(3, 7, salt="other ")
    source, theirs = CachedFeatures(model, DATA), CachedFeatures(model, other)
    whole = read(theirs)
    source.file.replace(theirs.file)
    assert same(read(CachedFeatures(model, other)), whole)


def test_a_cache_that_is_shared_and_read_only_is_used(monkeypatch, extracted):
    model = network()
    whole = read(CachedFeatures(model, DATA))
    extracted.clear()

    def refuse(*args):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert same(read(CachedFeatures(model, DATA)), whole)
    assert extracted == []


def test_files_of_others_in_the_cache_folder_stay(cache, monkeypatch):
    old = aged(CachedFeatures(network(), boxes(3, 7, salt="old ")), 100)
    size = old.file.stat().st_size
    monkeypatch.setenv("FSS_CACHE_GB", str(1.01 * size / 1e9))
    (cache / "fss" / "features" / "README").write_text("hello")
    source = CachedFeatures(network(), DATA)
    assert [path.name for path in files(cache)] == sorted(["README", source.file.name])
    assert source.file != old.file


@pytest.mark.parametrize("cap", ["20 GB", "-1", "nan", ""])
def test_a_cap_that_is_no_number_is_refused_before_the_work(monkeypatch, extracted, cap):
    monkeypatch.setenv("FSS_CACHE_GB", cap)
    with pytest.raises(InputError, match=f"FSS_CACHE_GB='{cap}': use a number of gigabytes"):
        CachedFeatures(network(), DATA)
    assert extracted == []


def test_live_features_ask_for_the_pictures_each_time(extracted):
    source = LiveFeatures(network(), DATA)
    read(source), read(source)
    assert sum(extracted) == 2 * 4 * 11


@pytest.mark.parametrize("prior", ["masked_features", "masked_input"])
def test_on_a_cpu_mixed_precision_works_without_a_cache(prior):
    model = network(prior=prior)
    mixed = read(LiveFeatures(model, DATA, autocast=lambda: torch.autocast("cpu", torch.bfloat16)))
    for found, exact in zip(mixed, read(LiveFeatures(model, DATA)), strict=True):
        torch.testing.assert_close(found, exact, rtol=0.05, atol=0.1)
