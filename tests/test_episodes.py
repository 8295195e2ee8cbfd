import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from tiny import Boxes, boxes

from fss.episodes import (
    Episode,
    EpisodeDataset,
    EpisodeList,
    EpisodeStream,
    draw_episode,
    episode_generator,
    episode_loader,
    read_all,
    without_small_classes,
)
from fss.errors import InputError

DATA = boxes(classes=6, pictures=7, size=32)


def sample(data=DATA, *, shots=1, episodes=20, seed=0) -> EpisodeList:
    return EpisodeList.sample(data, shots=shots, episodes=episodes, seed=seed)


@given(
    classes=st.integers(1, 9),
    pictures=st.integers(2, 12),
    shots=st.integers(1, 11),
    seed=st.integers(0, 2**40),
)
def test_an_episode_is_of_one_class_and_never_repeats_a_picture(classes, pictures, shots, seed):
    data = boxes(classes, pictures)
    if pictures < shots + 1:
        with pytest.raises(InputError, match="'test 0' has .* pictures, but a"):
            sample(data, shots=shots, seed=seed)
        return
    for episode in sample(data, shots=shots, episodes=5, seed=seed):
        names = (episode.query, *episode.support)
        assert len(names) == len(set(names)) == shots + 1
        assert set(names) <= set(data.images[episode.class_name])


@given(seed=st.integers(0, 2**40), index=st.integers(0, 2**40), shots=st.integers(1, 5))
def test_more_shots_append_support_and_change_nothing_else(seed, index, shots):
    few, many = (draw_episode(DATA, k, seed, index) for k in (shots, 6))
    assert (few.class_name, few.query) == (many.class_name, many.query)
    assert few.support == many.support[:shots]


def test_an_episode_depends_on_seed_and_index_alone():
    asked = [5, 3, 11, 3, 0]
    stream = EpisodeStream(DATA, 2, 7, 12)
    in_order = list(stream)
    assert [stream[i] for i in asked] == [in_order[i] for i in asked]
    assert stream[2:9:3] == in_order[2:9:3]
    assert list(sample(shots=2, episodes=12, seed=7)) == in_order
    assert list(sample(shots=2, episodes=5, seed=7)) == in_order[:5]
    assert list(sample(shots=2, episodes=12, seed=8)) != in_order
    assert len(set(in_order)) > 6


@pytest.mark.parametrize("index", [12, 99])
def test_a_stream_ends(index):
    with pytest.raises(IndexError):
        EpisodeStream(DATA, 1, 0, 12)[index]


def test_every_class_and_every_picture_is_as_likely():
    episodes = sample(episodes=6000)
    classes = Counter(episode.class_name for episode in episodes)
    queries = Counter(episode.query for episode in episodes)
    pairs = Counter((episode.query, episode.support) for episode in episodes)
    # Five standard deviations of a binomial count around its mean.
    for counts, kinds in ((classes, 6), (queries, 7), (pairs, 42)):
        mean = 6000 / kinds
        spread = 5 * (mean * (1 - 1 / kinds)) ** 0.5
        assert len(counts) == kinds
        assert all(abs(count - mean) < spread for count in counts.values())


def test_the_hash_is_the_same_in_another_process():
    program = (
        "from fss.data import open_dataset; from fss.episodes import EpisodeList\n"
        "data = open_dataset('shapes', split='test', fold=1, size=32)\n"
        "print(EpisodeList.sample(data, shots=5, episodes=50, seed=3).sha256)"
    )
    root = Path(__file__).parent.parent
    found = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    from fss.data import open_dataset

    data = open_dataset("shapes", split="test", fold=1, size=32)
    here = sample(data, shots=5, episodes=50, seed=3)
    assert found.stdout.strip() == here.sha256
    # Lists that others have saved and quoted must never change either.
    assert here.sha256 == "d9be4e5131967800d27c10173e58ad32649602841de23753e4f9e89e746a5064"


def test_the_hash_is_of_the_episodes_alone(tmp_path):
    episodes = sample()
    assert EpisodeList(episodes.episodes, {"data": "elsewhere"}).sha256 == episodes.sha256
    first = episodes[0]
    for other in (
        replace(first, class_name="x"),
        replace(first, query="x"),
        replace(first, support=("x",)),
        replace(first, support=(*first.support, "x")),
    ):
        assert EpisodeList((other, *episodes[1:])).sha256 != episodes.sha256
    assert EpisodeList(episodes.episodes[::-1]).sha256 != episodes.sha256


def test_a_saved_list_comes_back(tmp_path):
    odd = Episode('Zoë\'s\n"bag"', "ü 1.jpg", ("2.jpg", "3.jpg"))
    episodes = EpisodeList((odd, *sample(shots=2)), {"data": "boxes", "fold": None, "seed": 0})
    episodes.save(tmp_path / "list.json")
    loaded = EpisodeList.load(tmp_path / "list.json")
    assert loaded == episodes
    assert loaded.sha256 == episodes.sha256
    assert loaded.source == episodes.source
    assert sample(shots=2).source == dict(data="boxes", split="test", fold=None, shots=2, seed=0)


