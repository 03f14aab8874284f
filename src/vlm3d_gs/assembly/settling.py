"""The last rounds of a scene: poses of its things as parameters, so that what should touch does and nothing sinks in.

Layouts are solved on shapes as words name them; what was made has shapes of its own. Here each thing is its outer
surface, as a mesh would have it, and the layout is only the anchor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from scipy.spatial import cKDTree

from vlm3d_gs.assembly.placement import PlacedScene, Pose, placed_at
from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.layout.graph import RESTING, Relation
from vlm3d_gs.layout.meaning import violations
from vlm3d_gs.layout.shapes import Box
from vlm3d_gs.layout.solver import Layout
from vlm3d_gs.mesh.extract import MeshSettings, extract_mesh
from vlm3d_gs.optimize.poses import Body, Poses, Settled, settle
from vlm3d_gs.render import Backend

SURFACE = MeshSettings(resolution=40, faces=100_000)
"""Fine enough for poses; nothing is decimated, so points lie close together on flat sides too."""
GRID, MARGIN = 32, 0.15
"""Samples of the distance along each side, and how far they reach beyond the thing, as a share of its half sides."""
MOST_POINTS = 1500
NEAR = 0.15
"""Things whose boxes are farther apart are left alone, world units."""

Pair = tuple[int, int]


def settled(
    layout: Layout, scene: PlacedScene, objects: Mapping[str, Gaussians], backend: Backend = "auto"
) -> tuple[PlacedScene, str]:
    """Return a scene whose things touch as its graph says and are apart otherwise, and what that changed, as a line.

    Args:
        layout: graph and boxes.
        scene: the things in their boxes.
        objects: each object in its own frame, by name.
        backend: as in `render.render`.

    Returns:
        The same scene and no words where nothing is near anything, a thing has no surface, or a sentence of the graph
        would no longer hold.
    """
    touching, apart = _pairs(layout, scene.poses)
    resting = {_upper_and_lower(one)[0] for one in layout.graph.relations if _rests(one)}
    if not touching and not apart:
        return scene, ""
    try:
        bodies = {name: body_of(cloud, backend) for name, cloud in objects.items()}
    except ExportError:
        return scene, ""  # too faint for a surface: the boxes have to do

    found = settle(
        [bodies[pose.name] for pose in scene.poses],
        _poses(scene.poses),
        touching,
        apart,
        [pose.name in resting for pose in scene.poses],
    )
    poses = _as_poses(scene.poses, found.poses)
    if violations(layout.graph, _moved_boxes(layout, scene.poses, poses), measured=True):
        return scene, ""
    return placed_at(layout.graph, objects, poses), _words(found)


def body_of(cloud: Gaussians, backend: Backend = "auto") -> Body:
    """Return the outer surface of an object in its own frame.

    Args:
        cloud: the object, on any device.
        backend: as in `render.render`.

    Raises:
        ExportError: it is too faint to have one.
    """
    solid = extract_mesh(cloud, SURFACE, color="none", backend=backend).solid
    points, normals = solid.vertices, solid.vertex_normals
    low, high = points.min(0), points.max(0)
    middle, reach = (low + high) / 2, (high - low) / 2 * (1.0 + MARGIN) + 1e-6

    steps = np.linspace(-1.0, 1.0, GRID)
    z, y, x = np.meshgrid(steps, steps, steps, indexing="ij")
    places = np.stack([x, y, z], -1).reshape(-1, 3) * reach + middle
    distances, nearest = cKDTree(points).query(places)
    outside = ((places - points[nearest]) * normals[nearest]).sum(1) >= 0.0

    thinned = points[:: max(1, len(points) // MOST_POINTS)]
    return Body(
        points=torch.from_numpy(thinned).float(),
        distance=torch.from_numpy(np.where(outside, distances, -distances))
        .float()
        .reshape(GRID, GRID, GRID),
        middle=torch.from_numpy(middle).float(),
        reach=torch.from_numpy(reach).float(),
    )


def _pairs(layout: Layout, poses: Sequence[Pose]) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs of things that should touch, and those near each other that should not."""
    graph, boxes = layout.graph, {(box.name, box.number): box for box in layout.boxes}
    numbers = {(pose.name, pose.number): index for index, pose in enumerate(poses)}
    touching: set[Pair] = set()
    for relation in graph.relations:
        if not _touches(relation):
            continue
        upper, lower = _upper_and_lower(relation)
        for thing in (box for box in layout.boxes if box.name == upper):
            others = [box for box in layout.boxes if box.name == lower]
            other = min(others, key=lambda one: math.dist(one.center, thing.center))
            one, two = numbers[thing.name, thing.number], numbers[other.name, other.number]
            touching.add((min(one, two), max(one, two)))

    nested = {frozenset((one.subject, one.object)) for one in graph.relations if _nests(one)}
    apart = []
    for first, second in combinations(poses, 2):
        pair = numbers[first.name, first.number], numbers[second.name, second.number]
        if pair in touching or frozenset((first.name, second.name)) in nested:
            continue
        if _distance(boxes[first.name, first.number], boxes[second.name, second.number]) < NEAR:
            apart.append(pair)
    return sorted(touching), apart


