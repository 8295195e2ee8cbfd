import itertools
import math

import pytest
import reference
import torch
from hypothesis import given, settings, strategies as st
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from fss import attention
from fss.attention import (
    DenseAttention,
    LightAttention,
    PrototypicalChannelAttention,
    attention_weights,
    foreground,
    masked_average,
)

pytestmark = pytest.mark.numbers

B, C, H, W = 2, 16, 3, 5  # d = 2; H, W, C and d all differ, so that no shape error runs silently
SPATIAL = {
    "light": (LightAttention, {"rows": 0.7, "cols": -0.4}),
    "dense": (DenseAttention, {"dense": 1.3}),
}
GATES = {"rows": "alpha", "cols": "beta", "dense": "theta"}
OPTIONS = [
    {"value": value, "scaled": scaled, "mask_background": hidden}
    for value, scaled, hidden in itertools.product(("query", "support"), (False, True), (False, True))
]


def opened(kind, channels=C, dtype=torch.float64, seed=0, **options):
    """A module whose gates are away from zero, where it does something."""
    torch.manual_seed(seed)
    make, gates = SPATIAL[kind]
    module = make(channels, **options).to(dtype)
    with torch.no_grad():
        for name, gate in gates.items():
            getattr(module, GATES[name]).fill_(gate)
    return module


def episode(shots=1, *, batch=B, channels=C, height=H, width=W, dtype=torch.float64, seed=1):
    """Query, support (masked already) and a soft mask with foreground in some rows and columns."""
    g = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, channels, height, width, generator=g, dtype=dtype)
    support = torch.randn(batch, shots, channels, height, width, generator=g, dtype=dtype)
    mask = torch.rand(batch, shots, 1, height, width, generator=g, dtype=dtype)
    mask[..., 1, :] *= 0.5  # a row and a column that hold no foreground
    mask[..., :, 2] *= 0.5
    return query, support * mask, mask


def projection(conv):
    bias = None if conv.bias is None else conv.bias.detach().numpy()
    return conv.weight.detach().numpy()[:, :, 0, 0], bias


def identity(module):
    """Make every projection the identity (of one channel)."""
    with torch.no_grad():
        for child in module.children():
            child.weight.fill_(1)
            if child.bias is not None:
                child.bias.zero_()
    return module


def picture(rows):
    return torch.tensor(rows, dtype=torch.float64)[None, None]


# Against the loops


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("kind", SPATIAL)
def test_spatial_attention_is_the_loop(kind, options, shots):
    module, gates = opened(kind, **options), SPATIAL[kind][1]
    query, support, mask = episode(shots)
    with torch.no_grad():
        out, maps = module(query, support, mask)
    projections = {name: projection(getattr(module, f"{name}_proj")) for name in ("query", "key", "value")}
    for b in range(B):
        expected, expected_maps = reference.spatial_attention(
            query[b].numpy(),
            support[b].numpy(),
            mask[b, :, 0].numpy(),
            projections,
            gates,
            **options,
        )
        torch.testing.assert_close(out[b], torch.from_numpy(expected))
        for name, by_shot in expected_maps.items():
            by_shot = torch.stack([torch.from_numpy(each) for each in by_shot])
            torch.testing.assert_close(getattr(maps, f"{name}_by_shot")[b], by_shot)
            torch.testing.assert_close(getattr(maps, name)[b], by_shot.mean(0))


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_channel_attention_is_the_loop(masked, shots):
    torch.manual_seed(0)
    module = PrototypicalChannelAttention(C, reduction=4, masked=masked).double()
    _, support, mask = episode(shots)
    with torch.no_grad():
        prototype, maps = module(support, mask)
    for b in range(B):
        expected, weights = reference.channel_attention(
            support[b].numpy(),
            mask[b, :, 0].numpy(),
            projection(module.squeeze),
            projection(module.expand),
            masked=masked,
        )
        torch.testing.assert_close(prototype[b], torch.from_numpy(expected))
        torch.testing.assert_close(maps.weights[b], torch.from_numpy(weights))


# By hand: 2 x 3 pictures of one channel, projections the identity


