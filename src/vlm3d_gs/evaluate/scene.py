"""Does a splat show what a scene graph says? The checker for several objects, with counts, sizes and all relations.

As for one or two objects (`composition`), it looks only at the exported Gaussians. Each thing of each named colour is
found by itself (`instances`) and judged as one object is; then the boxes of its fitted shape are compared with what the
graph says (`layout.meaning`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from vlm3d_gs.core.errors import PromptError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.prompts import ObjectPhrase
from vlm3d_gs.evaluate.cleanliness import ViewReport, contact_zone, measure_cleanliness
from vlm3d_gs.evaluate.composition import color_shares, content_reasons, dirt_reasons
from vlm3d_gs.evaluate.instances import find_instances, split
from vlm3d_gs.evaluate.objects import (
    MIN_IOU,
    SLACK,
    Hidden,
    ObjectReport,
    absent,
    judge_region,
)
from vlm3d_gs.evaluate.palette import CLASS_NAMES
from vlm3d_gs.evaluate.views import ObservedViews, checker_cameras, observe
from vlm3d_gs.layout.graph import MOST_COUNT, MOST_THINGS, SceneGraph, SceneObject
from vlm3d_gs.layout.meaning import Things, violations
from vlm3d_gs.layout.shapes import HALF_HEIGHT, HALF_WIDTH, Box
from vlm3d_gs.mini.world.raycast import FAR
from vlm3d_gs.render import Backend

SIZES_PX = {2: 96, 4: 112, 8: 128, MOST_THINGS: 160}
"""Side of the views up to so many things: the more, the smaller each of them is."""
BETTER = 0.05
"""Several things instead of one must fit better by this much in overlap."""
MOST_WAYS = 720
"""Ways to tell things apart that look alike, at most."""


@dataclass(frozen=True)
class SceneReport:
    """The verdict on one scene and everything it rests on."""

    prompt: str
    """The prompt of the graph."""
    objects: tuple[ObjectReport, ...]
    """One for each thing found, object by object; for an object without things, one that says so."""
    boxes: tuple[Box, ...]
    """Measured, by object and number; world units."""
    counts: dict[str, int]
    """Things found of each object, by its name."""
    relation_right: bool | None
    """None without relations."""
    violated: tuple[str, ...]
    """What the graph says and the scene does not show: counts, sizes, relations, in words."""
    foreign_fraction: float
    """Share of the covered pixels in colours that the prompt does not name."""
    haze_fraction: float
    """Share of the covered pixels that are faint away from an edge."""
    floater_fraction: float
    """Share of the covered pixels that hang apart from the things."""
    color_shares: dict[str, float]
    """Share of the covered pixels of each colour class, largest first, those above 1 %."""
    views: tuple[ViewReport, ...]
    """Cleanliness of each view."""
    content_right: bool
    """Every thing right in colour and shape, and every count, size and relation right."""
    clean: bool
    """Foreign colour, haze, floaters, holes and dents are all within the limits."""
    reasons: tuple[str, ...]
    """What is wrong, in words; empty if nothing is."""

    @property
    def ok(self) -> bool:
        """Content right and clean."""
        return self.content_right and self.clean

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON, `ok` included."""
        boxes = [box._asdict() for box in self.boxes]
        return {**asdict(self), "boxes": boxes, "ok": self.ok}


@dataclass(frozen=True, eq=False)
class _Thing:
    """One thing of a colour: its pixels, and what it is."""

    mask: Tensor
    report: ObjectReport
    """Judged as if it were the object of its colour that its shape is, or else the first."""

    def box(self, name: str, number: int) -> Box:
        center, half, shape = self.report.center, self.report.half_extents, self.report.best_shape
        assert center is not None
        assert half is not None
        assert shape is not None
        size = math.sqrt(half[0] / HALF_WIDTH[shape] * half[2] / HALF_HEIGHT[shape])
        return Box(name, number, center, half, size)


def evaluate_scene(
    gaussians: Gaussians, graph: SceneGraph, *, backend: Backend = "auto"
) -> SceneReport:
    """Check a scene against its graph.

    Args:
        gaussians: the scene, in our world frame and scale.
        graph: what it should show; every object a colour and a shape.
        backend: renderer, as in `render.render`.

    Raises:
        PromptError: an object of the graph is outside the language of the embedded models.

    Not differentiable. Takes some seconds on two cores.
    """
    for item in graph.objects:
        if item.phrase is None:
            raise PromptError(
                f"The checker knows objects of one colour and one shape, not {item.prompt!r}. E.g. 'a red cube'."
            )

    count = sum(item.count for item in graph.objects)
    size_px = next(size for most, size in SIZES_PX.items() if count <= most)
    views = observe(gaussians, checker_cameras(size_px), backend)
    colors = dict.fromkeys(phrase.color for phrase in map(_phrase, graph.objects))
    found = {color: _things(views, graph, color) for color in colors}
    assigned = _assigned(graph, found)
    boxes = _boxes(assigned)
    violated = violations(graph, boxes, measured=True)

    reports = []
    for item in graph.objects:
        phrase = _phrase(item)
        reports += [_renamed(thing.report, phrase) for thing in assigned[item.name]]
        reports += [] if assigned[item.name] else [absent(phrase)]
    taken = [thing.mask for things in found.values() for thing in things]
    objects = torch.stack(taken).any(dim=0) if taken else torch.zeros_like(views.solid)
    clean = measure_cleanliness(views, [CLASS_NAMES.index(color) for color in colors], objects)

    shares = color_shares(views)
    content = [*content_reasons(tuple(reports), shares), *(f"not so: {one}" for one in violated)]
    dirt = dirt_reasons(clean.foreign, clean.haze, clean.floaters, tuple(reports))
    sentences = {graph.sentence(relation) for relation in graph.relations}

    return SceneReport(
        prompt=graph.prompt,
        objects=tuple(reports),
        boxes=tuple(box for item in graph.objects for box in boxes[item.name]),
        counts={name: len(things) for name, things in assigned.items()},
        relation_right=not sentences & set(violated) if sentences else None,
        violated=tuple(violated),
        foreign_fraction=round(clean.foreign, 4),
        haze_fraction=round(clean.haze, 4),
        floater_fraction=round(clean.floaters, 4),
        color_shares=shares,
        views=clean.views,
        content_right=not content,
        clean=not dirt,
        reasons=(*content, *dirt),
    )


