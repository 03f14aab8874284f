"""Objects that were made one by one, each in a frame of its own, put into the boxes of a layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import LayoutError
from vlm3d_gs.core.gaussians import Gaussians, concatenate
from vlm3d_gs.edit.transform import euler_rotation, transformed
from vlm3d_gs.layout.graph import SceneGraph
from vlm3d_gs.layout.shapes import Box, shape_of
from vlm3d_gs.layout.solver import Layout, solve_layout
from vlm3d_gs.render import Backend, render

REACH = 1.3
"""Objects are looked for so far from the origin of their frame, world units."""
FAR = 200.0
"""Distance of the cameras that measure an object, so that perspective is less than a pixel."""
SIZE_PX = 512
EDGE = 0.5
"""Share of the largest opacity at which an object ends."""
SPECKS = 3
"""Pixels of a line across the picture that may be opaque without being the object."""
FAINTEST = 0.02
"""A scene that is nowhere more opaque than this cannot be measured."""
SQUARE = 0.03
"""Relative difference of depth and width up to which a thing may be turned by 90 degrees."""
UNEDITED = 1e-4
"""World units within which boxes are those that were found, and no person's."""

Three = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Extent:
    """The box that an object is seen to fill, world units."""

    low: Three
    """Smallest x, y, z."""
    high: Three
    """Largest x, y, z."""

    @property
    def half(self) -> Three:
        """Half of its sides along x, y, z."""
        x, y, z = ((high - low) / 2 for low, high in zip(self.low, self.high, strict=True))
        return x, y, z


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a thing stands: p of the object's own frame is at scale * turn(p) + translation."""

    name: str
    """The object's name."""
    number: int
    """Which of the object's things, from 0."""
    scale: float
    """Above 0."""
    translation: Three
    """World units."""
    turn_deg: float = 0.0
    """About z, counter-clockwise seen from above: near a multiple of 90, of 180 where depth and width differ."""


@dataclass(frozen=True, eq=False)
class PlacedScene:
    """A scene whose Gaussians know their object."""

    gaussians: Gaussians
    """[N], object by object in the graph's order, thing by thing."""
    numbers: Tensor
    """[N] int64: the object's number, `SceneGraph.index` of its name."""
    poses: tuple[Pose, ...]
    """One for each thing, in the same order."""

    lengths: tuple[int, ...]
    """Gaussians of each thing."""

    def things(self) -> list[Gaussians]:
        """Return the Gaussians of each thing, in the order of `poses`."""
        ends = list(accumulate(self.lengths, initial=0))
        return [self.gaussians.select(torch.arange(*span)) for span in pairwise(ends)]

    def only(self, number: int) -> Gaussians:
        """Return the Gaussians of one object, in place."""
        return self.gaussians.select(self.numbers == number)


