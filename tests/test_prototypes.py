"""Prototypes and what takes their place: loops, SciPy, clusters by hand, and what must not matter."""

import json
import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from processes import Fss
from scipy.cluster.vq import kmeans2
from tiny import network

import fss.prototypes
from fss.backbones import Features
from fss.config import DataConfig
from fss.errors import InputError
from fss.evaluate import CLUSTERINGS, LIKENESSES, REFERENCES, evaluate_checkpoint, is_reference, reference
from fss.features import FeatureBatch
from fss.prototypes import (
    KAPPA,
    TEMPERATURE,
    _at,
    _places,
    _spread,
    allocate,
    attended,
    average,
    best_of,
    em,
    kmeans,
    nearest,
    pool,
    similarity,
    superpixels,
)

pytestmark = pytest.mark.numbers

CLUSTER = [kmeans, em, superpixels]
seeds = st.integers(0, 2**31)


def made(seed, *, shots=1, grid=(4, 6), batch=2, channels=5, dtype=torch.float64, hard=False):
    """Features [B,K,C,h,w] and a mask [B,K,1,h,w] of shares, a third of them 0 and a third 1."""
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, shots, channels, *grid, generator=g, dtype=dtype)
    mask = (3 * torch.rand(batch, shots, 1, *grid, generator=g, dtype=dtype) - 1).clamp(0, 1)
    return features, (mask > 0.3).to(dtype) if hard else mask


def flat(features, mask, b=0):
    """Places [N,C] and their weights [N] of one episode."""
    return features[b].movedim(1, -1).flatten(0, 2), mask[b].flatten()


def sets_equal(a, b, **close):
    """Whether two [P,C] hold the same rows in any order."""
    gaps = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(gaps.amin(1), torch.zeros(len(a), dtype=a.dtype), **close)
    torch.testing.assert_close(gaps.amin(0), torch.zeros(len(b), dtype=b.dtype), **close)


# One prototype


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("cluster", [kmeans, superpixels])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_of_k_is_the_masked_average(cluster, shots, dtype):
    features, mask = made(0, shots=shots, dtype=dtype)
    for each in (mask, 1 - mask):
        found, weight = cluster(features, each, 1)
        torch.testing.assert_close(found, pool(features, each)[:, None], rtol=0, atol=1e-6)
        torch.testing.assert_close(weight, each.sum((1, 3, 4)))
        same = average(features, each)
        torch.testing.assert_close((found, weight), same, rtol=0, atol=1e-5)


def test_one_direction_is_that_of_the_places_at_length_one():
    features, mask = made(1, shots=2)
    found, _ = em(features, mask, 1)
    expected = pool(features / features.norm(dim=2, keepdim=True), mask)
    torch.testing.assert_close(found[:, 0], expected / expected.norm(dim=1, keepdim=True))


# Against loops and SciPy


def starts(features, mask, count):
    """The places that k-means begins with, [B,P,C]."""
    x, weight = _places(features, mask)
    return _at(x, _spread(x, weight, count))


@settings(max_examples=15)
@given(seed=seeds, shots=st.integers(1, 3), count=st.integers(1, 5))
def test_kmeans_is_scipys(seed, shots, count):
    features, mask = made(seed, shots=shots, hard=True)
    first, (found, weight) = starts(features, mask, count), kmeans(features, mask, count)
    for b in range(2):
        x, inside = flat(features, mask, b)
        places = x[inside > 0].numpy()
        if not len(places) > count or not weight[b].all():
            continue
        expected, labels = kmeans2(places, first[b].numpy(), iter=10, minit="matrix")
        np.testing.assert_allclose(found[b].numpy(), expected, atol=1e-9)
        np.testing.assert_array_equal(weight[b].numpy(), np.bincount(labels, minlength=count))