@pytest.fixture
def toy():
    query = picture([[math.log(3), 0, 0], [0, 0, 0]])
    support = picture([[1, 0, 0], [0, 0, 0]]).unsqueeze(1)
    return query, support


def test_light_attention_by_hand(toy):
    module = identity(opened("light", 1))
    with torch.no_grad():
        module.alpha.fill_(1)
        module.beta.fill_(10)
    out, maps = module(*toy)
    rows = torch.tensor([[3 / 4, 1 / 4], [1 / 2, 1 / 2]], dtype=torch.float64)
    third = [1 / 3, 1 / 3, 1 / 3]
    cols = torch.tensor([[3 / 5, 1 / 5, 1 / 5], third, third], dtype=torch.float64)
    torch.testing.assert_close(maps.rows, rows[None])
    torch.testing.assert_close(maps.cols, cols[None])
    # value = query = log 3 in the corner: 1 * rows, 10 * columns, and the residual
    shares = [[3 / 4 + 10 * 3 / 5 + 1, 10 / 3, 10 / 3], [1 / 2, 0, 0]]
    torch.testing.assert_close(out, math.log(3) * picture(shares))


def test_dense_attention_by_hand(toy):
    module = identity(opened("dense", 1, value="support"))
    with torch.no_grad():
        module.theta.fill_(2)
    out, maps = module(*toy)
    first = [3 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 8]
    torch.testing.assert_close(maps.dense, torch.tensor([[first] + 5 * [6 * [1 / 6]]], dtype=torch.float64))
    sixth = 2 / 6
    shares = [[2 * 3 / 8 + math.log(3), sixth, sixth], [sixth, sixth, sixth]]
    torch.testing.assert_close(out, picture(shares))


def test_dense_attention_by_hand_without_the_background(toy):
    module = identity(opened("dense", 1, mask_background=True))
    mask = torch.zeros(1, 1, 1, 2, 3, dtype=torch.float64)
    mask[..., 0, 0] = mask[..., 1, 2] = 1
    _, maps = module(*toy, mask)
    first = [3 / 4, 0, 0, 0, 0, 1 / 4]
    others = [1 / 2, 0, 0, 0, 0, 1 / 2]
    torch.testing.assert_close(maps.dense, torch.tensor([[first] + 5 * [others]], dtype=torch.float64))


@pytest.mark.parametrize(("masked", "share"), [(False, 4 / 9), (True, 4 / 5)])
def test_channel_attention_by_hand(masked, share):
    module = identity(PrototypicalChannelAttention(1, masked=masked).double())
    support = picture([[math.log(4), 0, 0], [0, 0, 0]]).unsqueeze(1)
    mask = torch.zeros(1, 1, 1, 2, 3, dtype=torch.float64)
    mask[..., 0, 0] = mask[..., 1, 2] = 1
    prototype, maps = module(support, mask)
    assert prototype.item() == pytest.approx(share * math.log(4))
    assert maps.weights[0, 0, 0, 0, 0].item() == pytest.approx(share)


def test_masked_average_by_hand():
    support = torch.tensor([[2.0, 4.0, 100.0], [6.0, 100.0, 100.0]])[None, None, None]
    mask = torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.0, 0.0]])[None, None, None]
    expected = (2 + 2 + 6) / (2.5 + 5e-4)
    assert masked_average(support, mask).item() == pytest.approx(expected, rel=1e-6)
    # the mean of two shots' averages, not the average of all their pixels
    support, mask = torch.cat([support, support * 0 + 1], 1), torch.cat([mask, mask * 0 + 1], 1)
    expected = (expected + 6 / (6 + 5e-4)) / 2
    assert masked_average(support, mask).item() == pytest.approx(expected, rel=1e-6)


def test_masked_average_of_nothing_is_zero():
    _, support, mask = episode(2)
    assert torch.equal(masked_average(support, mask * 0), torch.zeros(B, C, dtype=torch.float64))


# Gradients


