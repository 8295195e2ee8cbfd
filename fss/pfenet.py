"""PFENet's published networks (Tian et al., TPAMI 2020) as networks of this kit."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fss.backbones import DEEP_STAGES
from fss.config import DANetConfig
from fss.errors import InputError
from fss.model import DANet

SCALES = 4
PLACES = {  # where their parts lie in our network
    "down_query.0": "reduce_query.0",
    "down_supp.0": "reduce_support.0",
    "res1.0": "decoder.fuse.0",
    "res2.0": "decoder.refine.0.0",
    "res2.2": "decoder.refine.1.0",
    "cls.0": "decoder.classify.0.0",
    "cls.3": "decoder.classify.2",
    "layer0": "backbone.block2",
}
PLACES |= {theirs: f"backbone.{ours}" for theirs, ours in DEEP_STAGES.items()}
for i in range(SCALES):
    PLACES |= {
        f"init_merge.{i}.0": f"decoder.merges.{i}.0",
        f"alpha_conv.{i}.0": f"decoder.interact.{i}.0",  # from scale i to scale i + 1
        f"beta_conv.{i}.0": f"decoder.refines.{i}.0.0",
        f"beta_conv.{i}.2": f"decoder.refines.{i}.1.0",
        f"inner_cls.{i}.0": f"decoder.inner.{i}.0.0",
        f"inner_cls.{i}.3": f"decoder.inner.{i}.2",
    }


@torch.no_grad()
def load_pfenet(state_dict: Mapping[str, Tensor]) -> DANet:
    """Make a network of a PFENet's weights, which then gives the published code's logits.

    Args:
        state_dict: of the published code's PFENet with a ResNet-50 and the bins 60, 30, 15 and 8,
            as ``torch.load(file, weights_only=True)["state_dict"]`` of the files its README links
            to.

    Returns:
        The network in eval mode, with backbone. ``save_checkpoint`` stores the head alone, as ever:
        to load that again, give the PFENet's file for the backbone's weights.

    Raises:
        InputError: weights that are missing, unknown or of another shape.
    """
    config = DANetConfig.pfenet(backbone="resnet50_deep", channels=256, fem_bins=60)
    model = DANet(config, pretrained=False)
    own = {
        _published(name): tensor
        for name, tensor in model.state_dict().items()
        if name not in ("backbone.mean", "backbone.std")
    }
    given = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    for name in own.keys() - given.keys():
        if name.endswith("num_batches_tracked"):  # torch before 0.4.1 had none; nothing reads it
            given[name] = own[name]
    odd = sorted(own.keys() ^ given.keys())
    odd += [name for name in own.keys() & given.keys() if own[name].shape != given[name].shape]
    if odd:
        raise InputError(
            f"not the weights of a published PFENet with a ResNet-50 ({len(odd)} do not fit, first "
            f"{odd[0]!r}); give the state dict of dvlab-research/PFENet, layers=50 and vgg=False"
        )
    low = model.backbone.channels[0]
    for name in ("down_query.0.weight", "down_supp.0.weight"):  # block3 comes first in theirs
        given[name] = given[name].roll(low, dims=1)
    for name, tensor in own.items():
        tensor.copy_(given[name])
    return model.eval()


def _published(name: str) -> str:
    """Return the published name of one of our weights."""
    theirs, ours = max(
        (pair for pair in PLACES.items() if name.startswith(f"{pair[1]}.")),
        key=lambda pair: len(pair[1]),
    )
    return theirs + name.removeprefix(ours)