@settings(max_examples=15)
@given(seed=seeds, shots=st.integers(1, 3), count=st.integers(1, 4))
def test_seeds_are_the_loop(seed, shots, count):
    features, mask = made(seed, shots=shots)
    found = starts(features, mask, count)
    for b in range(2):
        x, share = flat(features, mask, b)
        inside = [i for i in range(len(x)) if share[i] >= share.max() / 2]
        chosen = [sum(w * place for w, place in zip(share, x, strict=True)) / share.sum()]
        for _ in range(count):
            far = max(inside, key=lambda i: min(float((x[i] - each).norm()) for each in chosen))
            chosen.append(x[far])
        torch.testing.assert_close(found[b], torch.stack(chosen[1:]))


@settings(max_examples=10)
@given(seed=seeds, shots=st.integers(1, 2), count=st.integers(1, 3))
def test_em_is_the_loop(seed, shots, count):
    features, mask = made(seed, shots=shots, grid=(2, 3))
    unit = features / features.norm(dim=2, keepdim=True)
    means, (found, weight) = starts(unit, mask, count), em(features, mask, count)
    for b in range(2):
        x, share = flat(unit, mask, b)
        mu = list(means[b])
        for _ in range(10):
            sums, masses = [torch.zeros(5, dtype=torch.float64) for _ in mu], [0.0] * count
            for place, w in zip(x, share, strict=True):
                odds = [math.exp(KAPPA * float(m @ place)) for m in mu]
                for k in range(count):
                    sums[k] = sums[k] + w * odds[k] / sum(odds) * place
                    masses[k] += float(w) * odds[k] / sum(odds)
            mu = [each / each.norm() for each in sums]
        torch.testing.assert_close(found[b], torch.stack(mu))
        torch.testing.assert_close(weight[b], torch.tensor(masses, dtype=torch.float64))


@pytest.mark.parametrize("shots", [1, 3])
def test_the_likelihood_never_falls(shots):
    for seed in range(20):
        features, mask = made(seed, shots=shots)
        x = features / features.norm(dim=2, keepdim=True)
        likelihoods = []
        for n in range(1, 12):
            means, _ = em(features, mask, 4, iterations=n)
            scores = KAPPA * torch.einsum("bkchw,bpc->bkphw", x, means)
            likelihoods.append((mask * scores.logsumexp(2, keepdim=True)).sum((1, 2, 3, 4)))
        steps = torch.stack(likelihoods).diff(dim=0)
        assert (steps > -1e-9).all() and steps.max() > 0


def cosines(query, features):
    """Centred cosine of each query place [n] with each support place [N] of one episode, as a loop."""
    q, s = query.flatten(1).T, features.movedim(1, -1).flatten(0, 2)
    mean = (q.mean(0) + s.mean(0)) / 2
    rows = [[float(torch.dot(a, b) / a.norm() / b.norm()) for b in s - mean] for a in q - mean]
    return torch.tensor(rows, dtype=torch.float64)


@settings(max_examples=10)
@given(seed=seeds, shots=st.sampled_from([1, 3]))
def test_nearest_and_attended_are_the_loop(seed, shots):
    features, mask = made(seed, shots=shots, grid=(2, 3))
    query = made(seed + 1, grid=(3, 2))[0][:, 0]
    masks = torch.cat([mask, 1 - mask], dim=2)
    near, soft = nearest(query, features, masks), attended(query, features, masks)
    assert near.shape == soft.shape == (2, 2, 3, 2)
    for b in range(2):
        rows = cosines(query[b], features[b])
        for m in range(2):
            share = masks[b, :, m].flatten()
            inside = [j for j in range(len(share)) if share[j] >= share.max() / 2]
            best = [max(row[j] for j in inside) for row in rows]
            torch.testing.assert_close(near[b, m].flatten(), torch.stack(best))
            sums = [
                sum(w * math.exp(TEMPERATURE * c) for w, c in zip(share / share.sum(), row, strict=True))
                for row in rows
            ]
            expected = torch.tensor([math.log(each) / TEMPERATURE for each in sums], dtype=torch.float64)
            torch.testing.assert_close(soft[b, m].flatten(), expected)


