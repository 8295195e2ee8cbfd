"""What makes a class of the "shapes" world: an outline, a pattern and a palette.

Lengths are in the object's own units, in which its root mean square radius is 1.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

OUTLINES = ("blob", "star", "gear", "petals", "polygon", "spikes")
PATTERNS = ("stripes", "waves", "checks", "dots", "rings", "rays", "noise", "gradient")
ANGLES = 2048
_THETA = np.linspace(-np.pi, np.pi, ANGLES, endpoint=False, dtype=np.float32)
_COS = np.stack([np.cos(k * _THETA) for k in range(1, 6)])
_SIN = np.stack([np.sin(k * _THETA) for k in range(1, 6)])
_AB_TO_LMS = np.array([[0.3963377774, -0.1055613458, -0.0894841775], [0.2158037573, -0.0638541728, -1.2914855480]])
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -1.2684380046, -0.0041960863],
        [-3.3077115913, 2.6097574011, -0.7034186147],
        [0.2309699292, -0.3413193965, 1.7076147010],
    ]
)


@dataclass(frozen=True)
class Outline:
    """A closed contour: `radius` [ANGLES] over the angle, stretched along x, minus discs."""

    radius: np.ndarray
    stretch: float
    holes: tuple[tuple[float, float, float], ...]  # x, y, radius


@dataclass(frozen=True)
class Surface:
    """A two-colour pattern in an object's units, and the colour and width of its rim."""

    pattern: str
    frequency: float
    angle: float
    duty: float  # shifts the share of the two colours, about -0.4..0.4
    waves: np.ndarray  # [4, 3]: fx, fy, phase of the plane waves that "noise" adds up
    colours: np.ndarray  # [3, 3] OKLCH: two of the pattern, one of the rim
    rim: float
    origin: tuple[float, float] = (0.0, 0.0)


def random_outline(rng: Generator) -> Outline:
    """Draw the contour of a class."""
    kind = OUTLINES[rng.integers(len(OUTLINES))]
    if kind == "blob":
        radius: np.ndarray = 1 + _wobble(rng, 0.5, first=2)
    elif kind == "star":
        saw = 2 / np.pi * np.arcsin(np.cos(rng.integers(3, 9) * _THETA))
        radius = 1 + rng.uniform(0.28, 0.45) * saw
    elif kind == "gear":
        radius = 1 + rng.uniform(0.13, 0.2) * np.tanh(3 * np.sin(rng.integers(5, 10) * _THETA))
    elif kind == "petals":
        radius = 0.5 + np.abs(np.cos(rng.integers(3, 8) / 2 * _THETA)) ** 0.6
    elif kind == "polygon":
        side = 2 * np.pi / rng.integers(3, 7)
        radius = 1 / np.cos((_THETA + np.pi) % side - side / 2)
    else:
        radius = 0.8 + _wobble(rng, 0.06)
        for angle in rng.uniform(0, 2 * np.pi) + np.cumsum(rng.uniform(0.9, 2.2, 4)):
            radius = radius + rng.uniform(0.5, 1.0) * np.exp(18 * (np.cos(_THETA - angle) - 1))
    radius = np.maximum(radius * (1 + _wobble(rng, 0.12)), 0.35)
    radius = (radius / np.sqrt(np.mean(radius**2))).astype(np.float32)

    stretch = float(rng.uniform(1.0, 1.45) if kind != "blob" else rng.uniform(1.0, 1.7))
    angle, cut = rng.uniform(0, 2 * np.pi), rng.random()
    holes: tuple[tuple[float, float, float], ...] = ()
    if cut < 0.25:  # a hole, well inside
        away = rng.uniform(0.0, 0.25)
        size = rng.uniform(0.45, 0.6) * float(radius.min())
        holes = ((away * np.cos(angle), away * np.sin(angle), size),)
    elif cut < 0.45:  # a bite out of the edge
        edge = 1.05 * radius[int(angle / (2 * np.pi) * ANGLES)]
        at = angle - np.pi
        holes = ((edge * np.cos(at), edge * np.sin(at), rng.uniform(0.45, 0.7)),)
    return Outline(radius, stretch, holes)