def gradcheck(module, *inputs):
    names, values = zip(*module.named_parameters(), strict=True)

    def outputs(*tensors):
        parameters = dict(zip(names, tensors, strict=False))
        out, maps = functional_call(module, parameters, tensors[len(names) :])
        return out, *(map_ for map_ in maps if map_ is not None)

    tensors = [t.detach().clone().requires_grad_() for t in (*values, *inputs[:-1])]
    return torch.autograd.gradcheck(outputs, (*tensors, inputs[-1]))


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[-1]], ids=["published", "intended"])
@pytest.mark.parametrize("kind", SPATIAL)
def test_gradients_of_spatial_attention(kind, options):
    module = opened(kind, 4, **options)
    assert gradcheck(module, *episode(2, batch=1, channels=4, height=2, width=3))


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_channel_attention(masked):
    torch.manual_seed(0)
    module = PrototypicalChannelAttention(4, reduction=2, masked=masked).double()
    _, support, mask = episode(2, batch=1, channels=4, height=2, width=3)
    assert gradcheck(module, support, mask)


# The map in pieces


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("options", OPTIONS[1::2] + OPTIONS[:1])
def test_dense_attention_in_chunks(options, dtype, tolerance):
    height, width = 22, 25
    assert height * width > 2 * attention.CHUNK and height * width % attention.CHUNK
    module = opened("dense", dtype=dtype, **options)
    inputs = episode(2, height=height, width=width, dtype=dtype)
    with torch.no_grad():
        whole, maps = module(*inputs)
        pieces, no_maps = module(*inputs, need_map=False)
    assert no_maps == (None, None)
    assert maps.dense.shape == (B, height * width, height * width)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=tolerance * whole.abs().max().item())


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, list | tuple) else [out]:
            if isinstance(each, torch.Tensor):
                self.numel = max(self.numel, each.numel())
        return out


def test_without_a_map_no_n_by_n_tensor_is_made():
    height, width = 22, 25
    n = height * width
    module = opened("dense", mask_background=True)
    inputs = episode(1, batch=1, height=height, width=width)
    with torch.no_grad():
        with LargestTensor() as largest:
            module(*inputs)
        assert largest.numel == n * n
        with LargestTensor() as largest:
            module(*inputs, need_map=False)
        assert largest.numel == attention.CHUNK * n


# What the maps mean


@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
@pytest.mark.parametrize("kind", SPATIAL)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), shots=st.integers(1, 3), size=st.tuples(*[st.integers(1, 5)] * 2))
def test_rows_sum_to_one_and_maps_are_means_of_shots(kind, options, seed, shots, size):
    torch.manual_seed(seed)
    query = torch.randn(1, 8, *size)
    support = torch.randn(1, shots, 8, *size)
    mask = torch.rand(1, shots, 1, *size)
    _, maps = opened(kind, 8, torch.float32, seed, **options)(query, support, mask)
    for name in SPATIAL[kind][1]:
        mean, by_shot = getattr(maps, name), getattr(maps, f"{name}_by_shot")
        torch.testing.assert_close(by_shot.sum(-1), torch.ones(by_shot.shape[:-1]))
        torch.testing.assert_close(mean, by_shot.mean(1))


def test_hidden_keys_get_exactly_nothing():
    inputs = episode(3)
    mask = inputs[2]
    with torch.no_grad():
        _, light = opened("light", mask_background=True)(*inputs)
        _, dense = opened("dense", mask_background=True)(*inputs)
    inside = mask[:, :, 0] > 0.5
    for weights, keys in [
        (light.rows_by_shot, inside.any(-1)),
        (light.cols_by_shot, inside.any(-2)),
        (dense.dense_by_shot, inside.flatten(2)),
    ]:
        assert 0 < keys.sum() < keys.numel()
        seen = weights.amax(dim=2)  # the most that any query gives to a key
        assert torch.equal(seen > 0, keys)


@pytest.mark.parametrize("kind", SPATIAL)
def test_an_empty_mask_hides_nothing(kind):
    query, support, mask = episode(2)
    mask[:, 0] = 0.5  # not above 0.5: no foreground in the first shot
    hiding, seeing = opened(kind, mask_background=True), opened(kind)
    _, with_mask = hiding(query, support, mask)
    _, without = seeing(query, support)
    for name in SPATIAL[kind][1]:
        a, b = getattr(with_mask, f"{name}_by_shot"), getattr(without, f"{name}_by_shot")
        assert torch.equal(a[:, 0], b[:, 0])
        assert not torch.allclose(a[:, 1], b[:, 1])