def test_attended_is_attention_whose_value_is_the_label():
    """Keys are the support's places, values their labels; the softmax balances object and ground."""
    features, mask = made(3, shots=2, hard=True)
    query = made(4)[0][:, 0]
    object_, ground = attended(query, features, torch.cat([mask, 1 - mask], dim=2), temperature=9.0).unbind(1)
    found = torch.sigmoid(9.0 * (object_ - ground)).flatten(1)
    for b in range(2):
        label = mask[b].flatten()
        prior = torch.where(label == 1, 1 / label.sum(), 1 / (1 - label).sum())
        weights = (9.0 * cosines(query[b], features[b]) + prior.log()).softmax(1)
        torch.testing.assert_close(found[b], weights @ label)


def test_how_many_places_the_ground_has_does_not_matter():
    """The same ground twice, as a second shot without the object, changes nothing; nor does half its share."""
    features, mask = made(5, hard=True)
    query = features[:, 0] * 1.5
    twice = torch.cat([features, torch.where(mask == 1, 0.5 * features.mean((3, 4), keepdim=True), features)], dim=1)
    object_ = torch.cat([mask, torch.zeros_like(mask)], dim=1)
    masks = torch.cat([object_, torch.cat([1 - mask, torch.zeros_like(mask)], dim=1)], dim=2)
    more = torch.cat([object_, torch.cat([1 - mask, 1 - mask], dim=1)], dim=2)
    halved = masks * torch.tensor([1, 0.5]).view(2, 1, 1)
    for likeness in (nearest, attended):
        once = likeness(query, twice, masks)
        torch.testing.assert_close(likeness(query, twice, more), once)
        torch.testing.assert_close(likeness(query, twice, halved), once)


def test_a_sharp_attended_label_is_the_nearest_places():
    features, mask = made(6, shots=2, hard=True)
    query = made(7)[0][:, 0]
    masks = torch.cat([mask, 1 - mask], dim=2)
    sharp = attended(query, features, masks, temperature=5000.0)
    torch.testing.assert_close(sharp, nearest(query, features, masks), rtol=0, atol=2e-3)


def test_in_chunks_it_is_the_same(monkeypatch):
    features, mask = made(8, shots=2)
    query = made(9)[0][:, 0]
    whole = [likeness(query, features, mask) for likeness in (nearest, attended)]
    monkeypatch.setattr(fss.prototypes, "CHUNK", 5)
    torch.testing.assert_close([likeness(query, features, mask) for likeness in (nearest, attended)], whole)


def test_similarity_by_hand():
    query = torch.tensor([[[[3.0, 0.0, -1.0]], [[4.0, 2.0, 0.0]]]])  # 1 C=2 h=1 w=3
    found = similarity(query, torch.tensor([[[2.0, 0.0], [0.0, 0.0], [1.0, 1.0]]]))
    root = math.sqrt(0.5)
    expected = [[0.6, 0.0, -1.0], [0, 0, 0], [1.4 * root, root, -root]]
    torch.testing.assert_close(found, torch.tensor(expected)[None, :, None])


# Clusters by hand


@pytest.mark.parametrize("cluster", CLUSTER)
@pytest.mark.parametrize("shots", [1, 3])
def test_parts_are_found(cluster, shots):
    """A bar of three looks, and a ground that is louder."""
    looks = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    features = torch.full((1, shots, 3, 5, 11), -9.0, dtype=torch.float64)
    mask = torch.zeros(1, shots, 1, 5, 11, dtype=torch.float64)
    mask[..., 1:4, 1:10] = 1
    for n, look in enumerate(looks):
        features[..., 1:4, 1 + 3 * n : 4 + 3 * n] = look[:, None, None]
    found, weight = cluster(features, mask, 3)
    sets_equal(found[0], looks, rtol=0, atol=1e-3)
    torch.testing.assert_close(weight, torch.full((1, 3), 9.0 * shots, dtype=torch.float64), rtol=0, atol=1e-2)


def test_superpixels_hang_together():
    """Of one look everywhere, the parts are neighbourhoods: the ends of a bar."""
    features = torch.ones(1, 1, 2, 3, 8)
    mask = torch.ones(1, 1, 1, 3, 8)
    _, weight = superpixels(features, mask, 2)
    torch.testing.assert_close(weight, torch.tensor([[12.0, 12.0]]))
    features[..., :3] *= torch.tensor([1.0, -1.0]).view(2, 1, 1)  # as one look ends, so does a part
    found, weight = superpixels(features, mask, 2)
    sets_equal(found[0], torch.tensor([[1.0, 1.0], [1.0, -1.0]]), rtol=0, atol=1e-5)
    assert sorted(weight[0].tolist()) == [9, 15]


