"""Checkpoints: safetensors of the trained weights, everything else as JSON in the header.

``load`` reads them. The frozen backbone is not stored; its fingerprint is, and must match at
loading. A safetensors file holds numbers only, so loading one never runs code.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fss.backbones import Backbone
from fss.config import DANetConfig, DataConfig, TrainConfig
from fss.errors import InputError, nearest
from fss.files import write_atomically
from fss.model import DANet

FORMAT = "fss-checkpoint-1"
WEIGHTS = Path(__file__).parent / "weights"
OPTIMIZER = "optimizer."  # prefix of the optimiser's tensors in a run's last checkpoint


def save_checkpoint(
    model: DANet,
    path: str | Path,
    *,
    trained: dict[str, Any],
    optimizer: dict[str, Tensor] | None = None,
) -> None:
    """Write the head's weights, the config and what ``trained`` says of the training.

    ``optimizer`` holds further tensors that a resumed run needs.

    Raises:
        InputError: the file cannot be written.
    """
    header = {
        "format": FORMAT,
        "config": json.dumps(model.config.to_json()),
        "backbone_sha256": model.backbone.fingerprint(),
        "trained": json.dumps(trained),
    }
    tensors = model.head_state() | {OPTIMIZER + name: tensor for name, tensor in (optimizer or {}).items()}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(plain, metadata=header))


def find_checkpoint(name: str | Path) -> Path:
    """Return the file of a shipped checkpoint's name, a path, or a run's folder (its best).

    A shipped name means the shipped weights in every folder; for a file or folder of the same
    name, write ``./name``.

    Raises:
        InputError: nothing is there.
    """
    shipped = sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))
    if name in shipped:
        return WEIGHTS / f"{name}.safetensors"
    path = Path(name)
    file = path / "best.safetensors" if path.is_dir() else path
    if not path.exists():
        raise InputError(f"no checkpoint {str(name)!r}: no such file or folder; {nearest(str(name), shipped)}")
    if not file.is_file():
        raise InputError(f"{path}: no best.safetensors in this folder; give a run's folder")
    return file


def read_checkpoint(name: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header (``config``, ``backbone_sha256``, ``trained``) and all tensors of a file.

    Raises:
        InputError: missing, truncated, or not a checkpoint of this kit.
    """
    path = find_checkpoint(name)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a whole safetensors file ({error}); copy or train it again. Pickled "
            "checkpoints (.pt, .pth) are never opened, since they can carry code"
        ) from error
    if header.get("format") != FORMAT:
        raise InputError(
            f"{path}: a safetensors file, but not a checkpoint of this kit (no {FORMAT!r} in its "
            "header); train one with `fss train`"
        )
    try:
        header |= {key: json.loads(header[key]) for key in ("config", "trained")}
        if not isinstance(header["config"], dict) or not isinstance(header["trained"], dict):
            raise ValueError("no settings in it")
        header["config"] = DANetConfig.from_json(header["config"]).to_json()
        if trained := header["trained"]:  # else nobody trained it
            # The settings of an older file: those that were added since get their defaults, here alone.
            header["trained"] = {
                **trained,
                "train": TrainConfig.from_json(trained.get("train", {})).to_json(),
                "options": DataConfig.from_json(trained.get("options", {})).to_json(),
            }
    except InputError as error:
        raise InputError(f"{path}: written by another version of the kit ({error})") from error
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: damaged header ({error}); copy or train it again") from error
    return header, tensors


def load(name: str | Path, *, pretrained: bool | str | Path = True, backbone: Backbone | None = None) -> DANet:
    """Load a trained network, in eval mode.

    Args:
        name: a shipped checkpoint (``"intended-lite0-shapes"``), a file, or a run's folder.
        pretrained: the backbone's weights, as for ``DANet``.
        backbone: the one that the network was trained with, if it was one of yours.

    Returns:
        The network; its ``trained`` says on what and how it was trained.

    Raises:
        InputError: no such checkpoint, a damaged one, or another network's; a backbone of yours that
            is not passed, or an attention module that is not registered (nothing is imported here).
    """
    path = find_checkpoint(name)
    header, tensors = read_checkpoint(path)
    try:
        model = DANet(DANetConfig.from_json(header["config"]), pretrained=pretrained, backbone=backbone)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    load_head(model, header, tensors, path)
    return model.eval()


def load_head(model: DANet, header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> None:
    """Put a checkpoint's weights into ``model``, all of them and of the right shapes, and what it says of them.

    Raises:
        InputError: a weight is missing, unknown, or of another shape; another backbone's.
    """
    if header.get("backbone_sha256") != model.backbone.fingerprint():
        raise InputError(
            f"{path}: trained on other {model.config.backbone} weights than the ones loaded here; "
            "give the file it was trained with"
        )
    head = {k: t for k, t in tensors.items() if not k.startswith(OPTIMIZER)}
    if odd := unfit(model.head_state(), head):
        raise InputError(
            f"{path}: weights of another architecture ({len(odd)} do not fit, first {odd[0]!r}); "
            "use the config that it was trained with"
        )
    model.load_state_dict(head, strict=False)
    model.trained = header["trained"]


def unfit(own: Mapping[str, Tensor], given: Mapping[str, Any]) -> list[str]:
    """Return the names of the weights that are missing, unknown or of another shape."""
    shared = own.keys() & given.keys()
    return sorted(own.keys() ^ given.keys()) + sorted(
        name for name in shared if getattr(given[name], "shape", None) != own[name].shape
    )
