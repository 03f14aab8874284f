"""The unknowns of a layout, and linear expressions of them.

An expression is a row of coefficients, one for each unknown, and a constant at its end. Every object has the centre of
its group and the size of its things, in units: a thing without a size word is about one unit large. The things of one
object stand in a fixed pattern around the group's centre, so their places are linear in the unknowns, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.layout.graph import SceneObject
from vlm3d_gs.layout.shapes import extents, footprint

F64 = NDArray[np.float64]
Pattern = tuple[tuple[float, float], ...]
"""Places of an object's things along x and y, in steps from one to the next."""

STEP = 2.24
"""From one thing of a group to the next, in half widths: a gap of an eighth of a width is between them."""
PATTERNS: dict[int, tuple[Pattern, ...]] = {
    1: (((0.0, 0.0),),),
    2: (((0.0, -0.5), (0.0, 0.5)), ((0.5, 0.0), (-0.5, 0.0))),
    3: (
        ((0.0, -1.0), (0.0, 0.0), (0.0, 1.0)),
        ((0.5, -0.5), (0.5, 0.5), (-0.5, 0.0)),
        ((1.0, 0.0), (0.0, 0.0), (-1.0, 0.0)),
    ),
    4: (
        ((0.5, -0.5), (0.5, 0.5), (-0.5, -0.5), (-0.5, 0.5)),
        ((0.0, -1.5), (0.0, -0.5), (0.0, 0.5), (0.0, 1.5)),
        ((1.5, 0.0), (0.5, 0.0), (-0.5, 0.0), (-1.5, 0.0)),
    ),
}
"""Ways in which so many things may stand, the preferred first: side by side, as a bunch, one behind the other."""


class Row(NamedTuple):
    """A demand on the unknowns."""

    expression: F64
    """Coefficients, and a constant at the end."""
    equal: bool = False
    """The expression must be 0; else 0 or more."""
    contact: bool = False
    """It stands for the contact of two things, so that the true contact of their shapes may replace it."""


class Unknowns:
    """Expressions for the places and sizes of a graph's objects.

    Args:
        objects: the objects, O of them.
        patterns: how the things of each stand.
        rings: numbers of the objects that stand in a ring around something; their things keep a common distance from
            the group's centre, which is one more unknown.
    """

    def __init__(
        self, objects: Sequence[SceneObject], patterns: Sequence[Pattern], rings: Sequence[int]
    ) -> None:
        self.objects, self.rings = tuple(objects), tuple(rings)
        self.count = 4 * len(objects) + len(rings)
        self.extents = [extents(item) for item in objects]
        self.patterns = [
            ring_pattern(item.count) if index in rings else pattern
            for index, (item, pattern) in enumerate(zip(objects, patterns, strict=True))
        ]

    def constant(self, value: float) -> F64:
        """Return an expression without unknowns."""
        row = np.zeros(self.count + 1)
        row[-1] = value
        return row

    def size(self, index: int) -> F64:
        """Return the size of an object's things."""
        return self._one(4 * index + 3)

    def half(self, index: int, axis: int) -> F64:
        """Return the half extent of each of an object's things along an axis."""
        return self.extents[index][axis] * self.size(index)

    def middle(self, index: int, axis: int) -> F64:
        """Return the middle of an object's group along an axis."""
        return self._one(4 * index + axis)

    def center(self, index: int, number: int, axis: int) -> F64:
        """Return the centre of one thing along an axis."""
        if axis == 2:
            return self.middle(index, axis)
        return self.middle(index, axis) + self.offset(
            index, self.patterns[index][number][axis], axis
        )

    def offset(self, index: int, steps: float, axis: int) -> F64:
        """Return the length of so many steps of an object's pattern."""
        if index in self.rings:
            return steps * self.radius(index)
        return steps * STEP * self.half(index, axis)

    def radius(self, index: int) -> F64:
        """Return the radius of a ring of things."""
        return self._one(4 * len(self.objects) + self.rings.index(index))

    def group_half(self, index: int, axis: int) -> F64:
        """Return the half extent of a whole group along an axis."""
        if axis == 2:
            return self.half(index, axis)
        widest = max(abs(place[axis]) for place in self.patterns[index])
        return self.half(index, axis) + self.offset(index, widest, axis)

    def group_radius(self, index: int) -> F64:
        """Return the radius of an upright cylinder around a whole group."""
        if index in self.rings:
            return self.radius(index) + footprint(self.objects[index]) * self.size(index)
        width = STEP * self.extents[index][0]
        farthest = max(math.hypot(x, y) for x, y in self.patterns[index])
        return (farthest * width + footprint(self.objects[index])) * self.size(index)

    def _one(self, column: int) -> F64:
        row = np.zeros(self.count + 1)
        row[column] = 1.0
        return row


def ring_pattern(count: int) -> Pattern:
    """Return places on a circle of radius 1, none straight in front of the middle unless four need it."""
    start = {1: 0.0, 2: 90.0, 3: 180.0, 4: 45.0}[count]
    angles = [math.radians(start + 360.0 * number / count) for number in range(count)]
    return tuple((math.cos(angle), math.sin(angle)) for angle in angles)
