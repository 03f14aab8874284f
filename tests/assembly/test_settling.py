"""assembly.settling: things of real splats, lifted or sunk on purpose, come to rest on each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from evaluate.damaged_splats import objects_of, splat_of
from vlm3d_gs.assembly.placement import PlacedScene, place, placed_at, seen_extent
from vlm3d_gs.assembly.settling import body_of, settled
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.layout.grammar import parse_scene
from vlm3d_gs.layout.solver import Layout, solve_layout

PROMPT = "a red cube on top of a blue sphere, to the left of a green cone"


@pytest.fixture(scope="module")
def made() -> dict[str, Gaussians]:
    graph = parse_scene(PROMPT)
    return {item.name: splat_of(objects_of(item.prompt)) for item in graph.objects}


@pytest.fixture(scope="module")
def layout() -> Layout:
    return solve_layout(parse_scene(PROMPT))


def shifted(
    scene: PlacedScene, layout: Layout, made: dict[str, Gaussians], by: float
) -> PlacedScene:
    """The same scene with what lies on top moved up."""
    poses = list(scene.poses)
    x, y, z = poses[0].translation
    poses[0] = replace(poses[0], translation=(x, y, z + by))
    return placed_at(layout.graph, made, poses)


def test_distances_of_a_body_are_those_of_its_shape(made: dict[str, Gaussians]) -> None:
    name = next(name for name, cloud in made.items() if "sphere" in name)
    body = body_of(made[name])
    radius = body.points.norm(dim=1).mean()
    places = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.3], [0.5, 0.4, 0.0], [0.0, -0.7, 0.0]])
    assert torch.allclose(body.distance_at(places), places.norm(dim=1) - radius, atol=0.05)


@pytest.mark.parametrize("by", [0.06, -0.06])
def test_a_thing_that_floats_or_sinks_comes_to_rest(
    layout: Layout, made: dict[str, Gaussians], by: float
) -> None:
    extents = {name: seen_extent(cloud) for name, cloud in made.items()}
    scene = place(layout, made, extents)
    before = scene.poses[0].translation[2]
    found, words = settled(layout, shifted(scene, layout, made, by), made)
    assert abs(found.poses[0].translation[2] - before) < abs(by) / 2
    assert "poses settled" in words
    assert len(found.gaussians) == len(scene.gaussians)
    assert found.lengths == scene.lengths


def test_things_that_are_far_from_each_other_stay(made: dict[str, Gaussians]) -> None:
    layout = solve_layout(parse_scene("a red cube and a green cone"))
    own = {item.name: splat_of(objects_of(item.prompt)) for item in layout.graph.objects}
    extents = {name: seen_extent(cloud) for name, cloud in own.items()}
    scene = place(layout, own, extents)
    far = [
        replace(pose, translation=(0.0, 3.0 * number, 0.0))
        for number, pose in enumerate(scene.poses)
    ]
    apart = replace(
        layout,
        boxes=tuple(
            box._replace(center=(0.0, 3.0 * number, 0.0)) for number, box in enumerate(layout.boxes)
        ),
    )
    spread = placed_at(layout.graph, own, far)
    assert settled(apart, spread, own) == (spread, "")
