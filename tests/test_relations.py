"""The relation maps: a loop, what must not matter, and what they are for."""

import math

import pytest
import reference
import torch
from hypothesis import given, settings, strategies as st

import fss.relations
from fss.relations import TEMPERATURE, Labelled, MaskAttention, Relations, cosine, pool, prior_mask

pytestmark = pytest.mark.numbers

GRID = (4, 6)


def made(seed, shots, *, grids=(GRID, GRID), batch=2, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    query = [torch.randn(batch, 5, *grid, generator=g, dtype=dtype) for grid in grids]
    support = [
        Labelled(
            torch.randn(batch, shots, 5, *grid, generator=g, dtype=dtype),
            (torch.rand(batch, shots, 1, *grid, generator=g) < 0.5).to(dtype),
        )
        for grid in grids
    ]
    return query, support


def places(map_):
    return map_.movedim(-3, 0).flatten(1).numpy()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), shots=st.integers(1, 3))
def test_the_maps_are_the_loop(seed, shots):
    query, support = made(seed, shots)
    mask = support[0].mask
    support = [Labelled(part.features, mask) for part in support]
    found, _ = Relations(aligned=False).double()(query, support, GRID)
    for b in range(2):
        expected = reference.relations(
            [q[b].flatten(1).numpy() for q in query],
            [part.features[b].movedim(1, 0).flatten(1).numpy() for part in support],
            mask[b].flatten().numpy(),
        )
        torch.testing.assert_close(found[b].flatten(1), torch.from_numpy(expected))


@pytest.mark.parametrize("centred", [False, True])
def test_attention_hands_on_the_labels(centred):
    """A support that is the query: at a high temperature each place finds itself."""
    query, _ = made(0, 1)
    mask = torch.zeros(2, 1, 1, *GRID, dtype=torch.float64)
    mask[..., 1:3, 2:5] = 1
    attend = MaskAttention(centred=centred).double()
    attend.log_temperature.data.fill_(math.log(2000))
    found, weights = attend(query[1], Labelled(query[1][:, None], mask), need_map=True)
    torch.testing.assert_close(found, mask[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(weights[:, 0], torch.eye(24).double().expand(2, 24, 24), rtol=0, atol=1e-6)


def test_what_all_places_share_does_not_matter_when_centred():
    query, support = made(1, 2)
    moved = Labelled(support[0].features + 3, support[0].mask)
    plain, centred = (MaskAttention(centred=choice).double() for choice in (False, True))
    same = [centred(q, s)[0] for q, s in ((query[0], support[0]), (query[0] + 3, moved))]
    torch.testing.assert_close(*same)
    other = [plain(q, s)[0] for q, s in ((query[0], support[0]), (query[0] + 3, moved))]
    assert not torch.allclose(*other, atol=1e-3)


def test_shots_are_asked_together():
    """One shot that nothing resembles says nothing; a mean over the shots would halve the mask."""
    query, support = made(2, 1)
    far = Labelled(
        torch.cat(
            [support[0].features, -query[0][:, None].mean((3, 4), keepdim=True).expand(-1, -1, -1, *GRID) * 50], dim=1
        ),
        torch.cat([support[0].mask, torch.zeros_like(support[0].mask)], dim=1),
    )
    attend = MaskAttention(centred=False).double()
    attend.log_temperature.data.fill_(math.log(300))
    one, two = attend(query[0], support[0])[0], attend(query[0], far, need_map=True)
    rows = two[1].sum((1, 3))
    torch.testing.assert_close(rows, torch.ones_like(rows))
    assert (one - two[0]).abs().median() < 1e-3


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_the_order_of_the_shots_does_not_matter(order):
    query, support = made(3, 3)
    turned = [Labelled(part.features[:, order], part.mask[:, order]) for part in support]
    relations = Relations(aligned=False).double()
    a, b = (relations(query, part, GRID)[0] for part in (support, turned))
    torch.testing.assert_close(a, b)


def test_maps_come_where_they_are_asked_for_and_change_nothing(monkeypatch):
    grids = ((4, 6), (2, 3))
    query, support = made(4, 2, grids=grids)
    relations = Relations(aligned=False).double()
    shown, maps = relations(query, support, (8, 12), need_maps=True)
    shapes = {key: tuple(map_.shape) for key, map_ in maps.items()}
    assert shapes == {"match3_by_shot": (2, 2, 24, 24), "match4_by_shot": (2, 2, 6, 6)}
    for map_ in maps.values():
        rows = map_.sum((1, 3))
        torch.testing.assert_close(rows, torch.ones_like(rows))
    monkeypatch.setattr(fss.relations, "CHUNK", 5)
    plain, none = relations(query, support, (8, 12))
    torch.testing.assert_close(plain, shown)
    assert none == {} and plain.shape == (2, Relations.CHANNELS, 8, 12)


@pytest.mark.parametrize("label", [0, 1])
def test_a_mask_of_one_kind_stays_finite(label):
    query, support = made(5, 1, dtype=torch.float32)
    full = [Labelled(part.features, torch.full_like(part.mask, label)) for part in support]
    found, _ = Relations(aligned=True)(query, full, GRID)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, :4], torch.full_like(found[:, :4], label))


