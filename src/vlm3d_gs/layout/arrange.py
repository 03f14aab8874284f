"""One connected part of a scene, arranged in units: demands, patterns of groups, and nothing in the same place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from vlm3d_gs.layout.graph import Relation, SceneGraph
from vlm3d_gs.layout.linear import Choice, Compact
from vlm3d_gs.layout.rules import (
    GAP,
    SIZE_RANGES,
    Sentence,
    canonical,
    floor_rows,
    relation_sentence,
    resting,
    ring_objects,
    size_sentences,
)
from vlm3d_gs.layout.unknowns import F64, PATTERNS, Pattern, Row, Unknowns

SizeRanges = Mapping[str, tuple[float, float]]
"""Least and largest size of each object in units, by its name."""
ROUNDS = 12
"""Largest number of times that overlapping things are told apart."""
OVERLAP = 1e-6
"""Boxes overlap if they share more than this along every axis, units."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrangement:
    """A solution in units, on the floor z = 0."""

    unknowns: Unknowns
    values: F64
    """The unknowns and, after them, what else the program needed."""
    rows: tuple[Row, ...]
    """All demands that it meets, those of the chosen alternatives among them."""

    def value(self, expression: F64) -> float:
        """Return what an expression amounts to here."""
        return float(expression[:-1] @ self.values[: len(expression) - 1] + expression[-1])


def sentences_of(graph: SceneGraph) -> list[str]:
    """Return everything that a graph says: its relations, then its size words."""
    unknowns = Unknowns(graph.objects, [PATTERNS[item.count][0] for item in graph.objects], ())
    sizes = [sentence.text for sentence in size_sentences(graph, unknowns)]
    return [*(graph.sentence(relation) for relation in graph.relations), *sizes]


def arrange(
    graph: SceneGraph, sizes: SizeRanges, kept: Collection[int] | None = None
) -> Arrangement | None:
    """Arrange all objects of a graph near each other.

    Args:
        graph: the scene, or a part of it that no relation leaves.
        sizes: least and largest size of each object in units, by name, without its own size word.
        kept: numbers of the sentences (as in `sentences_of`) that must hold; None is all.

    Returns:
        The first arrangement found, with the preferred patterns of groups if they can be; None if there is none.
    """
    rings = ring_objects(graph, graph.relations)
    choices = [
        PATTERNS[item.count][: 1 if index in rings else None]
        for index, item in enumerate(graph.objects)
    ]
    ways = product(*(range(len(patterns)) for patterns in choices))
    for way in sorted(ways, key=lambda one: (sum(one), one)):
        patterns = [one[index] for one, index in zip(choices, way, strict=True)]
        found = _arrange(graph, patterns, sizes, kept)
        if found is not None:
            return found
    return None


def impossible(graph: SceneGraph) -> Sentence | None:
    """Return the first relation that cannot hold whatever the places are, or None."""
    unknowns = Unknowns(
        graph.objects,
        [PATTERNS[item.count][0] for item in graph.objects],
        ring_objects(graph, graph.relations),
    )
    sentences = [relation_sentence(graph, unknowns, one) for one in graph.relations]
    return next((one for one in sentences if not one.alternatives), None)


def _arrange(
    graph: SceneGraph,
    patterns: Sequence[Pattern],
    ranges: SizeRanges,
    kept: Collection[int] | None,
) -> Arrangement | None:
    relations = [one for index, one in enumerate(graph.relations) if kept is None or index in kept]
    unknowns = Unknowns(graph.objects, patterns, ring_objects(graph, relations))
    sized = [
        one
        for index, one in enumerate(size_sentences(graph, unknowns), len(graph.relations))
        if kept is None or index in kept
    ]
    stated = [relation_sentence(graph, unknowns, one) for one in relations] + sized
    if not all(one.alternatives for one in stated):
        return None

    rows = floor_rows(graph, unknowns, relations)
    rows += [row for one in stated if len(one.alternatives) == 1 for row in one.alternatives[0]]
    wishes = tuple(wish for one in stated for wish in one.wishes)
    choices: list[Choice] = [one.alternatives for one in stated if len(one.alternatives) > 1]
    sizes = tuple(ranges[item.name] for item in graph.objects)
    above = resting(relations)
    apart = _apart_pairs(graph, relations)

    preferred = [sum(SIZE_RANGES[item.size]) / 2.0 for item in graph.objects]
    program = Compact(unknowns, sizes, preferred, wishes)
    taken, values = rows, program.solve(rows)
    if values is None:
        return None

    # Things that overlap are told apart when they do: most layouts need few such choices, or none.
    told, open_choices, quick = list[Choice](choices), choices, list[Choice]()
    for _ in range(ROUNDS):
        if open_choices:
            decided = program.decide(taken, values, quick or open_choices)
            if decided is None and quick:
                decided = program.decide(taken, values, open_choices)
            if decided is None:
                decided = program.decide_exactly(rows, told)
            if decided is None:
                return None
            taken, values = decided

        found = Arrangement(unknowns, values, tuple(taken))
        overlapping = _overlapping(found, apart)
        if not overlapping:
            return found
        open_choices = [_told_apart(unknowns, pair, above) for pair in overlapping]
        told += open_choices

        # Whole groups apart is more than is needed, and one choice instead of many.
        quick = [
            _groups_apart(unknowns, *pair, above)
            for pair in sorted({(one, other) for one, _, other, _ in overlapping})
        ]
    return None


