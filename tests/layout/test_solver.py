"""layout.solver: random layouts hold by an independent check; contradictions are named, and nothing else is."""

from __future__ import annotations

import math
from itertools import combinations, product

import pytest

from layout.random_graphs import random_graph
from vlm3d_gs.core.errors import LayoutError
from vlm3d_gs.layout.arrange import arrange, sentences_of
from vlm3d_gs.layout.contradiction import smallest_conflict
from vlm3d_gs.layout.grammar import parse_scene
from vlm3d_gs.layout.graph import RELATIONS, Relation, SceneGraph, SceneObject
from vlm3d_gs.layout.rules import size_ranges
from vlm3d_gs.layout.shapes import Box
from vlm3d_gs.layout.solver import Layout, solve_layout

RANDOM_GRAPHS = 500
BATCH = 50


def gap(one: Box, other: Box, axis: int) -> float:
    """How far apart two boxes are along an axis; negative if they share some of it."""
    distance = abs(one.center[axis] - other.center[axis])
    return distance - one.half_extents[axis] - other.half_extents[axis]


def shape(layout: Layout, box: Box) -> str:
    return layout.graph.find(box.name).prompt.split()[-1]


def profile(kind: str, size: float, height: float) -> float:
    """Half width of a shape at a height over its centre, from the shapes' definitions; -1 beside it."""
    h = height / size
    if kind == "sphere":
        return size * math.sqrt(1 - h * h) if abs(h) <= 1 else -1.0
    if kind == "cone":
        return size * 0.9 * (0.9 - h) / 1.8 if abs(h) <= 0.9 else -1.0
    if kind == "torus":
        return size * (0.68 + math.sqrt(0.09 - h * h)) if abs(h) <= 0.3 else -1.0
    half, width = {"cube": (0.8, 0.8), "cylinder": (0.85, 0.75)}[kind]
    return size * width if abs(h) <= half else -1.0


def touch(layout: Layout, one: Box, other: Box) -> float:
    """Gap of two shapes beside each other, by sampling heights."""
    kinds = shape(layout, one), shape(layout, other)
    if "cube" in kinds:
        away = max(abs(one.center[axis] - other.center[axis]) for axis in (0, 1))
    else:
        away = math.hypot(one.center[0] - other.center[0], one.center[1] - other.center[1])
    heights = [one.center[2] + one.size * (step / 500 - 1.0) for step in range(1001)]
    widths = [
        (
            profile(kinds[0], one.size, z - one.center[2]),
            profile(kinds[1], other.size, z - other.center[2]),
        )
        for z in heights
    ]
    return away - max(a + b for a, b in widths if a >= 0 and b >= 0)


def assert_relation(layout: Layout, relation: Relation) -> None:
    things = layout.things()
    name, subject, target = relation.relation, relation.subject, relation.object
    if name == "under":
        name, subject, target = "on top of", target, subject
    ones, others = things[subject], things[target]
    eps = 1e-4
    sides = {
        "to the left of": (1, -1),
        "to the right of": (1, 1),
        "in front of": (0, 1),
        "behind": (0, -1),
    }

    for one, other in product(ones, others):
        off = [a - b for a, b in zip(one.center, other.center, strict=True)]
        if name in sides:
            axis, sign = sides[name]
            assert sign * off[axis] > 0
            assert sign * off[axis] >= max(abs(off[k]) for k in range(3) if k != axis)
            if frozenset((subject, target)) not in touching(layout):
                assert gap(one, other, axis) > 0.01 * one.size
        elif name == "on top of":
            assert off[2] > 0
            assert gap(one, other, 2) <= eps
            assert abs(off[0]) <= other.half_extents[0]
            assert abs(off[1]) <= other.half_extents[1]
            if "torus" not in (shape(layout, one), shape(layout, other)):
                assert gap(one, other, 2) >= -eps
        elif name == "inside":
            assert math.hypot(off[0], off[1]) + one.half_extents[0] <= 0.38 * other.size
            assert one.center[2] - one.half_extents[2] <= other.center[2]
    if name == "around":
        middle = [sum(box.center[axis] for box in others) / len(others) for axis in (0, 1)]
        away = [(box.center[0] - middle[0], box.center[1] - middle[1]) for box in ones]
        # No line through the middle has all of them on one side.
        for turn in range(0, 360, 3):
            direction = math.cos(math.radians(turn)), math.sin(math.radians(turn))
            assert any(x * direction[0] + y * direction[1] >= -1e-6 for x, y in away)
    if name == "between":
        second = things[relation.second or ""]
        assert any(
            max(sign * box.center[axis] for box in others)
            < min(sign * box.center[axis] for box in ones)
            <= max(sign * box.center[axis] for box in ones)
            < min(sign * box.center[axis] for box in second)
            for axis, sign in product((0, 1), (1, -1))
        )
    if name == "next to":
        unit = min(max(box.half_extents) for box in layout.boxes) / 0.3
        assert (
            min(max(gap(one, other, 0), gap(one, other, 1)) for one, other in product(ones, others))
            <= 4 * unit
        )
    if relation.touching is not None:
        nearest = min(touch(layout, one, other) for one, other in product(ones, others))
        assert (abs(nearest) < 5e-3) if relation.touching else nearest > 0.005


