"""Where the objects of a "shapes" picture lie, decided in relative units for every size alike."""

from dataclasses import replace

import numpy as np
from numpy.random import Generator

from fss.data.shapes.appearance import (
    Outline,
    Surface,
    random_outline,
    random_surface,
    vary_outline,
    vary_surface,
)
from fss.data.shapes.drawing import Placed, half_extent, rasterise

GRID = 48  # side, in px, of the canvas on which overlaps are measured


def place(look: tuple[Outline, Surface], area: float, around: list[Placed], rng: Generator) -> Placed:
    """Vary a look, turn it and put it where it overlaps least with what is there already."""
    outline, surface = vary_outline(look[0], rng), vary_surface(look[1], rng)
    turn, light = rng.uniform(0, 2 * np.pi, 2)
    matrix = _matrix(area, outline.stretch, turn, rng.uniform(-0.15, 0.15))
    low = np.minimum(0.5, 0.85 * half_extent(outline, matrix))  # may stick out a bit
    centres = rng.uniform(low, 1 - low, (8 if around else 1, 2))
    crowding = [
        max(
            (_reach(area) + _reach(_area(it)) - np.hypot(*(at - it.centre)) for it in around),
            default=0,
        )
        for at in centres
    ]
    best = centres[int(np.argmin(crowding))]
    strength = rng.uniform(0.03, 0.16)
    return Placed(
        outline,
        surface,
        (float(best[0]), float(best[1])),
        matrix,
        (strength * float(np.cos(light)), strength * float(np.sin(light))),
    )


def occluder(target: Placed, visible: np.ndarray, whole: int, rng: Generator) -> Placed:
    """A dull lump over the target's edge, moved outwards until enough of the target shows."""
    outline, surface = random_outline(rng), random_surface(rng)
    colours = surface.colours * [1.0, 0.25, 1.0]
    area = _area(target) * rng.uniform(0.4, 0.8)
    lump = Placed(
        replace(outline, holes=()),
        replace(surface, colours=colours, rim=0.0),
        target.centre,
        _matrix(area, outline.stretch, rng.uniform(0, 2 * np.pi), 0.0),
    )
    turn, show = rng.uniform(0, 2 * np.pi), rng.uniform(0.65, 0.9)
    step = 0.15 * _reach(_area(target)) * np.array([np.cos(turn), np.sin(turn)])
    for n in range(3, 20):
        x, y = np.array(target.centre) + n * step
        lump = replace(lump, centre=(float(x), float(y)))
        if (visible & ~coverage(lump)).sum() >= max(show * visible.sum(), 0.5 * whole):
            break
    return lump


def coverage(thing: Placed) -> np.ndarray:
    """Where the object lies, bool [GRID, GRID]."""
    grid = np.zeros((GRID, GRID), bool)
    on = rasterise(thing, GRID)
    grid[on.box] = on.distance > 0
    return grid


def _matrix(area: float, stretch: float, turn: float, shear: float) -> np.ndarray:
    """Own units -> canvas; the determinant makes a unit disc cover `area` of the canvas."""
    cos, sin = np.cos(turn), np.sin(turn)
    shape = np.array([[1, shear], [0, 1]]) @ np.diag([stretch**0.5, stretch**-0.5])
    return np.sqrt(area / np.pi) * np.array([[cos, -sin], [sin, cos]]) @ shape


def _area(thing: Placed) -> float:
    return float(np.pi * np.linalg.det(thing.matrix))


def _reach(area: float) -> float:
    return float(np.sqrt(area / np.pi))
