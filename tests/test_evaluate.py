import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import boxes, network, write_boxes

from fss.backbones import Features
from fss.config import DANetConfig, Scoring
from fss.data import open_dataset
from fss.data.pictures import letterbox_mask
from fss.episodes import Episode, EpisodeList
from fss.errors import InputError
from fss.evaluate import (
    REFERENCES,
    all_foreground,
    evaluate,
    network as predictor,
    reference,
    scores,
    tally_episodes,
)
from fss.features import CachedFeatures, FeatureBatch
from fss.metrics import EpisodeTally
from fss.resize import resize

pytestmark = pytest.mark.numbers

DATA = boxes(classes=4, pictures=6)
EPISODES = EpisodeList.sample(DATA, shots=2, episodes=19, seed=3)


def measure(model=None, **options):
    return evaluate(model or network(), DATA, EPISODES, **options)


def truth(batch: FeatureBatch) -> torch.Tensor:
    return (batch.target == 1).to(torch.uint8)


def test_the_result_has_the_public_format():
    result = json.loads(json.dumps(measure(network(prior=None))))
    assert result.keys() == {
        "miou",
        "miou_interval",
        "fb_iou",
        "mean_episode_iou",
        "per_class",
        "episodes",
        "classes",
        "not_covered",
        "marked",
        "support",
        "pictures",
        "counts",
        "episodes_sha256",
        "data",
        "split",
        "fold",
        "shots",
        "seed",
        "size",
        "scored_at",
        "void",
        "leaked_classes",
        "notes",
        "config",
        "trained",
        "seconds",
    }
    low, high = result["miou_interval"]
    assert 0 <= low <= result["miou"] <= high <= 1
    for name in ("fb_iou", "mean_episode_iou"):
        assert 0 <= result[name] <= 1
    assert result["episodes"] == 19
    drawn = {episode.class_name for episode in EPISODES}
    assert result["per_class"].keys() == drawn
    assert result["classes"] == len(drawn)
    assert result["not_covered"] == [name for name in DATA.classes if name not in drawn]
    assert result["miou"] == pytest.approx(sum(result["per_class"].values()) / len(drawn))
    assert result["episodes_sha256"] == EPISODES.sha256
    assert DANetConfig.from_json(result["config"]) == DANetConfig(channels=8, prior=None)
    told = [result[name] for name in ("data", "split", "fold", "shots", "seed", "size")]
    assert told == ["boxes", "test", None, 2, 3, 64]


def test_a_result_holds_what_pairs_it_with_another():
    result = measure()
    assert result["counts"]["query"] == [f"{episode.class_name}/{episode.query}" for episode in EPISODES]
    tally = EpisodeTally.from_json(result["counts"])
    assert scores(tally, DATA.classes)["miou"] == result["miou"]
    assert result["support"] == "own"


def test_marked_is_the_mean_share_of_labelled_pixels_that_are_predicted(wide):
    data, episodes = wide
    assert evaluate(network(), data, episodes, predict=all_foreground)["marked"] == 1
    areas = []
    for episode in episodes:
        label = letterbox_mask(data.reader.own_mask(episode.class_name, episode.query), 64)
        areas.append((label == 1).sum() / (label != 255).sum())
    for scoring in (Scoring(), Scoring(at="label")):
        result = evaluate(network(), data, episodes, predict=truth, scoring=scoring)
        assert result["marked"] == pytest.approx(np.mean(areas))


def test_a_result_repeats_but_for_the_seconds():
    a, b, live = measure(), measure(), measure(cache=False)
    assert a.pop("seconds") >= 0
    del b["seconds"], live["seconds"]
    assert a == b == live


def test_the_network_measured_is_in_eval_mode():
    model = network()
    expected = measure(model)["miou"]
    assert measure(model.train())["miou"] == expected  # dropout would change it
    assert not model.training


def test_a_list_of_other_data_is_refused():
    other = EpisodeList((EPISODES[0], Episode("test 1", "99", ("1", "2"))))
    for cache in (True, False):
        with pytest.raises(InputError, match="episode 1: class 'test 1' of boxes has no picture"):
            evaluate(network(), DATA, other, cache=cache)


def test_the_result_tells_of_the_data_measured_not_of_where_the_list_came_from():
    source = {"data": "elsewhere", "split": "train", "fold": 3, "shots": 9, "miou": 1.0}
    result = evaluate(network(), DATA, EpisodeList(EPISODES.episodes, source))
    assert [result[name] for name in ("data", "split", "fold", "shots")] == [
        "boxes",
        "test",
        None,
        2,
    ]
    assert result["miou"] == measure()["miou"]


