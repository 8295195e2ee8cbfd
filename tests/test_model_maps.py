import math

import pytest
import torch
import torch.nn.functional as F
from episodes_by_hand import GRID, PRIORS, B, H, W, build, copy_head, cover, episode, fit, run
from networks import frozen

import fss.model
from fss.attention import CHUNK
from fss.config import ARMS, DANetConfig
from fss.model import DANet
from fss.relations import prior_mask

pytestmark = pytest.mark.numbers


@pytest.fixture(autouse=True)
def shared_backbones(monkeypatch):
    """Backbones are frozen and slow to build: all networks share one of each name."""
    monkeypatch.setattr(fss.model, "load_backbone", lambda name, pretrained: frozen(name))


# Maps


@pytest.mark.parametrize("name", ARMS)
def test_maps_have_names_and_shapes_and_change_nothing(name):
    model, config = build(name), ARMS[name]
    inputs = episode(3, height=104, width=168)
    height, width, n = 13, 21, 273
    assert n > CHUNK
    plain, shown = run(model, *inputs), run(model, *inputs, need_maps=True)
    expected = {"prior": (B, 1, height, width)}
    if config.lda:
        for key, side in (("rows", height), ("cols", width), ("dense", n)):
            expected |= {key: (B, side, side), f"{key}_by_shot": (B, 3, side, side)}
    if config.pca:
        expected["weights"] = (B, 3, 32, height, width)
    if config.prior == "relations":
        expected["relations"] = (B, 10, height, width)
        for depth, places in ((3, 7 * 11), (4, 4 * 6)):
            expected[f"match{depth}_by_shot"] = (B, 3, places, places)
    assert {key: tuple(map_.shape) for key, map_ in shown.attention.items()} == expected
    torch.testing.assert_close(shown.logits, plain.logits, rtol=0, atol=1e-5)
    for key in ("rows", "cols", "dense"):
        if config.lda:
            mean = shown.attention[f"{key}_by_shot"].mean(1)
            torch.testing.assert_close(shown.attention[key], mean)
    assert plain.attention == {}


@pytest.mark.parametrize("need_maps", [False, True])
def test_the_dense_map_is_built_where_it_is_asked_for_only(need_maps):
    model, asked = build(), []
    model.dense.register_forward_pre_hook(
        lambda module, args, kwargs: asked.append(kwargs["need_map"]), with_kwargs=True
    )
    run(model, *episode(), need_maps=need_maps)
    assert asked == [need_maps]


def test_without_a_prior_there_is_no_map_of_it():
    assert "prior" not in run(build(prior=None), *episode(), need_maps=True).attention


# Gradients


@pytest.mark.parametrize("name", ARMS)
def test_every_weight_learns_and_the_backbone_does_not(name):
    model = build(name)
    query, support, mask = episode(2)
    prediction = model(query, support, mask)
    target = (torch.rand(B, H, W, generator=torch.Generator().manual_seed(3)) < 0.5).long()
    loss = F.cross_entropy(prediction.logits, target)
    for inner in prediction.aux:
        loss = loss + F.cross_entropy(fit(inner, (H, W)), target)
    loss.backward()
    trained = {key: p for key, p in model.named_parameters() if not key.startswith("backbone.")}
    assert set(trained) == set(model.head_state())
    still = [key for key, p in trained.items() if p.grad is None or not p.grad.any()]
    # A bias that only adds a constant to a softmax's scores would be here: there is none.
    # What is withheld teaches nothing.
    assert still == (["reduce_support.0.weight"] if name == "blind" else [])
    assert all(p.grad is None for p in model.backbone.parameters())


def test_gates_open_by_learning():
    """They start at 0, where nothing but the gates learns about the attention."""
    torch.manual_seed(0)
    model = DANet(DANetConfig.published(channels=32)).eval()
    model(*episode()).logits.square().sum().backward()
    assert [getattr(model.light, gate).item() for gate in ("alpha", "beta")] == [0, 0]
    for gate in (model.light.alpha, model.light.beta, model.dense.theta):
        assert gate.grad.item() != 0
    assert not model.dense.key_proj.weight.grad.any()


# The prior


@pytest.mark.parametrize("kind", ["masked_features", "masked_input"])
def test_where_the_prior_is_masked(kind):
    """PFENet runs block4 on the masked block3 and masks again; the other masks afterwards only."""
    model = build(prior=kind)
    query, support, mask = episode()
    with torch.no_grad():
        features = model.backbone(support[:, 0])
        block4 = features.block4
        if kind == "masked_input":
            grid3 = cover(mask[:, 0], features.block3)
            block4 = model.backbone.block4(features.block3 * grid3)
        block4 = block4 * cover(mask[:, 0], block4)
        expected = fit(prior_mask(model.backbone(query).block4, block4[:, None]), GRID)
    found = run(model, query, support, mask, need_maps=True).attention["prior"]
    torch.testing.assert_close(found, expected)


