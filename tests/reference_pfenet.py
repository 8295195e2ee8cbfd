"""What PFENet's published code computes, from its own weights and by their names: an oracle.

Said again from dvlab-research/PFENet, ``model/PFENet.py`` and ``model/resnet.py`` (Tian et al.,
TPAMI 2020), in evaluation mode. Nothing of ``fss`` is used. The published code takes square
pictures only; this takes others too.
"""

import torch
import torch.nn.functional as F

DEPTHS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)
STRIDES, DILATIONS = (1, 2, 1, 1), (1, 1, 2, 4)
BINS = (60, 30, 15, 8)
C = 256
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def weights(seed):
    """A state dict of the published network, its weights drawn so that no signal dies or bursts."""
    g = torch.Generator().manual_seed(seed)
    state = {}

    def conv(name, inputs, outputs, kernel, *, scale=1.0, bias=False):
        shape = (outputs, inputs, kernel, kernel)
        spread = scale * (2 / (inputs * kernel**2)) ** 0.5
        state[f"{name}.weight"] = spread * torch.randn(shape, generator=g)
        if bias:
            state[f"{name}.bias"] = torch.randn(outputs, generator=g)

    def norm(name, channels, scale=1.0):
        state[f"{name}.weight"] = scale * (0.5 + torch.rand(channels, generator=g))
        state[f"{name}.bias"] = 0.1 * torch.randn(channels, generator=g)
        state[f"{name}.running_mean"] = 0.1 * torch.randn(channels, generator=g)
        state[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=g)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    for i, (inputs, outputs) in enumerate([(3, 64), (64, 64), (64, 128)]):
        conv(f"layer0.{3 * i}", inputs, outputs, 3)
        norm(f"layer0.{3 * i + 1}", outputs)
    inputs = 128
    for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True), start=1):
        for i in range(depth):
            block = f"layer{stage}.{i}"
            conv(f"{block}.conv1", inputs, width, 1)
            conv(f"{block}.conv2", width, width, 3)
            conv(f"{block}.conv3", width, 4 * width, 1)
            norm(f"{block}.bn1", width)
            norm(f"{block}.bn2", width)
            norm(f"{block}.bn3", 4 * width, 0.3)  # sums of many branches
            if i == 0:
                conv(f"{block}.downsample.0", inputs, 4 * width, 1)
                norm(f"{block}.downsample.1", 4 * width)
            inputs = 4 * width
    conv("down_query.0", 1024 + 512, C, 1)
    conv("down_supp.0", 1024 + 512, C, 1)
    for i in range(len(BINS)):
        conv(f"init_merge.{i}.0", 2 * C + 1, C, 1)
        conv(f"beta_conv.{i}.0", C, C, 3)
        conv(f"beta_conv.{i}.2", C, C, 3)
        if i > 0:
            conv(f"alpha_conv.{i - 1}.0", 2 * C, C, 1)
    conv("res1.0", len(BINS) * C, C, 1)
    conv("res2.0", C, C, 3)
    conv("res2.2", C, C, 3)
    for head in ["cls", *(f"inner_cls.{i}" for i in range(len(BINS)))]:
        conv(f"{head}.0", C, C, 3)
        conv(f"{head}.3", C, 2, 1, scale=0.1, bias=True)  # logits of a few units
    return state