def test_all_foreground_scores_the_area_of_the_objects():
    result = measure(predict=all_foreground)
    inside, labelled = {}, {}
    for episode in EPISODES:
        images = DATA[episode.class_name]
        _, mask = images[images.names.index(episode.query)]
        name = episode.class_name
        inside[name] = inside.get(name, 0) + int((mask == 1).sum())
        labelled[name] = labelled.get(name, 0) + int((mask != 255).sum())
    by_hand = {name: inside[name] / labelled[name] for name in inside}
    assert result["per_class"] == pytest.approx(by_hand)
    assert result["miou"] == pytest.approx(sum(by_hand.values()) / len(by_hand))
    assert result["fb_iou"] == pytest.approx(sum(inside.values()) / sum(labelled.values()) / 2)


def test_the_truth_scores_one_and_classes_keep_their_names():
    worst = EPISODES[0].class_name

    def wrong_for_one(batch: FeatureBatch) -> torch.Tensor:
        nonlocal done
        names = [e.class_name for e in EPISODES[done : done + len(batch.target)]]
        done += len(names)
        keep = torch.tensor([name != worst for name in names])
        return truth(batch) * keep[:, None, None]

    done = 0
    assert measure(predict=truth)["miou"] == 1
    per_class = measure(predict=wrong_for_one)["per_class"]
    assert per_class == {name: float(name != worst) for name in per_class}


def test_figures_name_classes_by_their_place():
    tally = EpisodeTally()
    tally.update(torch.tensor([[[1, 1]]]), torch.tensor([[[1, 0]]]), torch.tensor([2]), query_ids=["q"])
    result = scores(tally, ("a", "b", "c"))
    assert result["per_class"] == {"c": 0.5}
    assert (result["classes"], result["episodes"]) == (1, 1)
    assert result["not_covered"] == ["a", "b"]


def test_the_network_predicts_as_its_call_does():
    model = network()
    batch = next(CachedFeatures(model, DATA).batches(EPISODES, 3))
    with torch.no_grad():
        for b, episode in enumerate(EPISODES[:3]):
            images = DATA[episode.class_name]
            (query, _), *support = (images[images.names.index(n)] for n in (episode.query, *episode.support))
            pictures, masks = (torch.stack(x)[None] for x in zip(*support, strict=True))
            logits = model(query[None], pictures, masks).logits
            sure = (logits[:, 1] - logits[:, 0]).abs() > 1e-2  # features are rounded to half
            found = predictor(model)(batch)[b : b + 1]
            assert sure.float().mean() > 0.5
            assert torch.equal(found[sure], logits.argmax(1)[sure])


def test_the_tally_is_in_the_order_of_the_list():
    model = network()
    tally = tally_episodes(truth, CachedFeatures(model, DATA), DATA, EPISODES.episodes)
    assert len(tally) == 19
    assert [DATA.classes[i] for i in tally.to_json()["class"]] == [e.class_name for e in EPISODES]


by_prototype = REFERENCES["prototype"]


def naive_by_prototype(batch: FeatureBatch, aligned: bool = False) -> torch.Tensor:
    """Position by position: cosine with the mean inside, less cosine with the mean outside."""
    size = tuple(batch.target.shape[-2:])
    out = torch.zeros(batch.target.shape)
    for b in range(len(batch.target)):
        score = torch.zeros(size)
        for query, support in (
            (batch.query.block3[b], batch.support.block3[b]),
            (batch.query.block4[b], batch.support.block4[b]),
        ):
            height, width = query.shape[1:]
            similarity = torch.zeros(height, width)
            for label, sign in ((1, 1), (0, -1)):
                total, weight = torch.zeros(query.shape[0]), 0.0
                for k in range(len(support)):
                    area = (batch.mask[b, k] == label).float()
                    if aligned:  # corners lie on corners, and the label is sampled
                        small = resize(area, (height, width), aligned=True)
                    else:
                        shape = (height, width)
                        small = torch.nn.functional.adaptive_avg_pool2d(area[None], shape)[0]
                    for i in range(height):
                        for j in range(width):
                            total += small[i, j] * support[k, :, i, j]
                            weight += float(small[i, j])
                mean = total / weight
                for i in range(height):
                    for j in range(width):
                        v = query[:, i, j]
                        cosine = v @ mean / math.sqrt(float(v @ v) * float(mean @ mean))
                        similarity[i, j] += sign * cosine
            score += resize(similarity, size, aligned=aligned)
        out[b] = score > 0
    return out


@pytest.mark.parametrize("aligned", [False, True])
def test_prototype_is_the_naive_loop(aligned):
    generator = torch.Generator().manual_seed(0)

    def maps(*lead: int) -> Features:
        shapes = ((2, 6, 5), (7, 4, 3), (5, 2, 3))
        return Features(*(torch.randn(*lead, *s, generator=generator) for s in shapes))

    values = torch.tensor([0, 1, 1, 255], dtype=torch.uint8)
    target, mask = (values[torch.randint(4, shape, generator=generator)] for shape in ((3, 12, 10), (3, 2, 12, 10)))
    batch = FeatureBatch(maps(3), target, maps(3, 2), mask)
    found = by_prototype(batch, aligned=aligned)
    assert found.shape == target.shape
    assert torch.equal(found.float(), naive_by_prototype(batch, aligned))
    assert not torch.equal(found, by_prototype(batch, aligned=not aligned))
    assert 0.1 < found.float().mean() < 0.9
    flipped = batch._replace(mask=torch.where(mask == 255, mask, 1 - mask))
    assert torch.equal(by_prototype(flipped, aligned=aligned), 1 - found)


