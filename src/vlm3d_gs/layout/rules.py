"""What each relation means: linear demands on boxes, or a choice among several such sets.

Axes are those of the world: x towards the front camera, y to its right, z up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

from vlm3d_gs.core.prompts import OPPOSITE
from vlm3d_gs.layout.graph import RESTING, Relation, SceneGraph, compared_sizes
from vlm3d_gs.layout.shapes import HOLE, TORUS_MAJOR, footprint, shape_of, steady
from vlm3d_gs.layout.unknowns import F64, Row, Unknowns

GAP = 0.12
"""Least distance, in units, between things that do not touch."""
NEAR = 0.5
"""Largest distance, in units, of things that are next to each other."""
OVERLAPPING = 0.6
"""Things next to each other are at most this share of their half widths off each other's middle."""
ASIDE, RAISED = 0.7, 0.9
"""A thing to the left of another may be this much farther to the front or back, or higher, than it is to the left."""
SNUG = 0.95
"""Share of a hole that its content may fill."""
ROOM = 0.8
"""Share of a container's width that its content may fill: it has walls."""
SIZE_RANGES = {
    "tiny": (0.3, 0.4),
    "small": (0.55, 0.65),
    "normal": (0.85, 1.15),
    "large": (1.4, 1.6),
}
"""Sizes in units by size word, least and most; the middle is preferred."""
ANY_SIZE = (0.3, 1.6)
"""For a thing whose size word is left out, or that holds or surrounds another."""
SLIPS = {"cone": 0.5, "sphere": 0.7}
"""A torus with a hole wider than this share of what is below it slips too far down to be on top of it."""

Distance = Literal["apart", "touching", "any"]
"""Of things beside each other."""

TOWARDS = {
    "to the left of": (1, -1.0),
    "to the right of": (1, 1.0),
    "in front of": (0, 1.0),
    "behind": (0, -1.0),
}
"""Axis and side on which the subject stands."""


@dataclass(frozen=True, slots=True, eq=False)
class Sentence:
    """Something that the prompt says, and what it demands."""

    text: str
    """In words."""
    alternatives: tuple[tuple[Row, ...], ...]
    """Sets of demands, one of which must hold; none if it cannot hold at all."""
    wishes: tuple[F64, ...] = ()
    """Expressions that should be near 0."""
    reason: str = ""
    """Why it cannot hold at all."""


def canonical(relation: Relation) -> Relation:
    """Return the relation without "under", which is "on top of" from the other side."""
    if relation.relation != "under":
        return relation
    return Relation(
        subject=relation.object,
        relation=OPPOSITE["under"],
        object=relation.subject,
        touching=relation.touching,
    )


def resting(relations: Sequence[Relation]) -> set[str]:
    """Return the names of the objects that stand on or in another one and not on the floor."""
    return {one.subject for one in map(canonical, relations) if one.relation in RESTING}


def ring_objects(graph: SceneGraph, relations: Sequence[Relation]) -> list[int]:
    """Return the numbers of the objects whose things stand in a ring around something."""
    subjects = [graph.index(one.subject) for one in relations if one.relation == "around"]
    return sorted({index for index in subjects if graph.objects[index].count > 1})


def size_ranges(graph: SceneGraph) -> dict[str, tuple[float, float]]:
    """Return the sizes that each object may have by what the others are called, its own size word left out."""
    compared = compared_sizes(graph)
    return {
        item.name: SIZE_RANGES["normal"]
        if item.size == "normal" and item.name in compared
        else ANY_SIZE
        for item in graph.objects
    }


def size_sentences(graph: SceneGraph, unknowns: Unknowns) -> list[Sentence]:
    """Return what the size words say."""
    sentences = []
    for index, item in enumerate(graph.objects):
        if item.size == "normal":
            continue
        low, high = SIZE_RANGES[item.size]
        size = unknowns.size(index)
        rows = (Row(size - unknowns.constant(low)), Row(unknowns.constant(high) - size))
        text = f"{item.sizeless} {'are' if item.count > 1 else 'is'} {item.size}"
        sentences.append(Sentence(text, (rows,)))
    return sentences


def floor_rows(graph: SceneGraph, unknowns: Unknowns, relations: Sequence[Relation]) -> list[Row]:
    """Return that whatever rests on nothing else stands on the floor, z = 0."""
    above = resting(relations)
    return [
        Row(unknowns.middle(index, 2) - unknowns.half(index, 2), equal=True)
        for index, item in enumerate(graph.objects)
        if item.name not in above
    ]