def _upper_and_lower(relation: Relation) -> tuple[str, str]:
    """Return the names of subject and object, those of "under" the other way round."""
    if relation.relation == "under":
        return relation.object, relation.subject
    return relation.subject, relation.object


def _rests(relation: Relation) -> bool:
    return relation.relation in ("under", *RESTING)


def _touches(relation: Relation) -> bool:
    if relation.touching is not None:
        return relation.touching
    return relation.relation in ("on top of", "under")


def _nests(relation: Relation) -> bool:
    return relation.relation in ("inside", "around")


def _distance(one: Box, other: Box) -> float:
    """Return the largest gap of two boxes along an axis; negative where they overlap."""
    return max(
        abs(a - b) - half - wide
        for a, b, half, wide in zip(
            one.center, other.center, one.half_extents, other.half_extents, strict=True
        )
    )


def _poses(poses: Sequence[Pose]) -> Poses:
    return Poses(
        torch.tensor([pose.translation for pose in poses]),
        torch.tensor([math.radians(pose.turn_deg) for pose in poses]),
        torch.tensor([math.log(pose.scale) for pose in poses]),
    )


def _as_poses(before: Sequence[Pose], found: Poses) -> tuple[Pose, ...]:
    poses = []
    for index, pose in enumerate(before):
        x, y, z = found.places[index].tolist()
        poses.append(
            replace(
                pose,
                scale=math.exp(float(found.log_scales[index])),
                translation=(x, y, z),
                turn_deg=math.degrees(float(found.turns_rad[index])),
            )
        )
    return tuple(poses)


def _moved_boxes(
    layout: Layout, before: Sequence[Pose], after: Sequence[Pose]
) -> dict[str, list[Box]]:
    """Return the boxes of a layout, moved and grown as their things were."""
    changes = {(old.name, old.number): (old, new) for old, new in zip(before, after, strict=True)}
    things: dict[str, list[Box]] = {item.name: [] for item in layout.graph.objects}
    for box in layout.boxes:
        old, new = changes[box.name, box.number]
        grown = new.scale / old.scale
        x, y, z = (
            at + new_at - old_at
            for at, new_at, old_at in zip(box.center, new.translation, old.translation, strict=True)
        )
        depth, width, height = (grown * half for half in box.half_extents)
        moved = Box(box.name, box.number, (x, y, z), (depth, width, height), grown * box.size)
        things[box.name].append(moved)
    return things


def _words(found: Settled) -> str:
    (gap, gap_after), (depth, depth_after) = found.gaps, found.depths
    return (
        f"poses settled: what should touch is off by {gap_after:.3f} at most ({gap:.3f} before), nothing else reaches "
        f"deeper than {depth_after:.3f} into another ({depth:.3f} before)"
    )
