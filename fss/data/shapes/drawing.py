"""How an object of the "shapes" world, and the ground beneath, is painted on a canvas.

A canvas is float32 [3, size, size], sRGB 0..1; its sides have length 1, whatever its size in
px. So what is painted at 112 and at 224 px is the same picture.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from fss.data.shapes.appearance import ANGLES, Outline, Surface, oklch_to_srgb, random_surface

_STEP = 16  # of the angles by which an object's reach is measured
_TURN = np.linspace(-np.pi, np.pi, ANGLES // _STEP, endpoint=False)
_RAYS = np.stack([np.cos(_TURN), np.sin(_TURN)])


@dataclass(frozen=True)
class Placed:
    """An object on the canvas: point = centre + matrix @ (own units)."""

    outline: Outline
    surface: Surface
    centre: tuple[float, float]
    matrix: np.ndarray  # [2, 2]
    light: tuple[float, float] = (0.0, 0.0)  # direction and strength of the shading


class Pixels(NamedTuple):
    """The box of an object on a canvas and what lies over it, float32 [h, w] each.

    Own coordinates, distance to the origin, distance to the contour along the ray and across it
    (positive inside), all in own units; `unit` is the length of one in px.
    """

    box: tuple[slice, slice]
    u: np.ndarray
    v: np.ndarray
    rho: np.ndarray
    bins: np.ndarray
    gap: np.ndarray
    distance: np.ndarray
    unit: float


def rasterise(thing: Placed, size: int) -> Pixels:
    """Lay the object on a canvas of `size` x `size` px."""
    outline, inverse = thing.outline, np.linalg.inv(thing.matrix).astype(np.float32)
    (left, right), (top, bottom) = (
        (max(int((c - h) * size) - 2, 0), min(int((c + h) * size) + 2, size))
        for c, h in zip(thing.centre, half_extent(outline, thing.matrix), strict=True)
    )
    x = (np.arange(left, right, dtype=np.float32) + 0.5) / size - np.float32(thing.centre[0])
    y = (np.arange(top, bottom, dtype=np.float32) + 0.5) / size - np.float32(thing.centre[1])
    u = inverse[0, 0] * x + inverse[0, 1] * y[:, None]
    v = inverse[1, 0] * x + inverse[1, 1] * y[:, None]

    turn = (np.arctan2(v, u) + np.float32(np.pi)) * np.float32(ANGLES / (2 * np.pi)) + 0.5
    bins = turn.astype(np.int32) & (ANGLES - 1)  # of the table over the angle
    rho = np.sqrt(u * u + v * v)
    gap = outline.radius[bins] - rho
    slope = np.gradient(outline.radius, np.float32(2 * np.pi / ANGLES))
    distance = gap * (outline.radius / np.hypot(outline.radius, slope))[bins]  # across the contour, not along the ray
    for hole_x, hole_y, hole in outline.holes:
        from_hole = np.hypot(u - np.float32(hole_x), v - np.float32(hole_y)) - np.float32(hole)
        np.minimum(distance, from_hole, out=distance)
        np.minimum(gap, from_hole, out=gap)
    unit = size * float(np.sqrt(np.linalg.det(thing.matrix)))
    return Pixels((slice(top, bottom), slice(left, right)), u, v, rho, bins, gap, distance, unit)


def half_extent(outline: Outline, matrix: np.ndarray) -> np.ndarray:
    """Half the width and half the height of the box, about the centre, that holds the object."""
    half: np.ndarray = np.abs(matrix @ (outline.radius[::_STEP] * _RAYS)).max(axis=1)
    return half


def paint(canvas: np.ndarray, thing: Placed, size: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """Paint the object on `canvas` [3, size, size]; return its box and where it covers that."""
    surface, on = thing.surface, rasterise(thing, size)
    share, rim = pattern(surface, on.u, on.v, on.unit), None
    if surface.rim:
        inner = inset(thing.outline.radius, surface.rim)[on.bins]
        edge = np.maximum(on.rho - inner, surface.rim - on.gap)
        rim = np.clip(0.5 + edge * np.float32(on.unit), 0, 1)
    right, down = map(np.float32, thing.light)
    rounded = np.float32(0.82) + np.float32(0.18) * np.clip(4 * on.gap, 0, 1)
    light = (1 + right * on.u + down * on.v) * rounded
    alpha = np.clip(on.distance * np.float32(on.unit) + 0.5, 0, 1)
    for plane, (first, second, third) in zip(canvas, oklch_to_srgb(surface.colours).T, strict=True):
        colour = first + share * (second - first)
        if rim is not None:
            colour += rim * (third - colour)
        colour *= light
        plane[on.box] += alpha * (colour - plane[on.box])
    return on.box, on.distance > 0


def pattern(surface: Surface, u: np.ndarray, v: np.ndarray, unit: float) -> np.ndarray:
    """Share of the second colour, 0..1, at (u, v); `unit` px are one unit, for soft edges."""
    kind, f = surface.pattern, np.float32(2 * np.pi * surface.frequency)
    cos, sin = np.float32(np.cos(surface.angle)), np.float32(np.sin(surface.angle))
    u, v = u - np.float32(surface.origin[0]), v - np.float32(surface.origin[1])
    p, q = cos * u + sin * v, cos * v - sin * u
    duty = surface.duty
    if kind == "gradient":
        return np.clip(0.5 + 0.5 * p, 0, 1)
    if kind == "stripes":
        wave = np.sin(f * p)
    elif kind == "waves":
        wave = np.sin(f * p + 1.3 * np.sin(0.9 * f * q))
    elif kind == "checks":
        wave, duty = 1.3 * np.sin(0.8 * f * p) * np.sin(0.8 * f * q), 0.0
    elif kind == "dots":
        wave, duty = 0.8 * (np.cos(f * p) + np.cos(f * q)), 0.4 + 0.5 * duty
    elif kind == "rings":
        wave = np.sin(f * np.hypot(p, q))
    elif kind == "rays":
        wave, f = np.sin(np.round(2.5 * f / np.pi) * np.arctan2(q, p)), 2 * f
    else:
        wave = np.zeros_like(p)
        for fx, fy, phase in surface.waves.astype(np.float32):
            wave += 0.5 * np.cos(0.8 * f * (fx * p + fy * q) + phase)
        duty *= 0.5
    steepness = max(unit / float(f), 0.5)  # one px from one colour to the other
    return np.clip(0.5 + (wave - np.float32(duty)) * np.float32(steepness), 0, 1)


def inset(radius: np.ndarray, width: float) -> np.ndarray:
    """The contour `width` further inside (an erosion by a disc), as radius [ANGLES].

    A disc about the contour's point at angle t + d reaches down the ray at angle t to
    R cos d - sqrt(width^2 - R^2 sin^2 d), where R is the radius there.
    """
    step = 8
    coarse, places = radius[::step], np.arange(ANGLES // step)
    reach = int(np.arcsin(min(1.0, width / float(radius.min()))) / (2 * np.pi) * len(places))
    shift = np.arange(-reach, reach + 1)[:, None]
    turned, angle = coarse[(places + shift) % len(places)], 2 * np.pi * shift / len(places)
    beyond = width**2 - (turned * np.sin(angle)) ** 2
    rays = turned * np.cos(angle) - np.sqrt(np.maximum(beyond, 0))
    inner = np.minimum(coarse - width, np.where(beyond > 0, rays, np.inf).min(axis=0))
    return np.interp(np.arange(ANGLES) / step, places, inner, period=len(places)).astype(np.float32)


def ground(rng: Generator, size: int, contrast: float) -> np.ndarray:
    """A textured ground, float32 [3, size, size]: clouds of two colours under a faint pattern."""
    hue = rng.uniform(0, 360)
    light = rng.uniform(0.45, 0.85)
    away = -1 if light > 0.62 else 1
    lights = light + np.array([0.0, 0.36 * rng.uniform(0.7, 1.0) * away, 0.2 * away]) * contrast
    colours = [lights, rng.uniform(0.02, 0.09, 3), hue + rng.uniform(-110, 110, 3) * contrast]
    clouds = np.zeros((size, size), np.float32)
    for cells, weight in ((4, 0.5), (11, 0.32), (37, 0.18)):
        upsample = _upsample(cells, size)
        cloud = upsample @ rng.random((cells, cells), dtype=np.float32) @ upsample.T
        clouds += np.multiply(cloud, np.float32(weight), out=cloud)
    clouds = np.clip(0.5 + 2.0 * (clouds - 0.5), 0, 1)
    surface = random_surface(rng)
    strength = np.float32(rng.uniform(0.35, 0.9))
    scale = np.float32(rng.uniform(3, 8))
    u = scale * ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5)
    share = strength * pattern(surface, u, u[:, None], float(size / scale))
    canvas = np.empty((3, size, size), np.float32)
    for plane, (first, second, third) in zip(canvas, oklch_to_srgb(np.stack(colours, axis=1)).T, strict=True):
        plane[:] = first + clouds * (second - first)  # by planes: three at once do not fit a processor's cache
        plane += share * (third - plane)
    return canvas


@lru_cache(maxsize=32)
def _upsample(cells: int, size: int) -> np.ndarray:
    """Smooth interpolation as a matrix [size, cells]: picture = m @ grid @ m.T."""
    at = (np.arange(size) + 0.5) / size * (cells - 1)
    low = np.minimum(at.astype(int), cells - 2)
    part = (at - low)[:, None]
    part = part * part * (3 - 2 * part)
    one = np.eye(cells)
    return ((1 - part) * one[low] + part * one[low + 1]).astype(np.float32)
