"""Whether boxes stand as sentences say: the meaning of each relation, apart from how boxes are found.

It judges layouts that were solved or given, and finished scenes by the boxes measured in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product

from vlm3d_gs.layout.graph import SIZES, Relation, SceneGraph, SceneObject, compared_sizes
from vlm3d_gs.layout.rules import TOWARDS, beside, canonical
from vlm3d_gs.layout.shapes import (
    HOLE,
    UNIT,
    Box,
    footprint,
    shape_of,
    stacked_height,
    touching_distance,
)

Things = Mapping[str, Sequence[Box]]
"""The boxes of each object, by its name."""

EXACT, MEASURED = 0.02, 0.3
"""Slack for boxes of a layout, and for boxes measured in a scene, in mean sizes of the two things."""
APART, APART_MEASURED = 0.98, 0.4
"""Least distance of two centres along a relation's axis, over the sum of both half extents."""
NEAR = 1.5
"""Largest gap between things that are next to each other, in mean sizes."""
WIDEST_GAP_DEG = 200.0
"""Things around another leave no larger angle open, seen from its middle; two of them stand on opposite sides."""
SIZE_RATIO = 1.18
"""A thing is larger than another if it is so many times as large; the words are at least 1.3 apart."""
ALONE = {"tiny": (0.0, 0.47), "small": (0.47, 0.8), "large": (1.05, 9.0)}
"""Sizes of the only object of a scene by its word, relative to one without."""


def violations(graph: SceneGraph, things: Things, *, measured: bool = False) -> list[str]:
    """Return the sentences of a graph that do not hold, in words: counts, sizes, relations.

    Args:
        graph: what is said.
        things: the boxes; an object without a box, or with too many, is said so, and its relations do not hold.
        measured: the boxes are not exact, and neighbours may share a little of their places.
    """
    wrong = []
    for item in graph.objects:
        seen = len(things.get(item.name, ()))
        if seen != item.count:
            wrong.append(f"{item}: there {'is' if seen == 1 else 'are'} {seen or 'none'}")

    wrong += size_violations(graph, things)
    wrong += [
        graph.sentence(relation)
        for relation in graph.relations
        if not relation_holds(graph, relation, things, measured=measured)
    ]
    return wrong


def size_violations(graph: SceneGraph, things: Things) -> list[str]:
    """Return which objects are not larger than others that they should be larger than."""
    ranks = compared_sizes(graph)
    sizes = {
        name: sum(box.size for box in things[name]) / len(things[name])
        for name in ranks
        if things.get(name)
    }
    wrong = []
    only = graph.objects[0]
    if len(graph.objects) == 1 and only.count == 1 and only.size in ALONE and sizes:
        low, high = ALONE[only.size]
        if not low <= sizes[only.name] / UNIT <= high:
            wrong.append(
                f"{only.sizeless} is not {only.size}: size {sizes[only.name]:.2f}, without a word {UNIT}"
            )

    for larger, smaller in product(sizes, sizes):
        if ranks[larger] > ranks[smaller] and sizes[larger] < SIZE_RATIO * sizes[smaller]:
            one, other = graph.find(larger), graph.find(smaller)
            wrong.append(
                f"{one} ({SIZES[ranks[larger]]}) should be clearly larger than {other}: "
                f"sizes {sizes[larger]:.2f} and {sizes[smaller]:.2f}"
            )
    return wrong


def relation_holds(
    graph: SceneGraph, relation: Relation, things: Things, *, measured: bool = False
) -> bool:
    """Return whether a relation holds for all things of its objects; arguments as in `violations`."""
    stated = canonical(relation)
    first, second = graph.find(stated.subject), graph.find(stated.object)
    ones, others = things.get(first.name, ()), things.get(second.name, ())
    if not ones or not others:
        return False

    if stated.relation == "on top of":
        return all(_rests(one, first, others, second, stated.touching, measured) for one in ones)
    if stated.relation == "inside":
        return all(any(_within(one, other, second, measured) for other in others) for one in ones)
    if stated.relation == "around":
        return _surround(ones, first, others, second, measured)
    if stated.relation == "between":
        assert stated.second is not None
        thirds = things.get(stated.second, ())
        return bool(thirds) and _is_between(ones, others, thirds, measured)

    pairs = list(product(ones, others))
    if stated.relation == "next to":
        right = _near(_union(ones), _union(others))
    else:
        # Round things that touch are nearer than their boxes would be.
        share = APART if not measured and beside(graph, stated) == "apart" else APART_MEASURED
        right = all(_towards(one, other, *TOWARDS[stated.relation], share) for one, other in pairs)
    if stated.touching is None or not right:
        return right

    slack = MEASURED if measured else EXACT
    gaps = [_shape_gap(one, first, other, second) / _unit(one, other) for one, other in pairs]
    return min(gaps) <= slack if stated.touching else min(gaps) > slack / 4.0


def _unit(one: Box, other: Box) -> float:
    return (one.size + other.size) / 2.0


def _off(one: Box, other: Box) -> tuple[float, float, float]:
    """Return the way from the second centre to the first."""
    return (
        one.center[0] - other.center[0],
        one.center[1] - other.center[1],
        one.center[2] - other.center[2],
    )


def _towards(one: Box, other: Box, axis: int, sign: float, share: float) -> bool:
    """Return whether a thing is on a side of another: mainly there, and so much of both half extents away."""
    off = _off(one, other)
    along = sign * off[axis]
    across = max(abs(value) for index, value in enumerate(off) if index != axis)
    room = one.half_extents[axis] + other.half_extents[axis]
    return along >= share * room and along >= across