def seen_extent(gaussians: Gaussians, backend: Backend = "auto") -> Extent:
    """Measure an object by its outlines from the front and from the side, by far cameras.

    An outline is where the opacity of a picture passes half of its largest, between pixels by interpolation. What is
    smaller than a few pixels does not count, so a stray Gaussian moves nothing. Not differentiable.

    Args:
        gaussians: an object within `REACH` of the origin.
        backend: as in `render.render`.

    Returns:
        The box; that of the ball of radius 1 for what is too faint to be seen.
    """
    fov_deg = 2.0 * math.degrees(math.atan(REACH / FAR))
    cameras = orbit([0.0, 90.0], 0.0, FAR, fov_deg, SIZE_PX, SIZE_PX).to(gaussians.device)
    with torch.no_grad():
        front, side = render(gaussians, cameras, backend=backend).alpha[..., 0].cpu()

    # From the front the picture's right is +y, from the side -x; its top is +z.
    across_y, across_x = _ends(front, 0), _ends(side, 0)
    heights = _ends(front, 1)
    if across_y is None or across_x is None or heights is None:
        return Extent((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    return Extent(
        (-across_x[1], across_y[0], -heights[1]), (-across_x[0], across_y[1], -heights[0])
    )


def _ends(alpha: Tensor, axis: int) -> tuple[float, float] | None:
    """Return where an outline begins and ends along an axis of the picture, world units from its middle."""
    profile = alpha.topk(SPECKS, dim=axis).values.amin(dim=axis)
    if float(profile.max()) < FAINTEST:
        return None

    level = EDGE * float(profile.max())
    begin, end = _first(profile.tolist(), level), _first(profile.flip(0).tolist(), level)
    pixel = 2.0 * REACH / SIZE_PX
    return begin * pixel - REACH, REACH - end * pixel


def _first(profile: list[float], level: float) -> float:
    """Return where a line of pixels first reaches a level, in pixels from its start."""
    index = next(index for index, value in enumerate(profile) if value >= level)
    before = profile[index - 1] if index > 0 else 0.0
    # Values are those of pixel centres.
    return index + 0.5 - (profile[index] - level) / max(profile[index] - before, 1e-9)


def pose_into(extent: Extent, box: Box) -> Pose:
    """Return the pose that puts an object into a box: as large as fits all sides best, in its middle, on its floor.

    Args:
        extent: of the object in its own frame.
        box: where it should stand.

    Returns:
        One scale for all axes, that of least squares on the sides.
    """
    sides = list(zip(extent.half, box.half_extents, strict=True))
    scale = sum(own * wanted for own, wanted in sides) / sum(own * own for own, _ in sides)

    turn_deg = _turn(extent, box.number)
    angle = math.radians(turn_deg)
    cosine, sine = round(math.cos(angle)), round(math.sin(angle))
    x, y = ((low + high) / 2 for low, high in zip(extent.low[:2], extent.high[:2], strict=True))
    middle = (cosine * x - sine * y, sine * x + cosine * y)
    x, y = (at - scale * own for at, own in zip(box.center[:2], middle, strict=True))
    floor = box.center[2] - box.half_extents[2]
    return Pose(box.name, box.number, scale, (x, y, floor - scale * extent.low[2]), turn_deg)


def _turn(extent: Extent, number: int) -> float:
    """Return how far the things of one object are turned against each other, so that copies do not look like copies.

    The first stands as it was made; nothing is turned out of its box.
    """
    depth, width, _ = extent.half
    step = 90.0 if abs(depth - width) <= SQUARE * max(depth, width) else 180.0
    return number * step % 360.0


def measured_layout(layout: Layout, extents: Mapping[str, Extent]) -> Layout:
    """Return the layout solved again with the proportions that objects turned out to have.

    Only objects of no known shape and no stated proportions are concerned: they were laid out as cubes. Boxes that a
    person has edited stay as they are, and so does a layout that has no solution with the new proportions.

    Args:
        layout: as it was solved.
        extents: measured, by object name; objects that are not there stay as they are.
    """
    objects = []
    for item in layout.graph.objects:
        unknown = shape_of(item) == "box" and item.proportions is None
        if unknown and item.name in extents:
            half = extents[item.name].half
            x, y, z = (max(side / max(half), 0.05) for side in half)
            objects.append(replace(item, proportions=(x, y, z)))
        else:
            objects.append(item)

    graph = replace(layout.graph, objects=tuple(objects))
    if graph == layout.graph or not _is_unedited(layout):
        return layout
    try:
        return solve_layout(graph)
    except LayoutError:
        return layout


def _is_unedited(layout: Layout) -> bool:
    found = solve_layout(layout.graph)
    return all(
        abs(one - other) <= UNEDITED
        for box, again in zip(layout.boxes, found.boxes, strict=True)
        for one, other in zip(
            (*box.center, *box.half_extents), (*again.center, *again.half_extents), strict=True
        )
    )


def place(
    layout: Layout, objects: Mapping[str, Gaussians], extents: Mapping[str, Extent]
) -> PlacedScene:
    """Put each thing of a layout into its box and join them.

    Args:
        layout: boxes and graph.
        objects: each object in its own frame, by name; objects that are not there are left out.
        extents: of the same objects, by name.

    Raises:
        ConfigError: there is no object at all.
    """
    boxes = [box for box in layout.boxes if box.name in objects]
    return placed_at(layout.graph, objects, _stacked(layout.graph, boxes, extents))


def placed_at(
    graph: SceneGraph, objects: Mapping[str, Gaussians], poses: Sequence[Pose]
) -> PlacedScene:
    """Join the things of a scene at given poses; arguments and errors as in `place`."""
    clouds, numbers = [], []
    for pose in poses:
        cloud = transformed(
            objects[pose.name],
            scale=pose.scale,
            rotation=euler_rotation((0.0, 0.0, pose.turn_deg)),
            translation=torch.tensor(pose.translation),
        )
        clouds.append(cloud)
        numbers.append(torch.full((len(cloud),), graph.index(pose.name)))
    lengths = tuple(len(cloud) for cloud in clouds)
    return PlacedScene(concatenate(clouds), torch.cat(numbers), tuple(poses), lengths)


def _stacked(graph: SceneGraph, boxes: Sequence[Box], extents: Mapping[str, Extent]) -> list[Pose]:
    """Return the poses of things in their boxes, those on top of others raised or lowered with what carries them.

    No object has exactly the proportions of its box, and a few percent of its height show as a gap or a cut.
    """
    carriers = {
        one.subject if one.relation == "on top of" else one.object: one.object
        if one.relation == "on top of"
        else one.subject
        for one in graph.relations
        if one.relation in ("on top of", "under")
    }
    poses = {(box.name, box.number): pose_into(extents[box.name], box) for box in boxes}

    def raised(box: Box) -> float:
        below = [one for one in boxes if one.name == carriers.get(box.name)]
        if not below:
            return 0.0
        carrier = min(below, key=lambda one: math.dist(one.center[:2], box.center[:2]))
        pose = poses[carrier.name, carrier.number]
        height = pose.scale * extents[carrier.name].half[2]
        return raised(carrier) + 2.0 * (height - carrier.half_extents[2])

    stacked = []
    for box in boxes:
        pose = poses[box.name, box.number]
        x, y, z = pose.translation
        stacked.append(replace(pose, translation=(x, y, z + raised(box))))
    return stacked