def test_a_list_that_was_edited_is_refused(tmp_path):
    path = tmp_path / "list.json"
    sample().save(path)
    content = json.loads(path.read_text())
    content["episodes"][3]["query"], content["episodes"][3]["support"] = (
        content["episodes"][3]["support"][0],
        [content["episodes"][3]["query"]],
    )
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"list\.json: the episodes were changed since saving"):
        EpisodeList.load(path)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\x89PNG" + bytes(range(256)) * 99,
        b"[1, 2]",
        b"3",
        b"{}",
        b'{"episodes": 3, "source": {}, "sha256": ""}',
        b'{"episodes": ["abc"], "source": {}, "sha256": ""}',
        b'{"episodes": [{"class_name": "a"}], "source": {}, "sha256": ""}',
        b'{"episodes": [], "source": 3, "sha256": ""}',
        b'{"episodes": [], "source": {}}',
    ],
)
def test_what_is_no_list_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "list.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"list\.json: not a saved episode list") as error:
        EpisodeList.load(path)
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(shots=0), "shots = 0: an episode needs at least 1 support picture"),
        (dict(shots=-1), "shots = -1: .* at least 1"),
        (dict(shots=7), "boxes: class 'test 0' has 7 pictures, but a 7-shot episode needs 8"),
        (dict(episodes=0), "episodes = 0: use 1 or more"),
        (dict(episodes=-5), "episodes = -5: use 1 or more"),
        (dict(seed=-1), "seed = -1: use 0 or more"),
        (dict(data=boxes(0, 5)), "boxes: no classes in split 'test'"),
    ],
)
def test_impossible_lists_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        sample(**settings)


def test_the_class_with_too_few_pictures_is_named():
    images = {**DATA.images, "small": ("1", "2"), "tiny": ("1",)}
    with pytest.raises(InputError, match="'small' has 2 .* needs 3 .2 such classes.*fewer shots"):
        sample(replace(DATA, images=images), shots=2)
    with pytest.raises(InputError, match="'tiny' has 1 .* needs 2 .1 such classes"):
        EpisodeStream(replace(DATA, images=images), 1, 0, 10)


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        (Episode("test 9", "0", ("1",)), "no class 'test 9' in the test split of boxes"),
        (Episode("test 1", "9", ("1",)), "episode 1: class 'test 1' of boxes has no picture '9'"),
        (Episode("test 1", "0", ("9",)), "episode 1: class 'test 1' of boxes has no picture '9'"),
        (Episode("test 1", "0", ("0",)), "episode 1: 1 support .* 1 different in all"),
        (Episode("test 1", "0", ("1", "2")), "episode 1: 2 support .* a list of 1 shot"),
        (Episode("test 1", "0", ()), "episode 1: 0 support .* a list of 1 shot"),
    ],
)
def test_a_list_is_checked_against_the_data(episode, message):
    sample().check(DATA)
    with pytest.raises(InputError, match=message):
        EpisodeList((sample()[0], episode)).check(DATA)


def test_an_empty_list_is_refused():
    with pytest.raises(InputError, match="empty"):
        EpisodeList(()).check(DATA)


def test_a_batch_holds_the_pictures_that_the_episodes_name():
    episodes = sample(shots=3, episodes=2)
    batch = next(iter(episode_loader(EpisodeDataset(DATA, episodes), batch=2)))
    assert batch.query.shape == (2, 3, 32, 32)
    assert batch.support.shape == (2, 3, 3, 32, 32)
    for b, episode in enumerate(episodes):
        image, mask = DATA.read(episode.class_name, episode.query)
        assert torch.equal(batch.query[b], image)
        assert torch.equal(batch.target[b], mask)
        for k, name in enumerate(episode.support):
            image, mask = DATA.read(episode.class_name, name)
            assert torch.equal(batch.support[b, k], image)
            assert torch.equal(batch.mask[b, k], mask)


def mirror(image, mask, generator):
    """An augmentation: flips left to right, half of the time."""
    return (image.flip(-1), mask.flip(-1)) if torch.rand((), generator=generator) < 0.5 else (image, mask)


def batches(workers: int, start: int = 0) -> list:
    episodes = EpisodeDataset(DATA, sample(shots=2, episodes=11), augment=mirror, seed=5)
    return list(episode_loader(episodes, batch=4, workers=workers, start=start))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_for_any_number_of_workers(workers):
    alone, shared = batches(0), batches(workers)
    assert [len(batch.query) for batch in shared] == [4, 4, 3]
    for a, b in zip(alone, shared, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_loader_that_starts_later_gives_the_same_episodes():
    for a, b in zip(batches(0)[1:], batches(0, start=4), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_generators_of_neighbours_differ():
    draws = {torch.rand((), generator=episode_generator(s, i)).item() for s in (0, 1) for i in (0, 1, 2)}
    assert len(draws) == 6


class Unreadable(type(DATA.reader)):
    def read(self, class_name, image_name, size):
        raise InputError("it's/1.jpg is no picture; convert it to JPEG or PNG")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_is_one_line_with_workers_too(workers):
    data = replace(DATA, reader=Unreadable())
    loader = episode_loader(EpisodeDataset(data, sample(data)), batch=4, workers=workers)
    with pytest.raises(InputError) as error:
        list(read_all(loader))
    assert str(error.value) == "it's/1.jpg is no picture; convert it to JPEG or PNG"


class Deadly(Boxes):
    def read(self, class_name, image_name, size):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_told_in_one_line():
    data = replace(DATA, reader=Deadly())
    loader = episode_loader(EpisodeDataset(data, sample()), batch=2, workers=1)
    with pytest.raises(InputError, match="was killed, probably for lack of memory.*fewer workers"):
        list(read_all(loader))


def test_small_classes_are_left_out():
    ragged = replace(DATA, images={**DATA.images, "test 1": ("0", "1"), "test 2": ("0",)})
    for shots, small in ((1, {"test 2"}), (2, {"test 1", "test 2"})):
        left = without_small_classes(ragged, shots).images
        assert left == {name: ragged.images[name] for name in ragged.images if name not in small}
    with pytest.raises(InputError, match="boxes: no test class has the 100 pictures that a 99-sho"):
        without_small_classes(ragged, 99)