def test_the_two_priors_differ_and_both_matter():
    model = build()
    inputs = episode()
    other = copy_head(model, build(prior="masked_input", seed=1))
    one, two = (run(each, *inputs, need_maps=True) for each in (model, other))
    assert (one.attention["prior"] - two.attention["prior"]).abs().max() > 0.05
    assert not torch.allclose(one.logits, two.logits)
    torch.testing.assert_close(one.attention["dense"], two.attention["dense"])


# Training mode, empty masks


@pytest.mark.parametrize("name", ["published", "pfenet"])
def test_training_mode_drops_channels_and_leaves_the_backbone(name):
    model = build(name, dropout=0.5).train()
    inputs = episode(batch=1)
    assert not model.backbone.training
    assert not torch.equal(run(model, *inputs).logits, run(model, *inputs).logits)
    model.eval()
    assert torch.equal(run(model, *inputs).logits, run(model, *inputs).logits)


@pytest.mark.parametrize("name", ARMS)
def test_an_empty_mask_stays_finite(name):
    model = build(name)
    query, support, mask = episode(2)
    prediction = model(query, support, mask * 0)
    prediction.logits.sum().backward()
    assert prediction.logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_mask_as_files_store_it_is_refused():
    """0 and 255 mean nothing and unknown here; among the shots, one 1 is enough."""
    model = build("base")
    query, support, mask = episode(2)
    stored = mask.clone()
    stored[1] = (stored[1] == 1) * 255
    for label in (255, 15):  # as files store it, or by its class's number
        stored[1] = (mask[1] == 1) * label
        with pytest.raises(ValueError, match=rf"holds {label} and no 1.* pass \(mask > 0\), or \(mask == LABEL\)"):
            model(query, support, stored)
    with pytest.raises(ValueError, match="holds 0.9 and no 1"):
        model(query, support, (mask == 1) * 0.9)
    stored[1, 0, 0, 0] = 1
    model(query, support, stored)
    model(query, support, torch.full_like(mask, 255))  # all unknown


# From features, and one support set for many queries


@pytest.mark.parametrize("prior", PRIORS)
def test_from_features_it_is_the_same(prior):
    model = build(prior=prior)
    query, support, mask = episode(2)
    with torch.no_grad():
        code = model.encode_features(model.support_features(support, mask), mask)
        prediction = model.segment_features(model.backbone(query), code, (H, W))
    assert torch.equal(prediction.logits, run(model, query, support, mask).logits)


def test_support_features_follow_the_shots():
    model = build(prior="masked_input")
    _, support, mask = episode(3)
    features = model.support_features(support, mask)
    for k in range(3):
        single = model.backbone(support[:, k])
        torch.testing.assert_close(features.block2[:, k], single.block2)
        block4 = model.masked_block4(single.block3, mask[:, k])
        torch.testing.assert_close(features.block4[:, k], block4)
        assert not torch.allclose(block4, single.block4)


def test_one_support_set_serves_many_queries():
    model = build()
    query, support, mask = episode(batch=1)
    other, _, _ = episode(batch=1, seed=5)
    with torch.no_grad():
        code = model.encode_support(support, mask)
        for each in (query, other, query):
            found = model.segment(each, code).logits
            assert torch.equal(found, model(each, support, mask).logits)


# Inputs that do not fit


@pytest.mark.parametrize(
    ("change", "mend"),
    [
        (lambda q, s, m: (q, s[:, 0], m), r"support\.unsqueeze\(1\)"),
        (lambda q, s, m: (q, s[:, :0], m[:, :0]), "K >= 1"),
        (lambda q, s, m: (q, s, m[:, 0]), r"expected \[B,K,H,W\] with one label a pixel"),
        (lambda q, s, m: (q, s, m[:, :, None]), r"expected \[B,K,H,W\]"),
        (lambda q, s, m: (q, s, m[..., ::2, ::2]), r"mask \(2, 2, 32, 48\) does not fit support"),
        (lambda q, s, m: (q, s, m.mT), "does not fit support"),
        (lambda q, s, m: (q[0], s, m), "put the channels first"),
        (lambda q, s, m: (q.permute(0, 2, 3, 1), s, m), "put the channels first"),
        (lambda q, s, m: ((q * 255).byte(), s, m), "divide uint8 by 255"),
        (lambda q, s, m: (q, (s * 255).byte(), m), "divide uint8 by 255"),
        (lambda q, s, m: (q[:1], s, m), "1 queries for 2 support sets; repeat the support code"),
        (lambda q, s, m: (q[..., :64], s, m), "resize them first"),
    ],
)
def test_wrong_inputs_name_the_mend(change, mend):
    with pytest.raises(ValueError, match=mend):
        run(build(), *change(*episode(2)))


def test_a_query_of_another_size_is_fine_without_attention():
    query, support, mask = episode()
    prediction = run(build("base"), query[..., :80], support, mask)
    assert prediction.logits.shape == (B, 2, H, 80)
    assert math.isfinite(prediction.logits.sum())