def relation_sentence(graph: SceneGraph, unknowns: Unknowns, stated: Relation) -> Sentence:
    """Return what a relation demands."""
    relation, text = canonical(stated), graph.sentence(stated)
    first, second = graph.index(relation.subject), graph.index(relation.object)

    if relation.relation == "on top of":
        return _on_top(text, unknowns, first, second, relation.touching is not False)
    if relation.relation == "inside":
        return _inside(text, graph, unknowns, first, second)
    if relation.relation == "around":
        return _around(text, graph, unknowns, first, second)
    if relation.relation == "between":
        assert relation.second is not None
        return _between(text, unknowns, first, second, graph.index(relation.second))

    distance = beside(graph, relation)
    if relation.relation == "next to":
        sides = [_near(unknowns, first, second, side, distance) for side in TOWARDS.values()]
        wish = unknowns.middle(first, 0) - unknowns.middle(second, 0)
        return Sentence(text, tuple(sides), (wish,))

    side = TOWARDS[relation.relation]
    wish = unknowns.middle(first, 1 - side[0]) - unknowns.middle(second, 1 - side[0])
    return Sentence(text, (_beside(unknowns, first, second, side, distance),), (wish,))


def beside(graph: SceneGraph, relation: Relation) -> Distance:
    """Return whether two things beside each other touch; another relation of theirs may say that they do."""
    if relation.touching is not None:
        return "touching" if relation.touching else "apart"
    pair = {relation.subject, relation.object}
    touching = any({one.subject, one.object} == pair and one.touching for one in graph.relations)
    return "any" if touching else "apart"


def _beside(
    unknowns: Unknowns, first: int, second: int, side: tuple[int, float], distance: Distance
) -> tuple[Row, ...]:
    """Return that one group stands on a side of another: apart, and farther to that side than to any other."""
    axis, sign = side
    rows = list(_apart(unknowns, first, second, side, distance))

    numbers = product(range(unknowns.objects[first].count), range(unknowns.objects[second].count))
    for one, other in numbers:
        difference = [
            unknowns.center(first, one, k) - unknowns.center(second, other, k) for k in range(3)
        ]
        along = sign * difference[axis]
        for across, share in ((1 - axis, ASIDE), (2, RAISED)):
            rows += [
                Row(share * along - difference[across]),
                Row(share * along + difference[across]),
            ]
    return tuple(rows)


def _near(
    unknowns: Unknowns, first: int, second: int, side: tuple[int, float], distance: Distance
) -> tuple[Row, ...]:
    """Return that one group stands close to a side of another, however wide they are."""
    axis, sign = side
    away = sign * (unknowns.middle(first, axis) - unknowns.middle(second, axis))
    gap = away - unknowns.group_half(first, axis) - unknowns.group_half(second, axis)

    across = unknowns.middle(first, 1 - axis) - unknowns.middle(second, 1 - axis)
    widths = unknowns.group_half(first, 1 - axis) + unknowns.group_half(second, 1 - axis)
    return (
        *_apart(unknowns, first, second, side, distance),
        Row(unknowns.constant(NEAR) - gap),
        Row(OVERLAPPING * widths - across),
        Row(OVERLAPPING * widths + across),
    )


def _apart(
    unknowns: Unknowns, first: int, second: int, side: tuple[int, float], distance: Distance
) -> tuple[Row, ...]:
    """Return that one group ends before another begins, at a distance or, on a common height, at none."""
    axis, sign = side
    away = sign * (unknowns.middle(first, axis) - unknowns.middle(second, axis))
    gap = away - unknowns.group_half(first, axis) - unknowns.group_half(second, axis)
    if distance == "apart":
        return (Row(gap - unknowns.constant(GAP)),)
    if distance == "any":
        return (Row(gap, contact=True),)

    raised = unknowns.middle(first, 2) - unknowns.middle(second, 2)
    heights = unknowns.half(first, 2) + unknowns.half(second, 2) - unknowns.constant(GAP)
    return Row(gap, equal=True, contact=True), Row(heights - raised), Row(heights + raised)


def _on_top(text: str, unknowns: Unknowns, first: int, second: int, touching: bool) -> Sentence:
    """Return that the things of one group rest on another: on its middle, or each on its own."""
    upper, lower = unknowns.objects[first], unknowns.objects[second]
    lift = unknowns.middle(first, 2) - unknowns.middle(second, 2)
    lift = lift - unknowns.half(first, 2) - unknowns.half(second, 2)
    if touching:
        rows = [Row(lift, equal=True, contact=True)]
    else:
        rows = [Row(lift - unknowns.constant(GAP)), Row(unknowns.constant(2 * NEAR) - lift)]

    # As many below as above: each carries one. Otherwise those below carry all together.
    paired = upper.count == lower.count
    for number, axis in product(range(upper.count), (0, 1)):
        below = unknowns.center(second, number, axis) if paired else unknowns.middle(second, axis)
        half = unknowns.half(second, axis) if paired else unknowns.group_half(second, axis)
        slack = steady(lower) * half
        off = unknowns.center(first, number, axis) - below
        rows += [Row(slack - off), Row(slack + off)]

    if shape_of(lower) == "torus" and (paired or lower.count == 1):
        # What is not as wide as the ring falls into its hole.
        widest = 1.25 * HOLE if shape_of(upper) == "sphere" else TORUS_MAJOR
        rows.append(Row(footprint(upper) * unknowns.size(first) - widest * unknowns.size(second)))
    if shape_of(upper) == "torus":
        if shape_of(lower) in SLIPS:
            most = SLIPS[shape_of(lower)] * unknowns.half(second, 0)
            rows.append(Row(most - HOLE * unknowns.size(first)))
        else:
            edge = footprint(lower) * unknowns.size(second)
            rows.append(Row(edge - TORUS_MAJOR * unknowns.size(first)))

    wishes = tuple(unknowns.middle(first, axis) - unknowns.middle(second, axis) for axis in (0, 1))
    return Sentence(text, (tuple(rows),), wishes)


