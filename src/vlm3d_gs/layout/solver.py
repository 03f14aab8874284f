"""From a scene graph to boxes inside the unit ball: every sentence holds, or the error names those that cannot.

Objects that relations connect are arranged together (`arrange`), in units; shapes then touch where boxes did
(`contact`). Unconnected parts stand in rows beside each other. All demands keep their truth when a scene grows or
shrinks as a whole, so at the end it is made as large as the unit ball allows. Deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from vlm3d_gs.core.errors import LayoutError
from vlm3d_gs.layout.arrange import Arrangement, SizeRanges, arrange, impossible, sentences_of
from vlm3d_gs.layout.contact import settle
from vlm3d_gs.layout.contradiction import smallest_conflict
from vlm3d_gs.layout.graph import SceneGraph
from vlm3d_gs.layout.meaning import violations
from vlm3d_gs.layout.rules import size_ranges
from vlm3d_gs.layout.shapes import UNIT, Box, reach
from vlm3d_gs.layout.unknowns import F64

RADIUS = 0.95
"""The scene stays inside a ball of this radius."""
AISLE = 0.3
"""Distance of unconnected parts, in units."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A scene graph and a box for each of its things."""

    graph: SceneGraph
    boxes: tuple[Box, ...]
    """By object, in the graph's order, and by number; inside the unit ball, world units."""

    def things(self) -> dict[str, list[Box]]:
        """Return the boxes of each object by its name."""
        return {
            item.name: [box for box in self.boxes if box.name == item.name]
            for item in self.graph.objects
        }


def solve_layout(graph: SceneGraph) -> Layout:
    """Return boxes for which all sentences of a graph hold.

    Raises:
        LayoutError: there are none; the message names the smallest set of sentences that cannot hold together.
    """
    wrong = impossible(graph)
    if wrong is not None:
        raise LayoutError(
            f"'{wrong.text}' cannot be: {wrong.reason}. Change or leave out that part."
        )

    sizes = size_ranges(graph)
    parts = [_part(one, sizes) for one in _connected(graph)]
    layout = Layout(graph, _framed(graph, _in_rows(parts)))

    broken = violations(graph, layout.things())
    if broken:
        raise LayoutError(_cannot_hold(broken))
    return layout


def _part(graph: SceneGraph, sizes: SizeRanges) -> list[Box]:
    """Return the boxes of one connected part, in units."""
    found = arrange(graph, sizes)
    values = None if found is None else settle(graph, found)
    if found is None or values is None:
        sentences = sentences_of(graph)
        conflict = [sentences[index] for index in smallest_conflict(graph, sizes)]
        raise LayoutError(_cannot_hold(conflict or sentences))
    return _boxes(graph, found, values)


def _cannot_hold(sentences: Sequence[str]) -> str:
    listed = "; ".join(f"'{one}'" for one in sentences)
    if len(sentences) == 1:
        return f"This cannot hold in any layout: {listed}. Change or leave out that part."
    return f"These cannot hold together: {listed}. Each but one of them could; change or leave out one."


def _connected(graph: SceneGraph) -> list[SceneGraph]:
    """Return the parts of a graph that no relation connects, by their first objects."""
    group = {item.name: index for index, item in enumerate(graph.objects)}
    for relation in graph.relations:
        names = [relation.subject, relation.object, *filter(None, [relation.second])]
        for one, other in pairwise(names):
            low, high = sorted((group[one], group[other]))
            group = {name: low if number == high else number for name, number in group.items()}

    parts = []
    for number in sorted(set(group.values())):
        objects = tuple(item for item in graph.objects if group[item.name] == number)
        relations = tuple(one for one in graph.relations if group[one.subject] == number)
        parts.append(replace(graph, objects=objects, relations=relations))
    return parts


def _boxes(graph: SceneGraph, found: Arrangement, values: F64) -> list[Box]:
    unknowns = found.unknowns

    def at(expression: F64) -> float:
        return float(expression[:-1] @ values + expression[-1])

    boxes = []
    for index, item in enumerate(graph.objects):
        half = tuple(at(unknowns.half(index, axis)) for axis in range(3))
        for number in range(item.count):
            center = tuple(at(unknowns.center(index, number, axis)) for axis in range(3))
            boxes.append(
                Box(item.name, number, _three(center), _three(half), at(unknowns.size(index)))
            )
    return boxes


def _in_rows(parts: Sequence[Sequence[Box]]) -> list[Box]:
    """Place parts side by side, in the number of rows that covers the roundest floor; the first stands back left."""
    best: list[Box] = []
    least = math.inf
    for rows in range(1, len(parts) + 1):
        columns = math.ceil(len(parts) / rows)
        placed = _rows([parts[start : start + columns] for start in range(0, len(parts), columns)])
        sides = [_span(placed, axis) for axis in (0, 1)]
        radius = math.hypot(*(high - low for low, high in sides))
        if radius < least - 1e-9:
            best, least = placed, radius
    return best


def _rows(rows: Sequence[Sequence[Sequence[Box]]]) -> list[Box]:
    placed: list[Box] = []
    front = 0.0
    for row in rows:
        right, row_boxes = 0.0, []
        for part in row:
            low, high = _span(part, 1)
            row_boxes += [_moved(box, (0.0, right - low, 0.0)) for box in part]
            right += high - low + AISLE

        # Each row is centred from left to right, and stands before the one that came before it.
        low, high = _span(row_boxes, 0)
        depth, middle = high - low, (right - AISLE) / 2.0
        placed += [_moved(box, (front - low, -middle, 0.0)) for box in row_boxes]
        front += depth + AISLE
    return placed


def _framed(graph: SceneGraph, boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Return the boxes centred, as large as the ball allows, in the graph's order."""
    middle = [sum(_span(boxes, axis)) / 2.0 for axis in range(3)]
    centred = [_moved(box, (-middle[0], -middle[1], -middle[2])) for box in boxes]

    radius = max(reach(graph.find(box.name), box) for box in centred)
    scale = min(UNIT, RADIUS / radius)
    order = {item.name: index for index, item in enumerate(graph.objects)}
    scaled = [
        Box(
            box.name,
            box.number,
            _three([scale * value for value in box.center]),
            _three([scale * value for value in box.half_extents]),
            scale * box.size,
        )
        for box in centred
    ]
    return tuple(sorted(scaled, key=lambda box: (order[box.name], box.number)))


def _span(boxes: Sequence[Box], axis: int) -> tuple[float, float]:
    low = min(box.center[axis] - box.half_extents[axis] for box in boxes)
    return low, max(box.center[axis] + box.half_extents[axis] for box in boxes)


def _moved(box: Box, by: tuple[float, float, float]) -> Box:
    return box._replace(center=_three([a + b for a, b in zip(box.center, by, strict=True)]))


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    return values[0], values[1], values[2]
