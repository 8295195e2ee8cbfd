"""A published PFENet (Tian et al., TPAMI 2020), the paper's baseline, as a network of this kit."""

from collections.abc import Mapping
from typing import Any

import torch

from fss.backbones import DEEP_STAGES
from fss.checkpoint import unfit
from fss.config import DANetConfig
from fss.errors import InputError
from fss.model import DANet

PFENET = DANetConfig.pfenet(backbone="resnet50_deep", channels=256, fem_bins=60)
PFENET_PARTS = {  # where the parts of a published network lie in ours; {i} is a scale of the FEM
    "layer0": "backbone.block2",
    **{theirs: f"backbone.{ours}" for theirs, ours in DEEP_STAGES.items()},
    "down_query.0": "reduce_query.0",
    "down_supp.0": "reduce_support.0",
    "init_merge.{i}.0": "decoder.merges.{i}.0",
    "alpha_conv.{i}.0": "decoder.interact.{i}.0",
    "beta_conv.{i}.0": "decoder.refines.{i}.0.0",
    "beta_conv.{i}.2": "decoder.refines.{i}.1.0",
    "inner_cls.{i}.0": "decoder.inner.{i}.0.0",
    "inner_cls.{i}.3": "decoder.inner.{i}.2",
    "res1.0": "decoder.fuse.0",
    "res2.0": "decoder.refine.0.0",
    "res2.2": "decoder.refine.1.0",
    "cls.0": "decoder.classify.0.0",
    "cls.3": "decoder.classify.2",
}
PFENET_PLACES = {ours.format(i=i): theirs.format(i=i) for i in range(4) for theirs, ours in PFENET_PARTS.items()}


@torch.no_grad()
def load_pfenet(state_dict: Mapping[str, Any]) -> DANet:
    """Make a network of a PFENet's weights; it then gives the published code's logits.

    Args:
        state_dict: of the published code's PFENet with a ResNet-50 and the bins 60, 30, 15 and 8:
            what ``torch.load(file, weights_only=True)`` makes of a file of its authors.

    Returns:
        The network in eval mode, with its own backbone. ``save_checkpoint`` stores the head alone:
        to load that again, give the file of the PFENet as the backbone's weights.

    Raises:
        InputError: weights that are missing, unknown or of another shape.
    """
    model = DANet(PFENET, pretrained=False)
    own = {
        _published(name): tensor
        for name, tensor in model.state_dict().items()
        if name not in ("backbone.mean", "backbone.std")
    }
    # Counters of BatchNorm, which nothing reads, are not in every file.
    given: dict[str, Any] = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")}
    for name, tensor in state_dict.get("state_dict", state_dict).items():  # a file of the authors holds more
        given[name.removeprefix("module.")] = tensor  # it was written by DataParallel
    if odd := unfit(own, given):
        raise InputError(
            f"not the weights of a published PFENet with a ResNet-50: {len(odd)} do not fit, first "
            f"{odd[0]!r}; give the state dict of dvlab-research/PFENet with layers=50, vgg=False"
        )
    for name in ("down_query.0.weight", "down_supp.0.weight"):  # theirs begin with block3
        given[name] = given[name].roll(model.backbone.channels[0], dims=1)
    for name, tensor in own.items():
        tensor.copy_(given[name])
    return model.eval()


def _published(name: str) -> str:
    """Return the published name of one of our weights."""
    place = max((place for place in PFENET_PLACES if name.startswith(f"{place}.")), key=len)
    return PFENET_PLACES[place] + name.removeprefix(place)