def _rests(
    one: Box,
    upper: SceneObject,
    others: Sequence[Box],
    lower: SceneObject,
    touching: bool | None,
    measured: bool,
) -> bool:
    """Return whether a thing is over one of some others, or over the middle of all, and touches unless it must not."""
    unit = sum(_unit(one, other) for other in others) / len(others)
    slack = (MEASURED if measured else EXACT) * unit

    def over(axis: int, below: Sequence[Box]) -> bool:
        low = min(box.center[axis] - box.half_extents[axis] for box in below)
        high = max(box.center[axis] + box.half_extents[axis] for box in below)
        return low - slack <= one.center[axis] <= high + slack

    carrying = [box for box in others if all(over(axis, [box]) for axis in (0, 1))]
    below = carrying or (list(others) if all(over(axis, others) for axis in (0, 1)) else [])
    for box in below:
        off = _off(one, box)
        boxes = one.half_extents[2] + box.half_extents[2]
        height = stacked_height(shape_of(upper), one.size, shape_of(lower), box.size)
        lowest = min(boxes, height) if math.isfinite(height) else boxes
        across = 0.0 if len(below) > 1 else max(abs(off[0]), abs(off[1]))
        touches = lowest - slack <= off[2] <= boxes + slack
        if off[2] >= across and (off[2] > boxes if touching is False else touches):
            return True
    return False


def _within(one: Box, other: Box, container: SceneObject, measured: bool) -> bool:
    """Return whether a thing is inside another, as far as boxes tell."""
    slack = (MEASURED if measured else EXACT) * one.size
    off = _off(one, other)
    low = abs(off[2]) <= other.half_extents[2] + (one.half_extents[2] if measured else slack)
    if shape_of(container) == "torus":
        # Its bottom is at most as high as the ring, whatever stands out above.
        sunk = one.center[2] - one.half_extents[2] < other.center[2] + other.half_extents[2]
        hole = HOLE * other.size + slack
        return sunk and math.hypot(off[0], off[1]) + max(one.half_extents[:2]) <= hole + slack
    return low and all(
        abs(off[axis]) + one.half_extents[axis] <= other.half_extents[axis] + slack
        for axis in (0, 1)
    )


def _surround(
    ones: Sequence[Box],
    ring: SceneObject,
    others: Sequence[Box],
    inner: SceneObject,
    measured: bool,
) -> bool:
    """Return whether things stand on all sides of others, or a torus lies around them."""
    if len(ones) == 1:
        if shape_of(ring) != "torus":
            return False
        return all(_within(other, ones[0], ring, measured) for other in others)

    middle = [sum(box.center[axis] for box in others) / len(others) for axis in (0, 1)]
    inside = max(math.hypot(box.center[0] - middle[0], box.center[1] - middle[1]) for box in others)
    outside = [math.hypot(box.center[0] - middle[0], box.center[1] - middle[1]) for box in ones]
    room = 0.5 * footprint(inner) * max(box.size for box in others)
    if min(outside) < inside + room:
        return False

    angles = sorted(
        math.degrees(math.atan2(box.center[1] - middle[1], box.center[0] - middle[0]))
        for box in ones
    )
    gaps = [after - before for before, after in pairwise(angles)]
    return max([*gaps, angles[0] + 360.0 - angles[-1]]) <= WIDEST_GAP_DEG + (
        20.0 if measured else 0.0
    )


def _is_between(
    ones: Sequence[Box], others: Sequence[Box], thirds: Sequence[Box], measured: bool
) -> bool:
    """Return whether all of the first stand between the others, along y or along x."""
    share = APART_MEASURED if measured else APART
    return any(
        all(_towards(other, one, axis, -sign, share) for one, other in product(ones, others))
        and all(_towards(third, one, axis, sign, share) for one, third in product(ones, thirds))
        for axis, sign in product((1, 0), (1.0, -1.0))
    )


def _union(boxes: Sequence[Box]) -> Box:
    """Return the box around several, with their mean size."""
    low = [min(box.center[axis] - box.half_extents[axis] for box in boxes) for axis in range(3)]
    high = [max(box.center[axis] + box.half_extents[axis] for box in boxes) for axis in range(3)]
    middle = [(a + b) / 2.0 for a, b in zip(low, high, strict=True)]
    half = [(b - a) / 2.0 for a, b in zip(low, high, strict=True)]
    size = sum(box.size for box in boxes) / len(boxes)
    return Box("", 0, (middle[0], middle[1], middle[2]), (half[0], half[1], half[2]), size)


def _near(one: Box, other: Box) -> bool:
    """Return whether two things stand beside each other without much between them."""
    off = _off(one, other)
    gaps = [abs(off[axis]) - one.half_extents[axis] - other.half_extents[axis] for axis in (0, 1)]
    rooms = [one.half_extents[axis] + other.half_extents[axis] for axis in (0, 1)]
    apart = any(abs(off[axis]) >= APART_MEASURED * rooms[axis] for axis in (0, 1))
    return apart and max(gaps) <= NEAR * _unit(one, other)


def _shape_gap(one: Box, first: SceneObject, other: Box, second: SceneObject) -> float:
    """Return how far apart two shapes beside each other are, world units; negative if they share a place."""
    off = _off(one, other)
    shapes = shape_of(first), shape_of(second)
    distance = touching_distance(shapes[0], one.size, shapes[1], other.size, off[2])
    if "box" in shapes or "cube" in shapes:
        gaps = [
            abs(off[axis]) - one.half_extents[axis] - other.half_extents[axis] for axis in (0, 1)
        ]
        if "box" in shapes or not math.isfinite(distance):
            return max(gaps)
        return max(abs(off[0]), abs(off[1])) - distance
    return math.hypot(off[0], off[1]) - distance