def touching(layout: Layout) -> set[frozenset[str]]:
    return {frozenset((one.subject, one.object)) for one in layout.graph.relations if one.touching}


def nested(layout: Layout) -> set[frozenset[str]]:
    """Pairs of objects whose boxes may share a place: something in a hole, and what it carries or stands on."""
    pairs = set()
    for one in layout.graph.relations:
        if one.relation == "inside" or (
            one.relation == "around" and layout.graph.find(one.subject).count == 1
        ):
            pairs.add(frozenset((one.subject, one.object)))
        torus = any("torus" in layout.graph.find(name).prompt for name in (one.subject, one.object))
        if one.relation in ("on top of", "under") and torus:
            pairs.add(frozenset((one.subject, one.object)))
        if one.touching:
            pairs.add(frozenset((one.subject, one.object)))
    return pairs


def assert_sound(layout: Layout) -> None:
    for relation in layout.graph.relations:
        assert_relation(layout, relation)

    allowed = nested(layout)
    for one, other in combinations(layout.boxes, 2):
        if frozenset((one.name, other.name)) not in allowed:
            assert max(gap(one, other, axis) for axis in range(3)) > -1e-5, (one, other)

    for box in layout.boxes:
        # The box's corners, or what of a round thing is farthest out.
        x, y, z = (abs(value) for value in box.center)
        assert math.sqrt(x * x + y * y + z * z) + min(box.half_extents) <= 1.0
    floor = min(box.center[2] - box.half_extents[2] for box in layout.boxes)
    above = {
        one.subject for one in layout.graph.relations if one.relation in ("on top of", "inside")
    }
    above |= {one.object for one in layout.graph.relations if one.relation == "under"}
    for box in layout.boxes:
        if box.name not in above:
            assert box.center[2] - box.half_extents[2] == pytest.approx(floor, abs=1e-6)

    words = {"tiny": 0, "small": 1, "normal": 2, "large": 3}
    said = [item for item in layout.graph.objects if item.size != "normal"]
    for one, other in product(said, said):
        if words[one.size] > words[other.size]:
            assert layout.things()[one.name][0].size > 1.2 * layout.things()[other.name][0].size


@pytest.mark.parametrize("start", range(0, RANDOM_GRAPHS, BATCH))
def test_random_layouts_hold(start: int) -> None:
    for seed in range(start, start + BATCH):
        graph = random_graph(seed)
        layout = solve_layout(graph)
        assert [box.name for box in layout.boxes] == [
            item.name for item in graph.objects for _ in range(item.count)
        ]
        assert_sound(layout)


def test_random_graphs_use_everything() -> None:
    graphs = [random_graph(seed) for seed in range(RANDOM_GRAPHS)]
    relations = [one for graph in graphs for one in graph.relations]
    assert {one.relation for one in relations} == set(RELATIONS)
    assert {one.touching for one in relations} == {None, True, False}
    assert {len(graph.objects) for graph in graphs} == set(range(1, 9))
    assert {item.count for graph in graphs for item in graph.objects} == {1, 2, 3, 4}