@pytest.mark.parametrize("label", [0, 1, 255])
def test_prototype_stands_a_support_of_one_label(label):
    batch = next(CachedFeatures(network(), DATA).batches(EPISODES, 2))
    found = by_prototype(batch._replace(mask=torch.full_like(batch.mask, label)))
    assert set(found.unique().tolist()) <= {0, 1}


def test_references_are_measured_by_name():
    assert list(REFERENCES) == ["all-foreground", "prototype", "nearest", "attended"]
    assert measure(predict=by_prototype)["miou"] != measure(predict=all_foreground)["miou"]


def test_a_reference_has_its_backbones_geometry(monkeypatch):
    model = network()
    batch = next(CachedFeatures(model, DATA).batches(EPISODES, 2))
    for aligned in (False, True):
        monkeypatch.setattr(model.backbone, "aligned", aligned)
        found = reference("prototype", model)(batch)
        assert torch.equal(found, by_prototype(batch, aligned=aligned))
    assert reference("all-foreground", model) is all_foreground
    with pytest.raises(InputError, match="needs the support's whole block4"):
        reference("prototype", network(prior="masked_input"))


def test_a_result_notes_a_size_that_the_backbone_does_not_fit(monkeypatch):
    model = network()
    assert measure(model)["notes"] == []
    monkeypatch.setattr(model.backbone, "aligned", True)  # 64 px are 8 k + 1 of no k
    assert measure(model)["notes"] == list(model.backbone.notes(64)) != []


def test_ignored_pixels_count_for_nothing():
    def noisy(batch: FeatureBatch) -> torch.Tensor:
        return torch.where(batch.target == 255, torch.ones_like(batch.target), truth(batch))

    assert measure(predict=noisy)["miou"] == measure(predict=noisy)["fb_iou"] == 1
    assert (DATA[EPISODES[0].class_name][0][1] == 255).any()


def test_an_empty_dataset_split_is_not_measured():
    with pytest.raises(InputError, match="no class"):
        evaluate(network(), replace(DATA, images={}), EPISODES)


# --- what a prediction is compared with ---------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Test classes of pictures wider than high, with an ignored rim of three rows; the list."""
    root = write_boxes(tmp_path_factory.mktemp("wide"), classes=4, pictures=4)
    data = open_dataset(f"folder:{root}", split="test", size=64)
    return data, EpisodeList.sample(data, shots=1, episodes=7, seed=0)


@pytest.mark.parametrize("at", ["network", "label"])
@pytest.mark.parametrize("void", ["ignore", "background"])
def test_all_foreground_by_hand(wide, at, void):
    data, episodes = wide
    scoring = Scoring(at=at, void=void)
    source = CachedFeatures(network(), data)
    tally = tally_episodes(all_foreground, source, data, episodes.episodes, scoring=scoring)
    for episode, (_, hits, union, _, missed) in zip(episodes, tally.counts.tolist(), strict=True):
        own = data.reader.own_mask(episode.class_name, episode.query)
        assert own.shape == (60, 80) and (own == 255).sum() == 3 * 80
        counted = np.where(own == 255, 0, own) if void == "background" else own
        if at == "network":
            counted = letterbox_mask(counted.astype(np.uint8), 64)
            assert counted.shape == (64, 64) and (counted[:8] == 255).all(), "padding"
        assert hits == (counted == 1).sum()
        assert union == (counted != 255).sum()
        assert missed == (counted == 0).sum()


def test_the_usual_scoring_is_that_of_the_batch(wide):
    """Reading the label anew and fitting it gives what the cache holds."""
    data, episodes = wide
    source = CachedFeatures(network(), data)
    usual = tally_episodes(by_prototype, source, data, episodes.episodes)
    batches = source.batches(episodes.episodes, 7)
    targets = next(batches).target.numpy()
    for episode, target in zip(episodes, targets, strict=True):
        own = data.reader.own_mask(episode.class_name, episode.query)
        np.testing.assert_array_equal(letterbox_mask(own, 64), target)
    result = evaluate(network(), data, episodes, predict=by_prototype)
    assert result["miou"] == usual.miou()
    assert (result["scored_at"], result["void"]) == ("network", "ignore")


def test_a_perfect_prediction_at_the_labels_size(wide):
    """The way back from the network's size loses the edge only."""
    data, episodes = wide
    source = CachedFeatures(network(), data)
    tally = tally_episodes(truth, source, data, episodes.episodes, scoring=Scoring(at="label"))
    assert 0.9 < tally.miou() < 1


def test_drawn_pictures_have_no_size_of_their_own():
    with pytest.raises(InputError, match="no size of their own"):
        measure(scoring=Scoring(at="label"))
