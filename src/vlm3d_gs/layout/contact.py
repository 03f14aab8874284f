"""Contact of shapes instead of boxes: what the linear program cannot say.

Where the boxes of two spheres of different size touch, the spheres do not; a sphere on a torus rests on its ring and
sinks into its hole. Heights follow from the shapes directly. Places beside each other are moved as little as possible
until the shapes touch, by sequential quadratic programming, with all linear demands kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy import optimize

from vlm3d_gs.layout.arrange import Arrangement
from vlm3d_gs.layout.graph import SIDEWAYS, Relation, SceneGraph
from vlm3d_gs.layout.rules import TOWARDS, canonical
from vlm3d_gs.layout.shapes import shape_of, stacked_height, touching_distance
from vlm3d_gs.layout.unknowns import F64

SAME = 1e-6
"""Lengths this close are equal, units."""
FLAT = ("cube", "box")
"""Shapes whose sides face along the axes; the others are round."""


class _Touch(NamedTuple):
    """Two things that touch beside each other."""

    first: tuple[int, int]
    """Object, and number of the thing."""
    second: tuple[int, int]
    axis: int | None
    """The axis along which flat sides meet; None for round ones, which meet at any angle."""
    distance: float
    """Of their axes, units."""


def settle(graph: SceneGraph, found: Arrangement) -> F64 | None:
    """Return the unknowns of an arrangement with true contacts, or None if they cannot all be."""
    values = found.values[: found.unknowns.count].copy()
    _settle_heights(graph, found, values)
    touches = [
        touch
        for relation in graph.relations
        if relation.touching and relation.relation in SIDEWAYS
        for touch in [_touch(graph, found, values, relation)]
        if touch is not None
    ]
    if all(abs(_gap(found, values, touch)) < SAME for touch in touches):
        return values
    return _slide(found, values, touches)


def _settle_heights(graph: SceneGraph, found: Arrangement, values: F64) -> None:
    """Lower or raise what rests on a round shape, and with it what rests on that."""
    rests: dict[int, tuple[int, float]] = {}
    for relation in map(canonical, graph.relations):
        if relation.relation not in ("on top of", "inside"):
            continue
        first, second = graph.index(relation.subject), graph.index(relation.object)
        if relation.relation == "inside" or relation.touching is False:
            rests.setdefault(first, (second, 0.0))
        else:
            rests[first] = (second, _sinks(graph, found, first, second))

    for index in range(len(graph.objects)):
        lower, moved = index, 0.0
        # A chain of supports is at most as long as there are objects.
        for _ in graph.objects:
            if lower not in rests:
                break
            lower, step = rests[lower]
            moved += step
        values[4 * index + 2] += moved


def _sinks(graph: SceneGraph, found: Arrangement, first: int, second: int) -> float:
    """Return how much higher than its box a thing rests on the middle of another; 0 beside the middle."""
    unknowns = found.unknowns
    upper, lower = graph.objects[first], graph.objects[second]
    if upper.count != lower.count or "box" in (shape_of(upper), shape_of(lower)):
        return 0.0
    for number, axis in product(range(upper.count), (0, 1)):
        off = unknowns.center(first, number, axis) - unknowns.center(second, number, axis)
        if abs(found.value(off)) > 1e-3:
            return 0.0

    size, below = found.value(unknowns.size(first)), found.value(unknowns.size(second))
    height = stacked_height(shape_of(upper), size, shape_of(lower), below)
    boxes = found.value(unknowns.half(first, 2) + unknowns.half(second, 2))
    return height - boxes if np.isfinite(height) and abs(height - boxes) > 1e-3 else 0.0


def _touch(graph: SceneGraph, found: Arrangement, values: F64, relation: Relation) -> _Touch | None:
    """Return the nearest two things of two groups that touch."""
    unknowns = found.unknowns
    first, second = graph.index(relation.subject), graph.index(relation.object)
    pairs = product(range(graph.objects[first].count), range(graph.objects[second].count))

    def offset(one: int, other: int) -> F64:
        return np.array(
            [
                _at(
                    unknowns.center(first, one, axis) - unknowns.center(second, other, axis), values
                )
                for axis in range(3)
            ]
        )

    one, other = min(pairs, key=lambda pair: round(float(np.hypot(*offset(*pair)[:2])), 6))
    away = offset(one, other)
    shapes = [shape_of(graph.objects[index]) for index in (first, second)]
    sizes = [_at(unknowns.size(index), values) for index in (first, second)]
    distance = touching_distance(shapes[0], sizes[0], shapes[1], sizes[1], float(away[2]))
    if not np.isfinite(distance):
        return None

    axis = None
    if any(shape in FLAT for shape in shapes):
        axis = (
            TOWARDS[relation.relation][0]
            if relation.relation in TOWARDS
            else int(np.argmax(np.abs(away[:2])))
        )
        # A box's own width, where its proportions differ from a cube's.
        if "box" in shapes:
            distance = _at(unknowns.half(first, axis) + unknowns.half(second, axis), values)
    return _Touch((first, one), (second, other), axis, distance)


def _at(expression: F64, values: F64) -> float:
    return float(expression[:-1] @ values + expression[-1])


def _offsets(found: Arrangement, touch: _Touch) -> tuple[F64, F64]:
    """Return the expressions of the distance along x and y."""
    unknowns = found.unknowns
    x, y = (
        unknowns.center(*touch.first, axis) - unknowns.center(*touch.second, axis)
        for axis in (0, 1)
    )
    return x, y


def _gap(found: Arrangement, values: F64, touch: _Touch) -> float:
    """Return how far apart two things are that should touch; negative if they share a place."""
    away = [_at(expression, values) for expression in _offsets(found, touch)]
    return (math.hypot(*away) if touch.axis is None else abs(away[touch.axis])) - touch.distance


def _slide(found: Arrangement, values: F64, touches: Sequence[_Touch]) -> F64 | None:
    """Move things on their levels until they touch."""
    columns = [4 * index + axis for index in range(len(found.unknowns.objects)) for axis in (0, 1)]
    kept = [row for row in found.rows if not row.contact and np.any(row.expression[columns] != 0.0)]
    constraints = []
    for kind, equal in (("ineq", False), ("eq", True)):
        rows = [row.expression for row in kept if row.equal == equal]
        if rows:
            constraints.append(_linear(kind, np.stack(rows), values, columns))
    constraints += [_contact(found, touch, values, columns) for touch in touches]

    start = values[columns]
    result = optimize.minimize(
        lambda places: float(((places - start) ** 2).sum()),
        start,
        jac=lambda places: 2.0 * (places - start),
        method="SLSQP",
        constraints=constraints,
        options={"maxiter": 60, "ftol": 1e-10},
    )
    if not result.success:
        return None
    moved = values.copy()
    moved[columns] = result.x
    return moved


def _linear(kind: str, rows: F64, values: F64, columns: list[int]) -> dict[str, object]:
    slopes = rows[:, columns]
    rest = rows[:, :-1] @ values + rows[:, -1] - slopes @ values[columns]
    return {
        "type": kind,
        "fun": lambda places: slopes @ places + rest,
        "jac": lambda places: slopes,
    }


def _contact(
    found: Arrangement, touch: _Touch, values: F64, columns: list[int]
) -> dict[str, object]:
    both = np.stack(_offsets(found, touch))
    slopes = both[:, columns]
    rest = both[:, :-1] @ values + both[:, -1] - slopes @ values[columns]

    def fun(places: F64) -> float:
        away = slopes @ places + rest
        length = np.hypot(*away) if touch.axis is None else abs(away[touch.axis])
        return float(length) - touch.distance

    def jac(places: F64) -> F64:
        away = slopes @ places + rest
        if touch.axis is not None:
            return np.sign(away[touch.axis]) * slopes[touch.axis]
        return away @ slopes / max(float(np.hypot(*away)), 1e-9)

    return {"type": "eq", "fun": fun, "jac": jac}