def test_temperatures_start_alike_and_learn():
    query, support = made(6, 1, dtype=torch.float32)
    relations = Relations(aligned=False)
    found, _ = relations(query, support, GRID)
    found.square().sum().backward()
    learnt = dict(relations.named_parameters())
    assert len(learnt) == 4 and all(p.grad.abs() > 0 for p in learnt.values())
    assert {round(p.exp().item(), 4) for p in learnt.values()} == {TEMPERATURE}


def test_prototypes_by_hand():
    features = torch.tensor([[[[[1.0, 3.0]], [[0.0, 4.0]]], [[[5.0, 7.0]], [[2.0, 2.0]]]]])
    weight = torch.tensor([[[[[1.0, 0.0]]], [[[0.5, 0.5]]]]])  # 1 K=2 C=2 h=1 w=2
    torch.testing.assert_close(pool(features, weight), torch.tensor([[(1 + 6) / 2, (0 + 2) / 2]]))
    assert not pool(features, 0 * weight).any()
    query = torch.tensor([[[[3.0, 0.0]], [[4.0, 2.0]]]])
    found = cosine(query, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[[[0.6, 0.0]]]]))
    assert not cosine(query, torch.zeros(1, 2)).any()


def test_what_the_label_leaves_open_is_neither_object_nor_ground():
    """Three places in a row: object, open, ground. What the open one shows does not matter."""
    mask = torch.tensor([[[[[1.0, 0.0, 0.0]]]]])
    ground = torch.tensor([[[[[0.0, 0.0, 1.0]]]]])
    features = torch.tensor([[[[[1.0, 7.0, 0.0]], [[0.0, 7.0, 1.0]]]]])  # 1 K=1 C=2 h=1 w=3
    object_, surroundings = Labelled(features, mask, ground).prototypes()
    assert object_.tolist() == [[1, 0]] and surroundings.tolist() == [[0, 1]]
    query = torch.tensor([[[[3.0, 0.0, 5.0]], [[0.0, 2.0, 5.0]]]])
    attend = MaskAttention(centred=False)
    attend.log_temperature.data.fill_(math.log(2))
    found, weights = attend(query, Labelled(features, mask, ground), need_map=True)
    e = math.exp(2)  # the cosines of the first place with object and ground are 1 and 0
    torch.testing.assert_close(found, torch.tensor([[[[e / (e + 1), 1 / (e + 1), 0.5]]]]))
    assert not weights[..., 1].any()
    other = features.clone()
    other[..., 1] = -1
    for changed in (other, other * torch.tensor([1.0, 0.0, 1.0])):
        torch.testing.assert_close(attend(query, Labelled(changed, mask, ground))[0], found)


# PFENet's prior


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), shots=st.integers(1, 3))
def test_prior_is_the_loop(seed, shots):
    g = torch.Generator().manual_seed(seed)
    query = torch.randn(2, 6, 3, 4, generator=g, dtype=torch.float64)
    support = torch.randn(2, shots, 6, 2, 5, generator=g, dtype=torch.float64)
    support *= torch.rand(2, shots, 1, 2, 5, generator=g) < 0.6  # zeros are the background
    prior = prior_mask(query, support)
    assert prior.shape == (2, 1, 3, 4)
    assert prior.min() >= 0 and prior.max() <= 1
    for b in range(2):
        expected = reference.prior_mask(query[b].numpy(), support[b].numpy())
        torch.testing.assert_close(prior[b, 0], torch.from_numpy(expected))


def test_prior_in_chunks_is_the_prior(monkeypatch):
    query, support = torch.randn(2, 6, 7, 9), torch.randn(2, 3, 6, 7, 9)
    whole = prior_mask(query, support)
    monkeypatch.setattr(fss.relations, "CHUNK", 10)
    torch.testing.assert_close(prior_mask(query, support), whole)


def test_prior_of_nothing_is_zero():
    assert not prior_mask(torch.randn(2, 6, 3, 4), torch.zeros(2, 2, 6, 3, 4)).any()


def test_a_likeness_says_whether_the_query_shows_the_object():
    """Places of the query point like the support's object, or like nothing that the support shows."""
    object_, ground, else_ = torch.eye(3)
    mask = torch.zeros(1, 1, 1, *GRID)
    mask[..., :3] = 1
    features = torch.where(mask.bool(), object_[:, None, None], ground[:, None, None])
    support = [Labelled(features, mask)] * 2
    likeness = []
    for shown in (object_, else_ + 0.2 * object_):
        query = torch.where(mask[0].bool(), shown[:, None, None], ground[:, None, None])
        maps, _ = Relations(aligned=False)([query] * 2, support, GRID)
        assert torch.equal(maps[:, 8:].amin((2, 3)), maps[:, 8:].amax((2, 3)))
        likeness.append(maps[0, 8:, 0, 0] / fss.relations.CONTRAST)
    torch.testing.assert_close(likeness[0], torch.ones(2), rtol=0, atol=0.01)
    assert (likeness[1] < 0.5).all()
