import math
from unittest.mock import Mock

import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import frozen
from torch import nn

import fss.model
from fss.attention import CHUNK, masked_average
from fss.backbones import BUILDERS
from fss.config import ARMS, DANetConfig
from fss.model import DANet, Prediction, prior_mask
from fss.resize import resize, share_of

pytestmark = pytest.mark.numbers

B, H, W = 2, 64, 96  # pixels; 8 x 12 positions at stride 8
GRID = (8, 12)
PRIORS = ["masked_features", "masked_input", "relations", None]
GATES = ("alpha", "beta", "theta")


@pytest.fixture(autouse=True)
def shared_backbones(monkeypatch):
    """Backbones are frozen and slow to build: all networks share one of each name."""
    monkeypatch.setattr(fss.model, "load_backbone", lambda name, pretrained: frozen(name))


def build(config="published", *, seed=0, dropout=0.0, **overrides):
    """A small network in eval mode whose gates are open."""
    torch.manual_seed(seed)
    base = ARMS[config]
    model = DANet(base.override({"channels": 32} | overrides), dropout=dropout)
    for name, parameter in model.named_parameters():
        if name.endswith(GATES):
            nn.init.constant_(parameter, 0.8)
    return model.eval()


def episode(shots=1, *, batch=B, height=H, width=W, seed=0):
    g = torch.Generator().manual_seed(seed)
    query = torch.rand(batch, 3, height, width, generator=g)
    support = torch.rand(batch, shots, 3, height, width, generator=g)
    mask = torch.zeros(batch, shots, height, width, dtype=torch.uint8)
    # down to the edge: of two rows of block4 with aligned corners, one lies at the very bottom
    for b in range(batch):
        for k in range(shots):
            right = 2 * width // 3 + 7 * k - 11 * b  # each picture's own
            mask[b, k, height // 4 :, width // 3 + 3 : right] = 1
    mask[..., : height // 8, :] = 255
    return query, support, mask


def run(model, *inputs, **options):
    with torch.no_grad():
        return model(*inputs, **options)


def fit(x, size):
    """Lite0's geometry: cells, not corners, coincide."""
    return resize(x, size, aligned=False)


def cover(mask, like):
    return share_of(mask, 1, like, aligned=False)


def middle(model, pictures):
    """Block2 and block3 at one size, divided by how far Lite0's numbers spread."""
    features = model.backbone(pictures)
    return features.block2 / 8, fit(features.block3 / 8, GRID)


def copy_head(source, target):
    target.load_state_dict(source.head_state(), strict=False)
    return target


# Every arm


@pytest.mark.parametrize("decoder", ["ppm", "fem"])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", ARMS)
def test_every_arm(name, prior, decoder):
    model = build(name, prior=prior, decoder=decoder)
    query, support, mask = episode()
    with torch.no_grad():
        prediction = model(query, support, mask)
        code = model.encode_support(support, mask)
        again = model.segment(query, code)
    assert prediction.logits.shape == (B, 2, H, W)
    assert prediction.logits.isfinite().all()
    assert torch.equal(again.logits, prediction.logits)
    assert prediction.attention == {}
    scales = [(8, 12), (4, 6), (2, 3), (1, 2)] if decoder == "fem" else []
    assert [tuple(each.shape) for each in prediction.aux] == [(B, 2, *scale) for scale in scales]


@pytest.mark.parametrize("name", BUILDERS)
def test_every_backbone(name):
    model = build("published", backbone=name)
    prediction = run(model, *episode(2, batch=1, height=33, width=49), need_maps=True)
    assert prediction.logits.shape == (1, 2, 33, 49)
    assert prediction.logits.isfinite().all()
    grid = (4, 6) if name == "vgg16_bn" else (5, 7)
    assert prediction.attention["prior"].shape == (1, 1, *grid)
    assert prediction.attention["weights"].shape == (1, 2, 32, *grid)


def test_a_mask_is_the_larger_logit():
    logits = torch.tensor([[[[1.0, 2.0, -3.0]], [[0.0, 2.5, -2.0]]]])
    assert Prediction(logits).mask().tolist() == [[[0, 1, 1]]]


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_has_its_parts_only(name):
    model, config = build(name), ARMS[name]
    kinds = {type(module).__name__ for module in model.modules()}
    assert ("LightAttention" in kinds, "DenseAttention" in kinds) == (config.lda, config.lda)
    assert ("PrototypicalChannelAttention" in kinds) == config.pca
    assert ("PyramidPooling" in kinds) == (config.decoder == "ppm")
    assert ("FeatureEnrichment" in kinds) == (config.decoder == "fem")


@pytest.mark.parametrize("name", ["published", "pfenet"])
def test_batchnorm_lives_in_the_backbone_only(name):
    model = build(name)
    norms = [key for key, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    assert norms and all(key.startswith("backbone.") for key in norms)


def test_options_reach_the_modules():
    model = build("intended", dropout=0.25)
    for module in (model.light, model.dense):
        assert (module.value, module.scaled, module.mask_background) == ("support", True, True)
    assert model.channel.masked
    assert model.light.value_proj.in_channels == 40 and model.dense.value_proj.in_channels == 32
    assert [model.reduce_query[2].p, model.reduce_support[2].p] == [0.25, 0.25]
    assert model.reduce_query[0].weight.shape == (32, 40 + 112, 1, 1)
    assert model.reduce_query[0].weight is not model.reduce_support[0].weight


@pytest.mark.parametrize("name", ["published", "pfenet"])
def test_convolutions_before_a_relu_start_by_he(name):
    model = build(name, channels=64)
    found = 0
    for block in [model.reduce_query, model.reduce_support, *model.decoder.modules()]:
        if isinstance(block, nn.Sequential) and isinstance(block[1], nn.ReLU):
            weight = block[0].weight
            spread = math.sqrt(2 / weight[0].numel())
            assert weight.std().item() == pytest.approx(spread, rel=0.1)
            found += 1
    assert found == {"published": 2 + 4, "pfenet": 2 + 23}[name]


@pytest.mark.parametrize(("channels", "inner"), [(8, 8), (16, 16), (32, 16), (64, 16), (256, 16), (512, 16)])
def test_eq_6_keeps_sixteen_channels_as_with_the_256_of_the_paper(channels, inner):
    assert build("pca", channels=channels).channel.squeeze.out_channels == inner


@pytest.mark.parametrize("name", ARMS)
def test_a_new_network_compares(name):
    """Query and support pass alike, and where they agree the decoder begins with nothing."""
    torch.manual_seed(0)
    model = DANet(ARMS[name].override({"channels": 16, "prior": None})).eval()
    features = torch.rand(2, 152, 3, 5)
    reduced = model.reduce_query(features)
    torch.testing.assert_close(reduced, model.reduce_support(features))
    if model.light is not None:
        torch.testing.assert_close(model.dense.value_proj(reduced), reduced)
        block2 = features[:, :40] - 0.5
        torch.testing.assert_close(model.light.value_proj(block2), block2)
    if model.channel is not None:
        one = reduced[:, None, :, :1, :1]  # of a single position, the prototype is its features
        torch.testing.assert_close(
            model.channel(one, None if not model.channel.masked else one[:, :, :1])[0],
            one.flatten(1),
        )
    fem = name == "pfenet"
    merge = (model.decoder.merges[0] if fem else model.decoder.merge)[0]
    same = torch.cat([reduced, reduced], dim=1)
    torch.testing.assert_close(merge(same), torch.zeros_like(reduced), atol=1e-5, rtol=0)


def test_head_state_is_everything_but_the_backbone():
    model = build()
    head, backbone = model.head_state(), model.backbone.state_dict()
    assert set(model.state_dict()) == set(head) | {f"backbone.{key}" for key in backbone}
    assert {f"light.{gate}" for gate in ("alpha", "beta")} < set(head)


# The pass through the network, by hand


@pytest.mark.parametrize("name", ["published", "intended"])
def test_danet_is_its_equations(name):
    """Eq. 1 to 7 in a row, written with the parts of the model."""
    model = build(name, prior=None)
    query, support, mask = episode(3)
    with torch.no_grad():
        low_q, high_q = middle(model, query)
        shots = [middle(model, support[:, k]) for k in range(3)]
        small = [cover(mask[:, k], low_q) for k in range(3)]
        low = [shot[0] * m for shot, m in zip(shots, small, strict=True)]  # Eq. 1
        high = [shot[1] * m for shot, m in zip(shots, small, strict=True)]
        d_s = [model.reduce_support(torch.cat(pair, 1)) for pair in zip(low, high, strict=True)]  # Eq. 4
        low, d_s, small = torch.stack(low, 1), torch.stack(d_s, 1), torch.stack(small, 1)
        light, _ = model.light(low_q, low, small)  # Eq. 2, 3
        d_q = model.reduce_query(torch.cat([light, high_q], 1))  # Eq. 4
        dense, _ = model.dense(d_q, d_s, small)  # Eq. 5
        prototype, _ = model.channel(d_s, small)  # Eq. 6, 7
        logits, _ = model.decoder(dense, prototype, None)
    expected = fit(logits, (H, W))
    torch.testing.assert_close(run(model, query, support, mask).logits, expected)


def test_base_is_a_masked_average_and_no_attention():
    model = build("base", prior=None)
    query, support, mask = episode(2)
    with torch.no_grad():
        code = model.encode_support(support, mask)
        assert torch.equal(code.prototype, masked_average(code.reduced, code.mask))
        d_q = model.reduce_query(torch.cat(middle(model, query), 1))
        logits, _ = model.decoder(d_q, code.prototype, None)
    torch.testing.assert_close(run(model, query, support, mask).logits, fit(logits, (H, W)))


def test_taps_choose_what_is_reduced():
    query, support, mask = episode()
    for taps, channels in (("both", 152), ("block2", 40)):
        model = build("base", taps=taps)
        assert model.reduce_query[0].in_channels == channels
        seen = Mock(return_value=None)
        model.reduce_query.register_forward_hook(seen)
        run(model, query, support, mask)
        (reduced,) = seen.call_args.args[1]
        torch.testing.assert_close(reduced, torch.cat(middle(model, query), 1)[:, :channels])


@pytest.mark.parametrize("name", ["published", "pfenet"])
def test_where_the_support_is_masked(name):
    """DANet masks before it reduces, PFENet in the average only."""
    model = build(name)
    _, support, mask = episode()
    with torch.no_grad():
        code = model.encode_support(support, mask)
        unmasked = model.reduce_support(torch.cat(middle(model, support[:, 0]), 1))[:, None]
    outside = code.mask == 0
    assert 0 < outside.sum() < outside.numel()
    assert (code.block2 * outside).abs().max() == 0
    assert ((code.reduced * outside).abs().max() == 0) == (name == "published")
    if name == "pfenet":
        torch.testing.assert_close(code.reduced, unmasked)
        weighted = (unmasked * code.mask).sum((3, 4)) / (code.mask.sum((3, 4)) + 5e-4)
        torch.testing.assert_close(code.prototype, weighted[:, 0])


def test_the_mask_is_averaged_over_cells_and_only_label_one_is_the_object():
    model = build()
    _, support, mask = episode()
    with torch.no_grad():
        code = model.encode_support(support, mask)
    expected = (mask == 1).float().reshape(B, 1, 8, 8, 12, 8).mean((3, 5))[:, :, None]
    torch.testing.assert_close(code.mask, expected)
    assert ((0 < expected) & (expected < 1)).any()  # soft at the edges


def test_a_resnet_samples_the_mask_with_aligned_corners_as_pfenet_does():
    model = build(backbone="resnet50")
    _, support, mask = episode(batch=1, height=33, width=49)
    with torch.no_grad():
        code = model.encode_support(support, mask)
    expected = (mask == 1).float()[:, :, None, ::8, ::8]
    torch.testing.assert_close(code.mask, expected)


@pytest.mark.parametrize("name", ["published", "pfenet"])
def test_ignored_pixels_are_background_in_the_support(name):
    model = build(name)
    query, support, mask = episode()
    assert (mask == 255).any()
    with_ignored = run(model, query, support, mask).logits
    assert torch.equal(run(model, query, support, mask * (mask == 1)).logits, with_ignored)
    for other in (mask.long(), mask == 1, (mask == 1).float()):
        assert torch.equal(run(model, query, support, other).logits, with_ignored)
    assert not torch.equal(run(model, query, support, (mask > 0).byte()).logits, with_ignored)


# Shots


@pytest.mark.parametrize("name", ARMS)
def test_shots(name):
    model = build(name)
    query, support, mask = episode(3)
    three = run(model, query, support, mask).logits
    turned = run(model, query, support[:, [1, 2, 0]], mask[:, [1, 2, 0]]).logits
    torch.testing.assert_close(turned, three, rtol=0, atol=1e-5)
    one = run(model, query, support[:, :1], mask[:, :1]).logits
    same = run(model, query, support[:, [0, 0, 0]], mask[:, [0, 0, 0]]).logits
    torch.testing.assert_close(same, one, rtol=0, atol=1e-5)
    assert not torch.allclose(three, one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ARMS)
def test_an_episode_does_not_depend_on_its_batch(name):
    model = build(name)
    query, support, mask = episode(2)
    together = run(model, query, support, mask).logits
    alone = run(model, query[1:], support[1:], mask[1:]).logits
    torch.testing.assert_close(alone, together[1:], rtol=0, atol=1e-5)


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
        expected["relations"] = (B, 8, height, width)
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
    assert still == []
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
    monkeypatch.setattr(fss.model, "CHUNK", 10)
    torch.testing.assert_close(prior_mask(query, support), whole)


def test_prior_of_nothing_is_zero():
    assert not prior_mask(torch.randn(2, 6, 3, 4), torch.zeros(2, 2, 6, 3, 4)).any()


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
    with pytest.raises(ValueError, match=r"holds 0 and 255 and no 1.* pass \(mask > 127\)"):
        model(query, support, stored)
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
