"""A training step that failed, taken once more."""

from contextlib import nullcontext
from pathlib import Path

from fss.backbones import Backbone
from fss.checkpoint import read_checkpoint
from fss.config import DANetConfig, DataConfig, TrainConfig
from fss.errors import InputError
from fss.features import LiveFeatures
from fss.run import restore
from fss.train import augmentation, set_up, take_step


def replay(
    path: str | Path,
    *,
    device: str = "cpu",
    pretrained: bool | str | Path = True,
    backbone: Backbone | None = None,
) -> float:
    """Repeat the step that a run's ``nonfinite.safetensors`` was kept of.

    Returns:
        The loss, where it is finite here.

    Raises:
        NonFinite: as it happened in the run.
        InputError: no such file, or other data than the run's.
    """
    header, tensors = read_checkpoint(path)
    trained = header["trained"]
    if "nonfinite" not in trained:
        raise InputError(f"{path}: holds no failed step; give the nonfinite.safetensors of a run")
    config = TrainConfig.from_json(trained["train"])
    accelerator, training, _, stream, model, optimizer, settings = set_up(
        DANetConfig.from_json(header["config"]),
        config,
        trained["data"],
        fold=trained["fold"],
        device=device,
        pretrained=pretrained,
        backbone=backbone,
        skip_small_classes=trained["skip_small_classes"],
        options=DataConfig.from_json(trained["options"]),
        accumulate=trained["nonfinite"]["accumulate"],
    )
    if settings["pictures_sha256"][0] != trained["pictures_sha256"][0]:
        raise InputError(f"{trained['data']}: the pictures have changed since the run of {path}")
    restore(model, optimizer, header, tensors, Path(path), accelerator)
    source = LiveFeatures(
        model,
        training,
        augment=augmentation(config),
        seed=config.seed,
        autocast=nullcontext if config.cache else accelerator.autocast,  # as in training
    )
    step = trained["step"]
    batch = next(source.batches(stream, config.batch, start=step * config.batch))
    return take_step(model, optimizer, batch, config, step, len(stream) // config.batch, accelerator)