# What must not matter


@settings(max_examples=10)
@given(seed=seeds, shots=st.sampled_from([1, 3]))
@pytest.mark.parametrize("cluster", [kmeans, em])
def test_the_order_of_places_does_not_matter(cluster, seed, shots):
    features, mask = made(seed, shots=shots)
    order = torch.randperm(shots * 24, generator=torch.Generator().manual_seed(seed))

    def shuffled(x):
        places = x.movedim(2, -1).flatten(1, 3)[:, order]
        return places.unflatten(1, (shots, 4, 6)).movedim(-1, 2).contiguous()

    torch.testing.assert_close(cluster(shuffled(features), shuffled(mask), 4), cluster(features, mask, 4))
    query = made(seed + 1)[0][:, 0]
    for likeness in (nearest, attended):
        torch.testing.assert_close(likeness(query, shuffled(features), shuffled(mask)), likeness(query, features, mask))


def test_ties_are_broken_by_the_values():
    """Four places as far from their mean as from each other: which two come first, only they decide."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    mask = torch.ones(1, 1, 1, 1, 4, dtype=torch.float64)
    found = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        features = corners[order].T.reshape(1, 1, 2, 1, 4)
        found.append(kmeans(features, mask, 2)[0])
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


@pytest.mark.parametrize("cluster", CLUSTER)
def test_the_scale_of_features_does_not_matter_to_a_cosine(cluster):
    features, mask = made(10, shots=2)
    query = made(11)[0][:, 0]
    masks = torch.cat([mask, 1 - mask], dim=2)
    usual = best_of(partial(cluster, count=3), query, features, masks)
    torch.testing.assert_close(best_of(partial(cluster, count=3), 3 * query, 7 * features, masks), usual)
    for likeness in (nearest, attended):
        torch.testing.assert_close(likeness(7 * query, 7 * features, masks), likeness(query, features, masks))


@pytest.mark.parametrize("cluster", CLUSTER)
@pytest.mark.parametrize("shots", [1, 3])
def test_the_object_alone_makes_its_prototypes(cluster, shots):
    """What the other places show changes nothing, not even how long their features are."""
    features, mask = made(12, shots=shots)
    other = torch.where(mask > 0, features, made(13, shots=shots)[0])
    torch.testing.assert_close(cluster(other, mask, 3), cluster(features, mask, 3))
    loud = torch.where(mask > 0, features, 50 * features)
    torch.testing.assert_close(cluster(loud, mask, 3), cluster(features, mask, 3))


@pytest.mark.parametrize("cluster", CLUSTER)
def test_an_episode_does_not_depend_on_its_batch(cluster):
    features, mask = made(14, shots=2, batch=3)
    found, weight = cluster(features, mask, 4)
    assert found.shape == (3, 4, 5) and weight.shape == (3, 4)
    torch.testing.assert_close(weight.sum(1), mask.sum((1, 2, 3, 4)))
    alone = [cluster(features[b : b + 1], mask[b : b + 1], 4) for b in range(3)]
    torch.testing.assert_close(torch.cat([each for each, _ in alone]), found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gather", [average, *(partial(cluster, count=3) for cluster in CLUSTER)])
def test_half_precision_stays_what_it_is(gather, dtype):
    features, mask = made(20, shots=2, dtype=torch.float32)
    features, mask = features.to(dtype), mask.to(dtype)
    masks = torch.cat([mask, 1 - mask], dim=2)
    assert all(each.dtype == dtype and each.isfinite().all() for each in gather(features, mask))
    for likeness in (partial(best_of, gather), nearest, attended):
        found = likeness(features[:, 0], features, masks)
        assert found.dtype == dtype and found.isfinite().all()


@pytest.mark.parametrize("cluster", CLUSTER)
def test_nothing_is_drawn(cluster):
    features, mask = made(15, shots=2)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    found = cluster(features, mask, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    again = cluster(features, mask, 4)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


# Too few places, or none


@pytest.mark.parametrize("cluster", CLUSTER)
@pytest.mark.parametrize("places", [0, 1, 2, 3])
def test_fewer_places_than_prototypes(cluster, places):
    """Every place has a prototype, what is left over never wins, and the ground has no say."""
    features, _ = made(16, dtype=torch.float32)
    mask = torch.zeros(2, 1, 1, 4, 6)
    mask[..., 1, :places] = 1
    found, weight = cluster(features, mask, 5)
    assert found.isfinite().all() and found.shape == (2, 5, 5)
    torch.testing.assert_close(weight.sum(1), torch.full((2,), float(places)))
    query = features[:, 0]
    likeness = best_of(partial(cluster, count=5), query, features, mask)
    if places:
        close = {"rtol": 0, "atol": 0.02 if cluster is em else 1e-6}  # where every place belongs to all parts a little
        torch.testing.assert_close(likeness[:, 0, 1, :places], torch.ones(2, places), **close)
        inside = features[:, 0, :, 1, :places]
        expected = torch.cosine_similarity(query[:, :, None], inside[:, :, :, None, None], dim=1).amax(1)
        torch.testing.assert_close(likeness[:, 0], expected, rtol=0, atol=0.1 if cluster is em else 1e-5)
    else:
        assert not found.any() and (likeness == -1).all()


def test_a_prototype_without_places_never_wins():
    """All cosines with the object are negative, and zeros would have 0."""
    features = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1, 1).expand(1, 1, 2, 1, 3).clone()
    found, weight = kmeans(features, torch.ones(1, 1, 1, 1, 3), 2)
    assert sorted(weight[0].tolist()) == [0, 3] and not found[weight == 0].any()
    query = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1)
    likeness = best_of(partial(kmeans, count=2), query, features, torch.ones(1, 1, 1, 1, 3))
    torch.testing.assert_close(likeness.flatten(), torch.tensor([-1 / math.sqrt(5)]))


@pytest.mark.parametrize("name", [*LIKENESSES, "prototypes:3", "em:3", "superpixels:3"])
@pytest.mark.parametrize("label", [0, 1])
def test_what_has_no_places_is_never_preferred(name, label):
    features, _ = made(17, shots=2, dtype=torch.float32)
    query = made(18, dtype=torch.float32)[0][:, 0]
    mask = torch.full((2, 2, 1, 4, 6), float(label))
    head, _, count = name.partition(":")
    likeness = partial(best_of, partial(CLUSTERINGS[head], count=int(count))) if count else LIKENESSES[name]
    object_, ground = likeness(query, features, torch.cat([mask, 1 - mask], dim=2)).unbind(1)
    assert ((object_ > ground) == bool(label)).all()
    object_, ground = likeness(query, features, torch.zeros(2, 2, 2, 4, 6)).unbind(1)
    assert torch.equal(object_, ground) and object_.isfinite().all()


@pytest.mark.parametrize("cluster", CLUSTER)
@pytest.mark.parametrize("count", [0, -1])
def test_no_prototypes_are_refused(cluster, count):
    with pytest.raises(InputError, match=f"^{count} prototypes: use 1 or more$"):
        cluster(*made(19), count)


# By name


@pytest.mark.parametrize(
    "name",
    [*REFERENCES, "prototypes:1", "prototypes:8", "em:5", "superpixels:12", "prototype@0.06", "em:5@-0.1", "nearest@1"],
)
def test_names_of_references(name):
    assert is_reference(name)
    assert callable(reference(name, network()))


@pytest.mark.parametrize("name", ["best-lite0-shapes", "runs/em", "C:/runs", "prototyp", "", "./prototypes:3"])
def test_names_of_other_things(name):
    assert not is_reference(name)


@pytest.mark.parametrize(
    "name",
    ["prototypes:0", "prototypes:x", "prototypes:", "prototypes", "prototypes:-1", "prototypes:1.5", "prototypes:1000"]
    + ["prototypes:٣", "em", "em:05", "prototype:3", "nearest:2", "all-foreground:1", "attended:"]
    + ["all-foreground@0.1", "nearest@", "nearest@x", "nearest@1e-3", "em@0.1", "em:5@.1", "prototype@0.1@0.1"],
)
def test_a_wrong_number_is_one_line_that_says_what_there_is(name):
    with pytest.raises(InputError) as error:
        is_reference(name)
    assert str(error.value) == (
        f"{name}: no such reference; there are all-foreground, prototype, nearest, attended and, with a number P of "
        "prototypes from 1 to 999, prototypes:P, em:P, superpixels:P; each but the first takes a threshold, as in "
        "prototype@0.06"
    )


def test_a_threshold_moves_where_object_begins():
    """Object is where the mean over both depths of (likeness to the object - likeness to the ground) is larger."""
    torch.manual_seed(0)
    deep = [Features(*(torch.randn(1, *lead, 4, 3, 5) for _ in range(3))) for lead in ((), (1,))]
    mask = torch.zeros(1, 1, 3, 5, dtype=torch.uint8)
    mask[..., 1:, :2] = 1
    batch = FeatureBatch(deep[0], mask[0], deep[1], mask)
    margins = torch.zeros(3, 5)
    for query, support in ((deep[0].block3, deep[1].block3), (deep[0].block4, deep[1].block4)):
        for y, x in product(range(3), range(5)):
            means = [support[0, 0][:, mask[0, 0] == label].mean(1) for label in (1, 0)]
            cosines = [torch.cosine_similarity(query[0, :, y, x], mean, dim=0) for mean in means]
            margins[y, x] += (cosines[0] - cosines[1]) / 2
    for threshold in ("-0.3", "0", "0.25"):
        found = reference(f"prototype@{threshold}", network())(batch)[0]
        assert torch.equal(found == 1, margins > float(threshold)), threshold


@pytest.mark.parametrize(
    ("name", "meant"),
    [("neerest", "nearest"), ("Prototype", "prototype"), ("superpixel:5", "superpixels:P"), (" EM:5", "em:P")],
)
def test_a_mistyped_reference_is_told_from_a_checkpoint(name, meant, tmp_path, monkeypatch):
    measure = partial(evaluate_checkpoint, name, "shapes", split="test", fold=0, options=DataConfig(), asked={})
    with pytest.raises(InputError, match=f"^{name}: no such checkpoint or reference; did you mean '{meant}'"):
        measure()
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # a run may have any name
    with pytest.raises(InputError, match=r"no best\.safetensors"):
        measure()


def test_the_command_measures_them(tmp_path):
    args = ["eval", "--data", "shapes", "--quiet", "--episodes", 20, "--size", 64, "--json", tmp_path / "x.json"]
    process = Fss(*args, "--checkpoint", "prototypes:4", folder=tmp_path)
    assert process.end() == 0, process.err
    result = json.loads((tmp_path / "x.json").read_text())
    assert (result["checkpoint"], result["episodes"]) == ("prototypes:4", 20) and 0 < result["miou"] < 1
    process = Fss("eval", "--checkpoint", "prototype:3", folder=tmp_path)
    assert process.end() == 2
    assert process.err.startswith("fss: error: prototype:3: no such reference; there are all-foreground, prototype, ")
    assert process.err.count("\n") == 1


def test_each_place_is_given_the_most_similar_prototype_that_has_a_weight():
    prototypes = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]])
    query = torch.tensor([[[[2.0, 0.1, -3.0]], [[0.2, 5.0, -3.0]]]])  # 1,2,1,3
    given = allocate(query, prototypes, torch.tensor([[2.0, 1.0, 1.0]]))
    assert torch.equal(given, torch.tensor([[[[1.0, 0.0, -1.0]], [[0.0, 1.0, -1.0]]]]))
    without = allocate(query, prototypes, torch.tensor([[2.0, 1.0, 0.0]]))
    assert torch.equal(without[..., :2], given[..., :2]) and without[0, :, 0, 2].sum() == 1