def test_an_empty_mask_leaves_all_positions_in_the_prototype():
    _, support, mask = episode()
    module = PrototypicalChannelAttention(C, masked=True).double()
    whole = PrototypicalChannelAttention(C).double()
    whole.load_state_dict(module.state_dict())
    assert torch.equal(module(support, mask * 0)[0], whole(support, None)[0])


def test_foreground_is_above_one_half():
    mask = torch.tensor([[0.5, 0.51, 0.0], [0.5, 0.2, 0.0]])
    assert foreground(mask).tolist() == [[False, True, False], [True, True, True]]


def test_transposed_pictures_exchange_rows_and_columns():
    """A bare view instead of a permutation would mix them."""
    query, support, mask = episode(2)
    module = opened("light", mask_background=True)
    with torch.no_grad():
        _, maps = module(query, support, mask)
        _, turned = module(query.mT, support.mT, mask.mT)
    torch.testing.assert_close(turned.rows, maps.cols)
    torch.testing.assert_close(turned.cols, maps.rows)


def test_moved_rows_of_the_support_are_found_where_they_went():
    query, support, _ = episode()
    order = [2, 0, 1]
    module = opened("light", value="support")
    torch.nn.init.zeros_(module.beta)
    with torch.no_grad():
        out, maps = module(query, support)
        moved_out, moved = module(query, support[..., order, :])
    torch.testing.assert_close(moved.rows, maps.rows[:, :, order])
    torch.testing.assert_close(moved_out, out)


def test_scaling_divides_by_the_root_of_a_tokens_length():
    query, support, _ = episode()
    d = C // 8
    for kind, lengths in [("light", {"rows": d * W, "cols": d * H}), ("dense", {"dense": d})]:
        plain = opened(kind)
        _, maps = opened(kind, scaled=True)(query, support)
        for name, length in lengths.items():
            with torch.no_grad():
                root = length**-0.5
                _, expected = plain(query, support * root)  # keys have no bias: scores scale
            torch.testing.assert_close(getattr(maps, name), getattr(expected, name))


@pytest.mark.parametrize("make", [LightAttention, DenseAttention])
@pytest.mark.parametrize("value", ["query", "support"])
def test_a_new_module_passes_the_projected_query_on(make, value):
    query, support, _ = episode(2)
    module = make(C, value=value).double()
    out, _ = module(query, support)
    assert torch.equal(out, module.value_proj(query))


@pytest.mark.parametrize(("channels", "inner"), [(1, 1), (7, 1), (16, 2), (40, 5)])
def test_projections_have_an_eighth_of_the_channels_and_keys_no_bias(channels, inner):
    module = DenseAttention(channels)
    assert module.query_proj.weight.shape == module.key_proj.weight.shape == (inner, channels, 1, 1)
    assert module.key_proj.bias is None and module.query_proj.bias is not None
    assert module.value_proj.weight.shape == (channels, channels, 1, 1)


@pytest.mark.parametrize(("channels", "inner"), [(1, 1), (31, 1), (64, 4)])
def test_squeeze_is_a_sixteenth(channels, inner):
    assert PrototypicalChannelAttention(channels).squeeze.out_channels == inner


# Shots


def outputs(kind, options, query, support, mask):
    with torch.no_grad():
        if kind == "channel":
            torch.manual_seed(0)
            masked = options["mask_background"]
            return PrototypicalChannelAttention(C, masked=masked).double()(support, mask)[0]
        return opened(kind, **options)(query, support, mask)[0]


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[-1]], ids=["published", "intended"])
@pytest.mark.parametrize("kind", [*SPATIAL, "channel"])
def test_the_order_of_shots_does_not_matter_and_their_number_does_not_either(kind, options):
    query, support, mask = episode(3)
    out = outputs(kind, options, query, support, mask)
    turned = outputs(kind, options, query, support[:, [2, 0, 1]], mask[:, [2, 0, 1]])
    torch.testing.assert_close(turned, out)
    one = outputs(kind, options, query, support[:, :1], mask[:, :1])
    thrice = outputs(kind, options, query, support[:, [0, 0, 0]], mask[:, [0, 0, 0]])
    torch.testing.assert_close(thrice, one)
    assert not torch.allclose(one, out)