def _phrase(item: SceneObject) -> ObjectPhrase:
    phrase = item.phrase
    assert phrase is not None
    return phrase


def _things(views: ObservedViews, graph: SceneGraph, color: str) -> list[_Thing]:
    """Return the things of one colour; what fits no shape is tried as several that touch."""
    phrases = [phrase for phrase in map(_phrase, graph.objects) if phrase.color == color]
    own = views.solid & (views.classes == CLASS_NAMES.index(color))

    things = []
    for mask in find_instances(views, own):
        whole = _judged(views, phrases, own, mask)
        best = [whole]
        if _overlap(whole) < MIN_IOU:
            for parts in range(2, MOST_COUNT + 1):
                pieces = [_judged(views, phrases, own, one) for one in split(views, mask, parts)]
                if min(map(_overlap, pieces)) > max(min(map(_overlap, best)) + BETTER, MIN_IOU):
                    best = pieces
        things += best
    return things


def _overlap(thing: _Thing) -> float:
    return max(thing.report.overlap.values(), default=0.0)


def _judged(
    views: ObservedViews, phrases: Sequence[ObjectPhrase], own: Tensor, mask: Tensor
) -> _Thing:
    other = views.solid & ~mask
    limits = torch.where(other, views.distances - SLACK, torch.full_like(views.alpha, FAR))
    # Beside the thing colours blend, with what is of the same colour, too.
    blended = contact_zone(mask, other)
    hidden = Hidden(limits, blended & ~mask, blended & mask)
    report = judge_region(views, phrases[0], own, mask, hidden)
    return _Thing(mask, report)


def _renamed(report: ObjectReport, phrase: ObjectPhrase) -> ObjectReport:
    """Return a verdict as one on another shape of the same colour."""
    best = report.best_shape
    right = best == phrase.shape and report.overlap.get(phrase.shape, 0.0) >= MIN_IOU
    return replace(report, shape=phrase.shape, shape_right=right)


def _assigned(graph: SceneGraph, found: dict[str, list[_Thing]]) -> dict[str, list[_Thing]]:
    """Return which things are which object's: by colour, then by shape, then so that most of the graph holds."""
    assigned: dict[str, list[_Thing]] = {item.name: [] for item in graph.objects}
    for color, things in found.items():
        same = [item for item in graph.objects if _phrase(item).color == color]
        rest = list(things)
        for shape in dict.fromkeys(_phrase(item).shape for item in same):
            items = [item for item in same if _phrase(item).shape == shape]
            fitting = [thing for thing in rest if thing.report.best_shape == shape]
            rest = [thing for thing in rest if thing.report.best_shape != shape]
            _share_out(assigned, items, fitting)
        # What looks like none of them was meant to be the one that is missing, or is too much.
        for thing in rest:
            lacking = [item for item in same if len(assigned[item.name]) < item.count]
            assigned[(lacking or same)[0].name].append(thing)
    return _most_of_it(graph, assigned)


def _share_out(
    assigned: dict[str, list[_Thing]], items: Sequence[SceneObject], things: Sequence[_Thing]
) -> None:
    """Give each object as many things as it should have, and the last one what is left."""
    rest = list(things)
    for item in items:
        assigned[item.name] += rest[: item.count]
        rest = rest[item.count :]
    if rest:
        assigned[items[-1].name] += rest


def _most_of_it(graph: SceneGraph, assigned: dict[str, list[_Thing]]) -> dict[str, list[_Thing]]:
    """Exchange things between objects that are called alike so that fewer sentences are wrong."""
    for phrase in dict.fromkeys(map(_phrase, graph.objects)):
        items = [item for item in graph.objects if _phrase(item) == phrase]
        things = [thing for item in items for thing in assigned[item.name]]
        if len(items) < 2 or math.factorial(len(things)) > MOST_WAYS:
            continue

        ways = [_given(assigned, items, order) for order in permutations(things)]
        assigned = min(ways, key=lambda way: len(violations(graph, _boxes(way), measured=True)))
    return assigned


def _given(
    assigned: dict[str, list[_Thing]], items: Sequence[SceneObject], order: Sequence[_Thing]
) -> dict[str, list[_Thing]]:
    """Return the things of some objects handed out anew, in an order."""
    shared = {**assigned, **{item.name: [] for item in items}}
    _share_out(shared, items, order)
    return shared


def _boxes(assigned: dict[str, list[_Thing]]) -> Things:
    return {
        name: [thing.box(name, number) for number, thing in enumerate(things)]
        for name, things in assigned.items()
    }