def _apart_pairs(
    graph: SceneGraph, relations: Sequence[Relation]
) -> list[tuple[int, int, int, int]]:
    """Return the pairs of things that must not share a place, as object and number of the one and the other."""
    nested = _nested(graph, relations)
    pairs = []
    for one, other in combinations(range(len(graph.objects)), 2):
        if (one, other) in nested or (other, one) in nested:
            continue
        first, second = graph.objects[one], graph.objects[other]
        pairs += [(one, i, other, j) for i, j in product(range(first.count), range(second.count))]
    return pairs


def _nested(graph: SceneGraph, relations: Sequence[Relation]) -> set[tuple[int, int]]:
    """Return pairs of objects of which the first is inside the second, or carried by what is."""
    stated = [canonical(one) for one in relations]
    nested, carried = set(), []
    for one in stated:
        first, second = graph.index(one.subject), graph.index(one.object)
        if one.relation == "inside":
            nested.add((first, second))
        elif one.relation == "around" and graph.objects[first].count == 1:
            nested.add((second, first))
        elif one.relation == "on top of":
            carried.append((first, second))

    for _ in graph.objects:
        nested |= {
            (upper, outer) for upper, lower in carried for inner, outer in nested if inner == lower
        }
    return nested


def _overlapping(
    found: Arrangement, pairs: Sequence[tuple[int, int, int, int]]
) -> list[tuple[int, int, int, int]]:
    """Return the pairs of things whose boxes share a place."""
    unknowns = found.unknowns
    counts = [item.count for item in unknowns.objects]
    things = [(index, number) for index, count in enumerate(counts) for number in range(count)]
    boxes = {
        thing: np.array(
            [
                [found.value(unknowns.center(*thing, axis)) for axis in range(3)],
                [found.value(unknowns.half(thing[0], axis)) for axis in range(3)],
            ]
        )
        for thing in things
    }

    overlapping = []
    for one, i, other, j in pairs:
        first, second = boxes[one, i], boxes[other, j]
        apart = np.abs(first[0] - second[0]) - first[1] - second[1]
        if apart.max() < -OVERLAP:
            overlapping.append((one, i, other, j))
    return overlapping


def _groups_apart(
    unknowns: Unknowns, one: int, other: int, above: Collection[str]
) -> tuple[tuple[Row, ...], ...]:
    """Return the ways in which two whole groups may stand apart; arguments as in `_told_apart`."""
    ways = []
    for axis, sign in product(_axes(unknowns, one, other, above), (1.0, -1.0)):
        away = sign * (unknowns.middle(other, axis) - unknowns.middle(one, axis))
        apart = away - unknowns.group_half(one, axis) - unknowns.group_half(other, axis)
        ways.append((Row(apart - unknowns.constant(0.0 if axis == 2 else GAP)),))
    return tuple(ways)


def _told_apart(
    unknowns: Unknowns, pair: tuple[int, int, int, int], above: Collection[str]
) -> tuple[tuple[Row, ...], ...]:
    """Return the ways in which two things may stand apart: on any side, and above if one of them rests on something."""
    one, i, other, j = pair
    ways = []
    for axis, sign in product(_axes(unknowns, one, other, above), (1.0, -1.0)):
        away = sign * (unknowns.center(other, j, axis) - unknowns.center(one, i, axis))
        apart = away - unknowns.half(one, axis) - unknowns.half(other, axis)
        ways.append((Row(apart - unknowns.constant(0.0 if axis == 2 else GAP)),))
    return tuple(ways)


def _axes(unknowns: Unknowns, one: int, other: int, above: Collection[str]) -> tuple[int, ...]:
    names = [unknowns.objects[index].name for index in (one, other)]
    return (1, 0, 2) if any(name in above for name in names) else (1, 0)