# Numbers and shapes that do not fit


@pytest.mark.parametrize("kind", SPATIAL)
def test_huge_scores_stay_finite(kind):
    query, support, _ = episode(2, dtype=torch.float32)
    module = opened(kind, dtype=torch.float32)
    with torch.no_grad():
        scores = module.query_proj(query * 500).flatten(2).mT @ module.key_proj(support[:, 0] * 500).flatten(2)
        assert scores.max() > 70_000
        out, maps = module(query * 500, support * 500)
    assert out.isfinite().all()
    for map_ in maps:
        torch.testing.assert_close(map_.sum(-1), torch.ones(map_.shape[:-1]))


def test_channel_attention_of_huge_features_stays_finite():
    module = identity(PrototypicalChannelAttention(1))
    support = torch.tensor([[7e4, 0.0, 7e4], [0.0, 0.0, 0.0]])[None, None, None]
    prototype, maps = module(support, None)
    assert prototype.item() == pytest.approx(7e4)
    assert maps.weights.flatten().tolist() == [0.5, 0, 0.5, 0, 0, 0]


def test_weights_over_kept_keys_only():
    query, key = torch.randn(2, 3), torch.randn(4, 3)
    keep = torch.tensor([True, False, True, True])
    weights = attention_weights(query, key, scale=0.5, keep=keep)
    expected = (0.5 * query @ key[keep].T).softmax(-1)
    torch.testing.assert_close(weights[:, keep], expected)
    assert (weights[:, 1] == 0).all()


@pytest.mark.parametrize("kind", SPATIAL)
@pytest.mark.parametrize(
    ("change", "mend"),
    [
        (lambda q, s, m: (q, s[:, 0], m), r"support\.unsqueeze\(1\)"),
        (lambda q, s, m: (q[0], s, m), r"expected query \[B,C,H,W\]"),
        (lambda q, s, m: (q[..., 1:], s, m), "resize them first"),
        (lambda q, s, m: (q.mT, s, m), "resize them first"),
        (lambda q, s, m: (q[:1], s, m), "must share batch"),
        (lambda q, s, m: (q[:, 1:], s[:, :, 1:], m), f"have {C} channels"),
        (lambda q, s, m: (q, s, m[:, :, 0]), r"mask .* must be \[B,K,1,H,W\]"),
        (lambda q, s, m: (q, s, m.mT), "resize it to the features first"),
        (lambda q, s, m: (q, s, m[:, :1]), r"= \(2, 3, 1, 3, 5\)"),
        (lambda q, s, m: (q, s, None), "mask_background=True needs the mask"),
    ],
)
def test_wrong_shapes_name_the_mend(kind, change, mend):
    with pytest.raises(ValueError, match=mend):
        opened(kind, mask_background=True)(*change(*episode(3)))


@pytest.mark.parametrize(
    ("change", "mend"),
    [
        (lambda s, m: (s[:, 0], m), r"support\.unsqueeze\(1\)"),
        (lambda s, m: (s[:, :, 1:], m), r"expected support \[B,K,16,H,W\]"),
        (lambda s, m: (s, m[:, :, 0]), "resize it to the features first"),
        (lambda s, m: (s, m.mT), "resize it to the features first"),
        (lambda s, m: (s, None), "masked=True needs the mask"),
    ],
)
def test_wrong_shapes_of_channel_attention_name_the_mend(change, mend):
    module = PrototypicalChannelAttention(C, masked=True).double()
    _, support, mask = episode(3)
    with pytest.raises(ValueError, match=mend):
        module(*change(support, mask))


@pytest.mark.parametrize("make", [LightAttention, DenseAttention])
def test_unknown_value_is_refused(make):
    with pytest.raises(ValueError, match="'query' or 'support', not 'key'"):
        make(C, value="key")
