"""Checkpoints: safetensors of the trained weights, everything else as JSON in the header.

The frozen backbone is not stored; its fingerprint is, and must match at loading. A safetensors file
holds numbers only, so loading one never runs code.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fss.config import DANetConfig
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
    """Write the head's weights, the config and what ``trained`` tells of the training.

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
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.head_state().items()}
    tensors |= {OPTIMIZER + k: t.detach().cpu().contiguous() for k, t in (optimizer or {}).items()}
    write_atomically(path, save(tensors, metadata=header))


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
    if path.is_dir():
        if (path / "best.safetensors").is_file():
            return path / "best.safetensors"
        raise InputError(f"{path}: no best.safetensors in this folder; give a run's folder")
    if path.is_file():
        return path
    hint = nearest(str(name), shipped)
    raise InputError(f"no checkpoint {str(name)!r}: no such file or folder; {hint}")


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
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: damaged header ({error}); copy or train it again") from error
    if not isinstance(header["config"], dict) or not isinstance(header["trained"], dict):
        raise InputError(f"{path}: damaged header (no settings in it); copy or train it again")
    return header, tensors


def load(name: str | Path, *, pretrained: bool | str | Path = True) -> DANet:
    """Load a trained network, in eval mode.

    Args:
        name: a shipped checkpoint (``"intended-lite0-shapes"``), a file, or a run's folder.
        pretrained: the backbone's weights, as for ``DANet``.

    Returns:
        The network; its ``trained`` says on what and how it was trained.

    Raises:
        InputError: no such checkpoint, a damaged one, or another network's.
    """
    header, tensors = read_checkpoint(name)
    path = find_checkpoint(name)
    try:
        config = DANetConfig.from_json(header["config"])
    except InputError as error:
        raise InputError(f"{path}: written by another version of the kit ({error})") from error
    model = DANet(config, pretrained=pretrained)
    if model.backbone.fingerprint() != header.get("backbone_sha256"):
        raise InputError(
            f"{path}: trained on other {model.config.backbone} weights than the ones loaded here; "
            "give the file it was trained with"
        )
    load_head(model, tensors, path)
    model.trained = header["trained"]
    return model.eval()


def load_head(model: DANet, tensors: dict[str, Tensor], path: Path) -> None:
    """Put a checkpoint's weights into ``model``, all of them and of the right shapes.

    Raises:
        InputError: a weight is missing, unknown, or of another shape.
    """
    head = {k: t for k, t in tensors.items() if not k.startswith(OPTIMIZER)}
    own = model.head_state()
    odd = sorted(own.keys() ^ head.keys())
    odd += [k for k in own.keys() & head.keys() if own[k].shape != head[k].shape]
    if odd:
        raise InputError(
            f"{path}: weights of another architecture ({len(odd)} do not fit, first {odd[0]!r}); "
            "use the config that it was trained with"
        )
    model.load_state_dict(head, strict=False)
