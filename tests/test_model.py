import math
from unittest.mock import Mock

import pytest
import torch
from episodes_by_hand import PRIORS, B, H, W, build, cover, episode, fit, middle, run
from networks import frozen
from torch import nn

import fss.model
from fss.attention import masked_average
from fss.backbones import BUILDERS
from fss.config import ARMS
from fss.model import DANet, Prediction

pytestmark = pytest.mark.numbers


@pytest.fixture(autouse=True)
def shared_backbones(monkeypatch):
    """Backbones are frozen and slow to build: all networks share one of each name."""
    monkeypatch.setattr(fss.model, "load_backbone", lambda name, pretrained: frozen(name))


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
    assert torch.allclose(three, one, rtol=0, atol=1e-5) == model.config.without_support


@pytest.mark.parametrize("name", ARMS)
def test_an_episode_does_not_depend_on_its_batch(name):
    model = build(name)
    query, support, mask = episode(2)
    together = run(model, query, support, mask).logits
    alone = run(model, query[1:], support[1:], mask[1:]).logits
    torch.testing.assert_close(alone, together[1:], rtol=0, atol=1e-5)
