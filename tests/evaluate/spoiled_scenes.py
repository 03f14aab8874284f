"""Scenes of layouts as perfect splats, and ways to spoil them so that their prompt is no longer true."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import torch

from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.prompts import SHAPES
from vlm3d_gs.layout.graph import SIZES, compared_sizes
from vlm3d_gs.layout.shapes import HALF_HEIGHT, HALF_WIDTH
from vlm3d_gs.layout.solver import Layout
from vlm3d_gs.mini.world.scenes import ObjectSpec, SceneSpec
from vlm3d_gs.mini.world.splats import scene_to_gaussians

COUNT = 1200
"""Gaussians of a thing."""
ORDERED = ("on top of", "under", "to the left of", "to the right of", "in front of", "behind")
Things = list[ObjectSpec]


def things_of(layout: Layout) -> Things:
    """What stands in the boxes of a layout."""
    phrases = {item.name: item.phrase for item in layout.graph.objects}
    things = []
    for box in layout.boxes:
        phrase = phrases[box.name]
        assert phrase is not None
        things.append(ObjectSpec(phrase.shape, phrase.color, box.center, box.size))
    return things


def splat_of(things: Things, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    return scene_to_gaussians(SceneSpec(tuple(things)), COUNT * len(things), generator)


def swapped(layout: Layout) -> Things | None:
    """Two things of a relation with an order on each other's place."""
    things, names = things_of(layout), [box.name for box in layout.boxes]
    for relation in layout.graph.relations:
        if relation.relation in (*ORDERED, "between"):
            one, other = names.index(relation.subject), names.index(relation.object)
            first, second = things[one], things[other]
            things[one] = replace(first, center=second.center)
            things[other] = replace(second, center=first.center)
            return things
    return None


def mirrored(layout: Layout) -> Things | None:
    """Everything at the negative of its place."""
    if not any(one.relation in ORDERED for one in layout.graph.relations):
        return None
    return [
        replace(one, center=(-one.center[0], -one.center[1], -one.center[2]))
        for one in things_of(layout)
    ]


def missing(layout: Layout) -> Things | None:
    """One thing less."""
    things = things_of(layout)
    return things[1:] if len(things) > 1 else None


def doubled(layout: Layout) -> Things | None:
    """One of the things a second time, where there is room."""
    scene = [
        replace(one, size=0.75 * one.size, center=tuple(0.75 * value for value in one.center))  # type: ignore[arg-type]
        for one in things_of(layout)
    ]
    floor = min(one.center[2] - one.size * HALF_HEIGHT[one.shape] for one in scene)
    smallest = min(scene, key=lambda one: one.size * HALF_WIDTH[one.shape])
    half = smallest.size * HALF_WIDTH[smallest.shape]
    rng = random.Random(0)
    for _ in range(2000):
        x, y = rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 0.9)
        center = (x, y, floor + smallest.size * HALF_HEIGHT[smallest.shape])
        free = all(
            max(abs(x - one.center[0]), abs(y - one.center[1]))
            > half + one.size * HALF_WIDTH[one.shape] + 0.06
            for one in scene
        )
        if free and x * x + y * y < 0.8:
            return [*scene, replace(smallest, center=center)]
    return None


def wrong_size(layout: Layout) -> Things | None:
    """What should be larger than something else is made smaller than that; what is alone, its usual size."""
    things, names = things_of(layout), [box.name for box in layout.boxes]
    ranks = compared_sizes(layout.graph)
    if len(things) == 1 and ranks:
        return [replace(things[0], size=0.62)]
    if len(set(ranks.values())) < 2:
        return None
    small, large = min(ranks, key=ranks.__getitem__), max(ranks, key=ranks.__getitem__)
    assert SIZES.index(layout.graph.find(large).size) > SIZES.index(layout.graph.find(small).size)
    size = things[names.index(small)].size
    return [
        replace(one, size=0.9 * size) if name == large else one
        for one, name in zip(things, names, strict=True)
    ]


def wrong_shape(layout: Layout) -> Things | None:
    """The last thing in another shape."""
    things = things_of(layout)
    other = SHAPES[(SHAPES.index(things[-1].shape) + 2) % len(SHAPES)]
    return [*things[:-1], replace(things[-1], shape=other)]


SPOILS: dict[str, Callable[[Layout], Things | None]] = {
    "swapped": swapped,
    "mirrored": mirrored,
    "missing": missing,
    "doubled": doubled,
    "wrong size": wrong_size,
    "wrong shape": wrong_shape,
}
"""Name -> the scene spoiled so, or None where the prompt would still be true."""