def _inside(text: str, graph: SceneGraph, unknowns: Unknowns, first: int, second: int) -> Sentence:
    """Return that one group lies in the hole of a ring, or on the bottom of a container."""
    outer = graph.objects[second]
    shape = shape_of(outer)
    if outer.count > 1:
        return Sentence(text, (), reason="one container holds things, not several")
    if shape not in ("torus", "box"):
        return Sentence(
            text,
            (),
            reason=f"a {shape} is closed, so nothing in it would be seen; a torus has a hole",
        )

    rows = []
    for axis in (0, 1):
        off = unknowns.middle(first, axis) - unknowns.middle(second, axis)
        if shape == "torus":
            rows.append(Row(off, equal=True))
        else:
            room = ROOM * unknowns.half(second, axis) - unknowns.group_half(first, axis)
            rows += [Row(room - off), Row(room + off)]

    base = unknowns.middle(second, 2) - unknowns.half(second, 2)
    if shape == "torus":
        hole = SNUG * HOLE * unknowns.size(second)
        rows.append(Row(hole - unknowns.group_radius(first)))
    else:
        # On the bottom, with its middle below the rim.
        base = base + (1.0 - ROOM) * unknowns.half(second, 2)
        rim = unknowns.middle(second, 2) + unknowns.half(second, 2)
        rows.append(Row(rim - unknowns.middle(first, 2)))
    rows.append(Row(unknowns.middle(first, 2) - unknowns.half(first, 2) - base, equal=True))

    return Sentence(text, (tuple(rows),))


def _around(text: str, graph: SceneGraph, unknowns: Unknowns, first: int, second: int) -> Sentence:
    """Return that things stand in a ring around another group, or that a torus lies around it."""
    ring = graph.objects[first]
    if ring.count == 1 and shape_of(ring) != "torus":
        return Sentence(
            text,
            (),
            reason=f"a single {ring.noun} cannot be around anything; two or more, or a torus, can",
        )

    rows = [
        Row(unknowns.middle(first, axis) - unknowns.middle(second, axis), equal=True)
        for axis in (0, 1)
    ]
    if ring.count == 1:
        hole = SNUG * HOLE * unknowns.size(first)
        rows.append(Row(hole - unknowns.group_radius(second)))
        return Sentence(text, (tuple(rows),))

    # Free of what they surround, and of each other, each along the axis that separates them best.
    pattern = unknowns.patterns[first]
    for place in pattern:
        axis = 0 if abs(place[0]) > abs(place[1]) else 1
        reach = abs(place[axis]) * unknowns.radius(first)
        inner = unknowns.half(first, axis) + unknowns.group_half(second, axis)
        rows.append(Row(reach - inner - unknowns.constant(GAP)))
    for one, other in combinations(pattern, 2):
        axis = 0 if abs(one[0] - other[0]) > abs(one[1] - other[1]) else 1
        reach = abs(one[axis] - other[axis]) * unknowns.radius(first)
        rows.append(Row(reach - 2.0 * unknowns.half(first, axis) - unknowns.constant(GAP)))
    return Sentence(text, (tuple(rows),))


def _between(text: str, unknowns: Unknowns, first: int, second: int, third: int) -> Sentence:
    """Return that a group stands between two others, to the left and right of it or before and behind it."""
    alternatives = []
    for axis, sign in ((1, 1.0), (1, -1.0), (0, 1.0), (0, -1.0)):
        one = _beside(unknowns, second, first, (axis, -sign), "apart")
        other = _beside(unknowns, third, first, (axis, sign), "apart")
        alternatives.append((*one, *other))

    wishes = tuple(
        2.0 * unknowns.middle(first, axis)
        - unknowns.middle(second, axis)
        - unknowns.middle(third, axis)
        for axis in (0, 1)
    )
    return Sentence(text, tuple(alternatives), wishes)