def test_the_same_graph_gives_the_same_boxes() -> None:
    assert solve_layout(random_graph(7)) == solve_layout(random_graph(7))


def test_a_lone_object_is_as_large_as_in_the_mini_world_and_a_small_one_smaller() -> None:
    assert solve_layout(parse_scene("a red cube")).boxes[0].size == pytest.approx(0.62)
    assert solve_layout(parse_scene("a small red cube")).boxes[0].size == pytest.approx(0.6 * 0.62)


LEFT, RIGHT, FRONT, BACK = "to the left of", "to the right of", "in front of", "behind"
TOP, UNDER, NEXT, BETWEEN = "on top of", "under", "next to", "between"
A, B, C, D = "a red cube", "a blue sphere", "a green cone", "a yellow cylinder"
THE = {A: "the red cube", B: "the blue sphere", C: "the green cone", D: "the yellow cylinder"}
UNRELATED = f", a white torus, the white torus {BACK} a purple cube"
"""Said beside a contradiction, and never part of it."""


def chain(*said: tuple[str, str, str]) -> str:
    """Statements as a prompt."""
    return ", ".join(f"{THE[one]} is {relation} {THE[other]}" for one, relation, other in said)


CONTRADICTIONS: list[tuple[str, int]] = [
    # Two that exclude each other.
    (chain((A, LEFT, B), (B, LEFT, A)), 2),
    (chain((A, LEFT, B), (A, RIGHT, B)), 2),
    (chain((A, FRONT, B), (A, BACK, B)), 2),
    (chain((A, FRONT, B), (B, FRONT, A)), 2),
    (chain((A, TOP, B), (B, TOP, A)), 2),
    (chain((A, TOP, B), (A, UNDER, B)), 2),
    (chain((A, LEFT, B), (A, TOP, B)), 2),
    (chain((A, BACK, B), (A, UNDER, B)), 2),
    (chain((A, LEFT, B), (A, FRONT, B)), 2),
    (chain((A, TOP, B), (A, NEXT, B)), 2),
    (chain((A, "touching", B), (A, "not touching", B)), 2),
    (chain((A, TOP, B), (A, "touching", B)), 2),
    # Circles of three and four.
    (chain((A, LEFT, B), (B, LEFT, C), (C, LEFT, A)), 3),
    (chain((A, LEFT, B), (C, RIGHT, B), (C, LEFT, A)), 3),
    (chain((A, FRONT, B), (B, FRONT, C), (C, FRONT, A)), 3),
    (chain((A, TOP, B), (B, TOP, C), (C, TOP, A)), 3),
    (chain((A, UNDER, B), (B, UNDER, C), (A, TOP, C)), 3),
    (chain((A, LEFT, B), (B, LEFT, C), (C, LEFT, D), (D, LEFT, A)), 4),
    (chain((A, BACK, B), (B, BACK, C), (C, BACK, D), (D, BACK, A)), 4),
    # A contradiction among statements that are not part of it.
    (chain((A, LEFT, B), (C, BACK, B), (B, LEFT, A), (D, BACK, C)), 2),
    (chain((D, TOP, A), (A, LEFT, B), (B, LEFT, C), (C, LEFT, A)), 3),
    (chain((A, FRONT, B), (B, FRONT, A), (C, TOP, A), (D, LEFT, A)), 2),
    # One thing cannot rest on two, nor two on a point.
    (chain((A, TOP, B), (A, TOP, C)), 2),
    ("two red cubes on top of a blue sphere", 1),
    ("three red cylinders on top of a green cone", 1),
    ("a green cone on top of a red cube, two blue spheres on top of the green cone", 1),
    # Between, and on the far side of both.
    (f"a red cube between a blue sphere and a green cone, the red cube {TOP} the blue sphere", 2),
    (
        "a red cube between a blue sphere and a green cone, the blue sphere between the red cube and the green cone",
        2,
    ),
    # Sizes that do not fit.
    ("four large red cubes on top of a tiny blue cube", 2),
    ("a large red sphere inside a small blue torus", 2),
    ("a large red cube inside a blue torus", 2),
    ("a tiny red torus around a large blue cone", 2),
    ("a small red sphere on top of a large blue torus", 3),
    ("a large red torus on top of a tiny blue cone", 3),
    ("four large red spheres inside a large blue torus", 1),
    # What cannot be at all.
    ("a red cube inside a blue sphere", 1),
    ("a red cube inside a blue cone", 1),
    ("a red cube around a blue sphere", 1),
    ("a green cone around a red cube, a blue sphere behind the red cube", 1),
    # Touching across heights.
    (
        "a red cube on top of a blue cylinder, touching a large green cone, the red cube is on top of the green cone",
        2,
    ),
]


