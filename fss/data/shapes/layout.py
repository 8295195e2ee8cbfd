"""Where the objects of a "shapes" picture lie, decided in relative units for every size alike."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

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

Look = tuple[Outline, Surface]


class Arrangement(NamedTuple):
    """Objects, what each covers, the order of painting, and the least share that shows of any."""

    things: list[Placed]
    wholes: list[np.ndarray]  # bool [GRID, GRID]
    order: list[int]
    shown: float


def arrange(looks: Sequence[Look], areas: tuple[float, float], rng: Generator) -> Arrangement:
    """Draw size, place and order of objects, in the same way for each of them.

    Args:
        looks: outline and surface of every object.
        areas: the least and the greatest share of the picture that a whole object covers.
        rng: where all is drawn from.
    """
    things: list[Placed] = []
    for look in looks:
        area = float(np.exp(rng.uniform(*np.log(areas))))
        things.append(_place(look, area, things, rng))
    wholes = [coverage(thing) for thing in things]
    order = [int(n) for n in rng.permutation(len(things))]
    return Arrangement(things, wholes, order, min(_shares(wholes, order)))


def occluder(scene: Arrangement, rng: Generator) -> Placed | None:
    """A dull lump over the edge of any object, further out each time until enough of all shows, or None."""
    outline, surface = random_outline(rng), random_surface(rng)
    at = int(rng.integers(len(scene.things)))
    thing, whole = scene.things[at], scene.wholes[at]
    area = _area(thing) * rng.uniform(0.4, 0.8)
    lump = Placed(
        replace(outline, holes=()),
        replace(surface, colours=surface.colours * [1.0, 0.25, 1.0], rim=0.0),
        thing.centre,
        _matrix(area, outline.stretch, rng.uniform(0, 2 * np.pi), 0.0),
    )
    show = rng.uniform(0.65, 0.9)
    for away in np.arange(0.45, 3, 0.15) * _reach(_area(thing)):
        turn = rng.uniform(0, 2 * np.pi)
        x, y = thing.centre[0] + away * np.cos(turn), thing.centre[1] + away * np.sin(turn)
        lump = replace(lump, centre=(float(x), float(y)))
        covered = coverage(lump)
        left = min(_shares(scene.wholes, scene.order, covered))
        if (whole & ~covered).sum() >= show * whole.sum() and left >= min(0.5, scene.shown):
            return lump
    return None


def _place(look: Look, area: float, around: list[Placed], rng: Generator) -> Placed:
    """Vary a look, turn it and put it where it overlaps least with what is there already."""
    outline, surface = vary_outline(look[0], rng), vary_surface(look[1], rng)
    turn, light = rng.uniform(0, 2 * np.pi, 2)
    matrix = _matrix(area, outline.stretch, turn, rng.uniform(-0.15, 0.15))
    low = np.minimum(0.5, 0.85 * half_extent(outline, matrix))  # may stick out a bit
    centres = rng.uniform(low, 1 - low, (8, 2))
    apart = np.array([_reach(area) + _reach(_area(it)) for it in around])
    away = [np.hypot(*(centres - it.centre).T) for it in around]
    best = centres[int(np.argmin(np.max(apart - np.transpose(away), axis=1)))] if around else centres[0]
    strength = rng.uniform(0.03, 0.16)
    return Placed(
        outline,
        surface,
        (float(best[0]), float(best[1])),
        matrix,
        (strength * float(np.cos(light)), strength * float(np.sin(light))),
    )


def _shares(wholes: Sequence[np.ndarray], order: Sequence[int], covered: np.ndarray | None = None) -> list[float]:
    """The share that shows of each object where they are painted in an order, and something over all."""
    hidden = np.zeros((GRID, GRID), bool) if covered is None else covered
    shares = [0.0] * len(wholes)
    for n in reversed(order):
        shares[n] = float((wholes[n] & ~hidden).sum() / max(wholes[n].sum(), 1))
        hidden = hidden | wholes[n]
    return shares


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
