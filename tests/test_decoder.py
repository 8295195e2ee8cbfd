import pytest
import torch
from torch import nn

from fss.decoder import FeatureEnrichment, PyramidPooling

pytestmark = pytest.mark.numbers

C, H, W = 8, 9, 13  # neither a multiple of any number of bins
DECODERS = [PyramidPooling, FeatureEnrichment]


def build(make, *, prior=True, **options):
    torch.manual_seed(0)
    decoder = make(C, prior=prior, **options)
    for module in decoder.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return decoder


def inputs(batch=2, size=(H, W), seed=0):
    g = torch.Generator().manual_seed(seed)
    query = torch.rand(batch, C, *size, generator=g)
    prototype = torch.rand(batch, C, generator=g)
    return query, prototype, torch.rand(batch, 1, *size, generator=g)


def flat(output):
    logits, inner = output
    return [logits, *inner]


@pytest.mark.parametrize("make", DECODERS)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [(H, W), (1, 3)])
def test_logits_have_the_size_of_the_features(make, train, size):
    logits, _ = make(C, prior=True).train(train)(*inputs(size=size))
    assert logits.shape == (2, 2, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("make", DECODERS)
@pytest.mark.parametrize("train", [False, True])
def test_an_episode_does_not_depend_on_its_batch(make, train):
    """No normalisation over a batch, anywhere: batches of one must train like any other."""
    decoder = build(make).train(train)
    batch = inputs(3)
    together = flat(decoder(*batch))
    for i in range(3):
        alone = flat(decoder(*(each[i : i + 1] for each in batch)))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b)


@pytest.mark.parametrize("make", DECODERS)
@pytest.mark.parametrize("part", range(3), ids=["query", "prototype", "prior"])
def test_every_input_reaches_every_output(make, part):
    decoder, given = build(make), list(inputs())
    before = flat(decoder(*given))
    given[part] = given[part] + 1
    for a, b in zip(before, flat(decoder(*given)), strict=True):
        assert not torch.allclose(a, b)


@pytest.mark.parametrize("make", DECODERS)
def test_a_decoder_without_a_prior(make):
    decoder = build(make, prior=False)
    query, prototype, _ = inputs()
    logits, _ = decoder(query, prototype, None)
    assert logits.shape == (2, 2, H, W)
    with pytest.raises(RuntimeError):
        decoder(*inputs())


def test_a_prototype_is_the_same_everywhere():
    """With a constant query and prior, only the zero padding of the 3x3 convolutions shows."""
    decoder = build(PyramidPooling)
    query, prototype, prior = inputs(1, (31, 33))
    logits, _ = decoder(torch.full_like(query, 0.3), prototype, torch.full_like(prior, 0.5))
    inside = logits[..., 15:17, 15:17]
    assert inside.abs().max() > 0
    torch.testing.assert_close(inside, inside[..., :1, :1].expand_as(inside))


def test_ppm_has_no_inner_logits_and_sees_the_whole_picture():
    decoder = build(PyramidPooling)
    query, prototype, prior = inputs(1, (40, 50))
    logits, inner = decoder(query, prototype, prior)
    assert inner == []
    query[..., -1, -1] += 50
    far, _ = decoder(query, prototype, prior)
    assert not torch.allclose(far[..., 0, 0], logits[..., 0, 0], atol=1e-6)


def test_ppm_pools_to_its_bins(monkeypatch):
    pooled = []
    original = torch.nn.functional.adaptive_avg_pool2d

    def pool(x, size):
        out = original(x, size)
        pooled.append(tuple(out.shape[-2:]))
        return out

    monkeypatch.setattr(torch.nn.functional, "adaptive_avg_pool2d", pool)
    build(PyramidPooling)(*inputs())
    assert pooled == [(1, 1), (2, 2), (3, 3), (6, 6)]


@pytest.mark.parametrize(
    ("size", "scales"),
    [
        ((60, 60), [(60, 60), (30, 30), (15, 15), (8, 8)]),  # PFENet's bins at 473 px
        ((9, 13), [(9, 13), (5, 7), (3, 4), (2, 2)]),
    ],
)
def test_fem_scales(size, scales):
    _, inner = build(FeatureEnrichment)(*inputs(1, size))
    assert [tuple(each.shape) for each in inner] == [(1, 2, *scale) for scale in scales]


def test_fem_scales_of_its_own():
    """PFENet's published code has its bins at every size, also where there are fewer positions."""
    decoder, given = build(FeatureEnrichment, bins=15), inputs()
    logits, inner = decoder(*given)
    assert logits.shape == (2, 2, H, W)
    assert [tuple(each.shape[-2:]) for each in inner] == [(15, 15), (8, 8), (4, 4), (2, 2)]


def test_fem_coarser_scales_learn_from_finer_ones_only():
    decoder = build(FeatureEnrichment)
    _, before = decoder(*inputs())
    with torch.no_grad():
        decoder.merges[1][0].weight.mul_(1.5)
    _, after = decoder(*inputs())
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("make", DECODERS)
def test_a_new_decoder_drops_channels_in_training_only(make):
    torch.manual_seed(0)
    decoder, given = make(C, prior=True), inputs()
    decoder.eval()
    assert torch.equal(decoder(*given)[0], decoder(*given)[0])
    decoder.train()
    assert any(not torch.equal(decoder(*given)[0], decoder(*given)[0]) for _ in range(5))
