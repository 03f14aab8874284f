"""Extents and outlines of the shapes that a layout knows: how large a box is, where two shapes meet.

All lengths are those of an object of size 1, as `mini/world/raycast.py` draws it: a sphere of radius 1, for example. An
object of no known shape is a box.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.layout.graph import SceneObject

F64 = NDArray[np.float64]

HALF_HEIGHT = {"sphere": 1.0, "cube": 0.8, "cylinder": 0.85, "cone": 0.9, "torus": 0.30}
"""Half extent along z of an object of size 1."""
HALF_WIDTH = {"sphere": 1.0, "cube": 0.8, "cylinder": 0.75, "cone": 0.9, "torus": 0.98}
"""Half extent along x and along y of an object of size 1."""
TORUS_MAJOR, TORUS_MINOR = 0.68, 0.30
UNIT = 0.62
"""World units of a thing of size 1 at most: that of an object alone in the mini world."""
BOX_HALF = 0.8
"""Largest half extent of an object of no known shape."""

STEADY = {"sphere": 0.15, "cone": 0.15, "torus": 0.4}
"""How far from the middle of this shape a thing may rest on it, as a share of its half width."""
STEADY_FLAT = 0.75
"""The same for shapes that are flat on top."""
HOLE = TORUS_MAJOR - TORUS_MINOR
"""Radius of the hole of a torus of size 1."""

_HEIGHTS = np.linspace(-1.0, 1.0, 129)
_RADII = np.linspace(0.0, 1.0, 129)


class Box(NamedTuple):
    """An axis-aligned box in which one thing stands, and the size of the thing."""

    name: str
    """The object's name."""
    number: int
    """Which of the object's things, from 0."""
    center: tuple[float, float, float]
    """World units."""
    half_extents: tuple[float, float, float]
    """World units along x, y, z."""
    size: float
    """World units: the scale of an object of size 1."""


def shape_of(item: SceneObject) -> str:
    """Return the shape of an object, or "box" for one outside the embedded language."""
    phrase = item.phrase
    return "box" if phrase is None or item.proportions is not None else phrase.shape


def extents(item: SceneObject) -> tuple[float, float, float]:
    """Return the half extents of an object of size 1 along x, y, z."""
    if item.proportions is not None:
        x, y, z = (BOX_HALF * one / max(item.proportions) for one in item.proportions)
        return x, y, z
    shape = shape_of(item)
    if shape == "box":
        return BOX_HALF, BOX_HALF, BOX_HALF
    return HALF_WIDTH[shape], HALF_WIDTH[shape], HALF_HEIGHT[shape]


def footprint(item: SceneObject) -> float:
    """Return the radius of the smallest upright cylinder around an object of size 1."""
    x, y, _ = extents(item)
    return math.hypot(x, y) if shape_of(item) in ("box", "cube") else x


def steady(item: SceneObject) -> float:
    """Return how far off its middle things may rest on an object, as a share of its half width."""
    return STEADY.get(shape_of(item), STEADY_FLAT)


def reach(item: SceneObject, box: Box) -> float:
    """Return the largest distance from the origin of any point of a thing in its box."""
    x, y, z = (abs(value) for value in box.center)
    hx, hy, hz = box.half_extents
    shape = shape_of(item)
    if shape == "sphere":
        return math.sqrt(x * x + y * y + z * z) + hz
    if shape in ("cylinder", "cone", "torus"):
        return math.hypot(math.hypot(x, y) + hx, z + hz)
    return math.sqrt((x + hx) ** 2 + (y + hy) ** 2 + (z + hz) ** 2)


def half_width_at(shape: str, height: F64) -> F64:
    """Return the half width of a shape of size 1 at heights over its centre; -inf where it is not.

    A box is as wide as a cube here: its width along an axis is that of its box.
    """
    half = HALF_HEIGHT.get(shape, BOX_HALF)
    if shape == "sphere":
        width = np.sqrt(np.maximum(1.0 - height**2, 0.0))
    elif shape == "cone":
        width = HALF_WIDTH["cone"] * (half - height) / (2.0 * half)
    elif shape == "torus":
        width = TORUS_MAJOR + np.sqrt(np.maximum(TORUS_MINOR**2 - height**2, 0.0))
    else:
        width = np.full_like(height, HALF_WIDTH.get(shape, BOX_HALF))
    return np.where(np.abs(height) <= half + 1e-9, width, -np.inf)


def top_at(shape: str, radius: F64) -> F64:
    """Return the height over its centre of the top of a shape of size 1, at distances from its axis; -inf beside it."""
    half, width = HALF_HEIGHT.get(shape, BOX_HALF), HALF_WIDTH.get(shape, BOX_HALF)
    if shape == "sphere":
        top = np.sqrt(np.maximum(1.0 - radius**2, 0.0))
    elif shape == "cone":
        top = half - 2.0 * half * radius / width
    elif shape == "torus":
        inside = TORUS_MINOR**2 - (radius - TORUS_MAJOR) ** 2
        return np.where(inside >= -1e-12, np.sqrt(np.maximum(inside, 0.0)), -np.inf)
    else:
        # Up to their corners, cubes are flat.
        top, width = (
            np.full_like(radius, half),
            width * (1.0 if shape == "cylinder" else math.sqrt(2.0)),
        )
    return np.where(radius <= width + 1e-9, top, -np.inf)


def bottom_at(shape: str, radius: F64) -> F64:
    """Return how far below its centre the underside of a shape of size 1 is; -inf beside it."""
    if shape == "cone":
        half = HALF_HEIGHT[shape]
        return np.where(radius <= HALF_WIDTH[shape] + 1e-9, half, -np.inf)
    return top_at(shape, radius)


def stacked_height(upper: str, size: float, lower: str, below: float) -> float:
    """Return how far apart the centres of two shapes are, one resting on the middle of the other.

    Boxes on top of each other are the sum of both half heights apart. A sphere on a torus sinks into the hole a little.

    Args:
        upper: shape of the thing on top.
        size: its size.
        lower: shape of the thing below.
        below: its size.

    Returns:
        World units; -inf if the one would fall through the other.
    """
    radius = _RADII * 1.2 * min(size, below)
    return float(
        np.max(bottom_at(upper, radius / size) * size + top_at(lower, radius / below) * below)
    )


def touching_distance(first: str, size: float, second: str, other: float, raised: float) -> float:
    """Return the horizontal distance of the axes at which two shapes touch that stand beside each other.

    Args:
        first: shape of the one thing.
        size: its size.
        second: shape of the other.
        other: its size.
        raised: height of the first centre over the second.

    Returns:
        World units; -inf if they share no height.
    """
    low = max(-size, -other - raised)
    high = min(size, other - raised)
    if high < low:
        return -math.inf
    height = low + (_HEIGHTS + 1.0) / 2.0 * (high - low)
    widths = half_width_at(first, height / size) * size
    return float(np.max(widths + half_width_at(second, (height + raised) / other) * other))