def random_surface(rng: Generator) -> Surface:
    """Draw the pattern and the palette of a class."""
    near, far = rng.uniform(15, 60), rng.uniform(60, 180)  # one family of hues, and a rim beside
    hue = rng.uniform(0, 360) + rng.choice([-1, 1]) * np.array([0, near, far])
    chroma = rng.uniform(0.09, 0.17, 3)
    light = rng.uniform(0.42, 0.86)
    other = light + rng.uniform(0.16, 0.32) * (-1 if light > 0.64 else 1)
    lightness = np.array([light, other, rng.choice([0.3, 0.93])])
    directions = rng.uniform(0, 2 * np.pi, 4)
    waves = np.stack([np.cos(directions), np.sin(directions), rng.uniform(0, 2 * np.pi, 4)], axis=1)
    return Surface(
        pattern=PATTERNS[rng.integers(len(PATTERNS))],
        frequency=float(rng.uniform(1.1, 2.3)),
        angle=float(rng.uniform(0, np.pi)),
        duty=float(rng.uniform(-0.35, 0.35)),
        waves=waves,
        colours=np.stack([lightness, chroma, hue], axis=1),
        rim=float(rng.uniform(0.08, 0.16) if rng.random() < 0.45 else 0.0),
    )


def vary_outline(outline: Outline, rng: Generator) -> Outline:
    """The same contour a little different, as two leaves of one tree are."""
    return replace(
        outline,
        radius=outline.radius * (1 + _wobble(rng, 0.025)),
        stretch=outline.stretch * rng.uniform(0.93, 1.07),
    )


def vary_surface(surface: Surface, rng: Generator) -> Surface:
    """The same pattern shifted, its colours and its spacing a little different."""
    colours = surface.colours + rng.normal(size=(3, 3)) * [0.015, 0.008, 5.0] + [rng.normal() * 0.025, 0, 0]
    shift = rng.uniform(-0.25, 0.25, 2)
    return replace(
        surface,
        frequency=surface.frequency * rng.uniform(0.93, 1.07),
        angle=surface.angle + rng.uniform(-0.1, 0.1),
        colours=colours,
        origin=(float(shift[0]), float(shift[1])),
    )


def _wobble(rng: Generator, amplitude: float, first: int = 1) -> np.ndarray:
    """A random Fourier series over the angle [ANGLES] whose terms fade as 1/k."""
    k = np.arange(1, 6)
    scale = np.where(k >= first, amplitude / k, 0.0)
    cos, sin = rng.normal(size=(2, 5)) * scale
    return (cos @ _COS + sin @ _SIN).astype(np.float32)


def oklch_to_srgb(colours: np.ndarray) -> np.ndarray:
    """OKLCH [..., 3] (lightness 0..1, chroma, hue in degrees) to sRGB 0..1, float32.

    A colour outside of sRGB loses chroma until it fits. Matrices: B. Ottosson, "A perceptual
    color space for image processing", 2020.
    """
    light, chroma, hue = np.moveaxis(np.asarray(colours, dtype=np.float64), -1, 0)
    light = np.clip(light, 0.0, 1.0)
    keep = np.array([0.0, 0.2, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0]).reshape(-1, *[1] * light.ndim)
    a = keep * (chroma * np.cos(np.radians(hue)))
    b = keep * (chroma * np.sin(np.radians(hue)))
    lms = light[..., None] + np.stack([a, b], axis=-1) @ _AB_TO_LMS
    trials = lms**3 @ _LMS_TO_RGB
    fits = np.all((trials > -0.002) & (trials < 1.002), axis=-1)
    most = len(keep) - 1 - np.argmax(fits[::-1], axis=0)
    linear = np.take_along_axis(trials, most[None, ..., None], axis=0)[0].clip(0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return srgb.astype(np.float32)