def conflict(prompt: str) -> tuple[SceneGraph, list[int]]:
    graph = parse_scene(prompt)
    return graph, smallest_conflict(graph, size_ranges(graph))


def test_there_are_forty_contradictions() -> None:
    assert len(CONTRADICTIONS) >= 40
    assert len({prompt for prompt, _ in CONTRADICTIONS}) == len(CONTRADICTIONS)


@pytest.mark.parametrize(("prompt", "size"), CONTRADICTIONS)
def test_a_contradiction_is_named_by_its_fewest_sentences(prompt: str, size: int) -> None:
    prompt = prompt if prompt.count("the ") > 5 else prompt + UNRELATED
    with pytest.raises(LayoutError) as caught:
        solve_layout(parse_scene(prompt))

    graph, named = conflict(prompt)
    sentences = sentences_of(graph)
    assert len(named) == size, [sentences[index] for index in named]
    for index, sentence in enumerate(sentences):
        assert (f"'{sentence}'" in str(caught.value)) == (index in named)
    # Each of them is needed: without it, the rest has a solution.
    for index in named:
        rest = [other for other in named if other != index]
        assert arrange(graph, size_ranges(graph), rest) is not None


def test_statements_that_only_seem_to_contradict_are_laid_out() -> None:
    for prompt in (
        chain((A, LEFT, B), (B, RIGHT, A)),
        chain((A, TOP, B), (B, UNDER, A)),
        chain((A, LEFT, B), (B, LEFT, C), (A, LEFT, C)),
        chain((A, LEFT, B), (C, TOP, B), (A, LEFT, C)),
        chain((A, LEFT, B), (A, NEXT, B), (A, "touching", B)),
        f"{A} {BETWEEN} {B} and {C}, the red cube {LEFT} the green cone",
        "three tiny red spheres on top of a large blue cylinder",
        "four red cubes on top of a blue cube",
    ):
        assert_sound(solve_layout(parse_scene(prompt)))


def test_spheres_of_different_sizes_touch_although_their_boxes_overlap() -> None:
    layout = solve_layout(parse_scene("a small red sphere touching a large blue sphere"))
    small, large = layout.boxes
    distance = math.dist(small.center, large.center)
    assert distance == pytest.approx(small.size + large.size, abs=1e-3)
    assert max(gap(small, large, axis) for axis in range(3)) < -0.01


def test_a_sphere_sinks_into_the_hole_of_a_torus_until_it_touches() -> None:
    sphere, torus = solve_layout(parse_scene("a red sphere on top of a blue torus")).boxes
    height = sphere.center[2] - torus.center[2]
    assert math.hypot(height, 0.68 * torus.size) == pytest.approx(
        sphere.size + 0.3 * torus.size, abs=1e-3
    )


def test_open_containers_hold_things_on_their_bottom() -> None:
    basket = SceneObject(name="basket", prompt="a wicker basket", proportions=(1.0, 1.0, 0.5))
    apples = SceneObject(name="apple", prompt="a ripe apple", count=4)
    held = Relation(subject="apple", relation="inside", object="basket")
    layout = solve_layout(SceneGraph(prompt="apples", objects=(apples, basket), relations=(held,)))
    outer = layout.boxes[-1]
    assert outer.half_extents[2] == pytest.approx(outer.half_extents[0] / 2)
    for apple in layout.boxes[:4]:
        for axis in (0, 1):
            off = abs(apple.center[axis] - outer.center[axis]) + apple.half_extents[axis]
            assert off <= 0.8 * outer.half_extents[axis] + 1e-6
        assert apple.center[2] - apple.half_extents[2] > outer.center[2] - outer.half_extents[2]
