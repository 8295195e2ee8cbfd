"""The knobs of the "shapes" world."""

from dataclasses import dataclass, field
from typing import Literal

from fss.errors import InputError
from fss.settings import Settings

Share = Literal["none", "texture", "outline"]


@dataclass(frozen=True)
class World(Settings):
    """What can be changed in the world; `shapes:knob=value,...` sets it.

    A distractor shares the target's `"texture"` (pattern and palette, not the outline), its
    `"outline"` (not the surface), or nothing.
    """

    distractors_min: int = 2
    distractors_max: int = 4
    share: Share = "none"
    occlusion: float = 0.3  # probability that a dull lump in front hides part of one of the objects
    contrast: float = 0.5  # of the ground, 0 = plain .. 1 = as lively as the objects
    area_min: float = 0.04  # share of the picture that a whole object covers
    area_max: float = 0.18
    extra: int = field(default=0, repr=False)  # classes beyond the folds that join the training

    LEAST = dict(distractors_min=0, distractors_max=0, occlusion=0, contrast=0, area_min=0.01, area_max=0.01, extra=0)
    MOST = dict(distractors_max=8, occlusion=1, contrast=1, area_max=0.5, extra=10_000)

    def __post_init__(self) -> None:
        """Raises `InputError` for a knob out of its range."""
        super().__post_init__()
        for knob in ("distractors", "area"):
            least, most = getattr(self, f"{knob}_min"), getattr(self, f"{knob}_max")
            if least > most:
                raise InputError(f"World.{knob}_min = {least}: is more than {knob}_max = {most}; set both")