class PFENet:
    """Query pictures [B,3,H,W], support [B,K,3,H,W] in 0..1, labels [B,K,H,W] -> what it makes.

    Attributes after a call: ``logits``, ``inner``, ``prior``, ``prototype``.
    """

    def __init__(self, state):
        self.state = state

    def conv(self, name, x, **options):
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        reach = options.get("dilation", 1) * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, bias, padding=reach, **options)

    def convs(self, x, *names):
        for name in names:
            x = self.conv(name, x).relu()
        return x

    def normed(self, conv, norm, x, **options):
        mean, var, gain, shift = (
            self.state[f"{norm}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (self.conv(conv, x, **options) - mean) / (var + 1e-5).sqrt() * gain + shift

    def stage(self, n, x):
        for i in range(DEPTHS[n - 1]):
            block, stride = f"layer{n}.{i}", STRIDES[n - 1] if i == 0 else 1
            y = self.normed(f"{block}.conv1", f"{block}.bn1", x).relu()
            how = {"stride": stride, "dilation": DILATIONS[n - 1]}
            y = self.normed(f"{block}.conv2", f"{block}.bn2", y, **how).relu()
            y = self.normed(f"{block}.conv3", f"{block}.bn3", y)
            if i == 0:
                down = f"{block}.downsample"
                x = self.normed(f"{down}.0", f"{down}.1", x, stride=stride)
            x = (x + y).relu()
        return x

    def middle(self, pictures):
        """Pictures -> layer2's and layer3's features."""
        x = (pictures - MEAN) / STD
        for i, stride in enumerate((2, 1, 1)):
            x = self.normed(f"layer0.{3 * i}", f"layer0.{3 * i + 1}", x, stride=stride).relu()
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        low = self.stage(2, self.stage(1, x))
        return low, self.stage(3, low)

    def __call__(self, query, support, labels):
        low, high = self.middle(query)
        reduced = self.convs(torch.cat([high, low], 1), "down_query.0")
        deep = self.stage(4, high)
        shots = [self.shot(deep, support[:, k], labels[:, k]) for k in range(support.shape[1])]
        self.prior, self.prototype = (sum(each) / len(shots) for each in zip(*shots, strict=True))
        x, self.inner = self.enrich(reduced)
        self.logits = fit(self.classify("cls", x), query.shape[-2:])
        return self

    def shot(self, query, picture, labels):
        """One support picture: its prior [B,1,H,W] and its prototype [B,C,1,1]."""
        low, high = self.middle(picture)
        object_ = fit((labels == 1).float()[:, None], high.shape[-2:])
        reduced = self.convs(torch.cat([high, low], 1), "down_supp.0")
        prototype = (reduced * object_).sum((2, 3)) / (object_.sum((2, 3)) + 0.0005)
        deep = self.stage(4, high * object_) * object_  # masked before and after
        alike = torch.einsum("bcm,bcn->bmn", deep.flatten(2), query.flatten(2))
        lengths = deep.flatten(2).norm(dim=1)[:, :, None] * query.flatten(2).norm(dim=1)[:, None]
        best = (alike / (lengths + 1e-7)).amax(dim=1)  # the support place most alike
        best = best - best.amin(dim=1, keepdim=True)
        prior = best / (best.amax(dim=1, keepdim=True) + 1e-7)
        return prior.unflatten(1, query.shape[-2:])[:, None], prototype[..., None, None]

    def enrich(self, query):
        """The feature enrichment module: [B,C,H,W] -> the same, and the inner logits."""
        scales, inner = [], []
        for i, bins in enumerate(BINS):
            size = (bins, bins)
            parts = [
                F.adaptive_avg_pool2d(query, size),
                self.prototype.expand(-1, -1, *size),
                fit(self.prior, size),
            ]
            x = self.convs(torch.cat(parts, 1), f"init_merge.{i}.0")
            if i > 0:  # the finer scale came back to the size of the features in between
                finer = fit(scales[-1], size)
                x = x + self.convs(torch.cat([x, finer], 1), f"alpha_conv.{i - 1}.0")
            x = x + self.convs(x, f"beta_conv.{i}.0", f"beta_conv.{i}.2")
            inner.append(self.classify(f"inner_cls.{i}", x))
            scales.append(fit(x, query.shape[-2:]))
        x = self.convs(torch.cat(scales, 1), "res1.0")
        return x + self.convs(x, "res2.0", "res2.2"), inner

    def classify(self, name, x):
        return self.conv(f"{name}.3", self.convs(x, f"{name}.0"))


def fit(x, size):
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
