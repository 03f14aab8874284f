"""Objects in the boxes of a layout: measured, scaled, stacked, numbered; with perfect splats of known size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlm3d_gs.assembly.placement import (
    Extent,
    PlacedScene,
    measured_layout,
    place,
    pose_into,
    seen_extent,
)
from vlm3d_gs.core.gaussians import Gaussians, concatenate
from vlm3d_gs.layout.grammar import parse_scene
from vlm3d_gs.layout.shapes import HALF_HEIGHT, HALF_WIDTH, Box
from vlm3d_gs.layout.solver import Layout, solve_layout
from vlm3d_gs.mini.world.scenes import ObjectSpec, SceneSpec
from vlm3d_gs.mini.world.splats import scene_to_gaussians

PROMPT = "a red cube on top of a blue cylinder, to the left of two green cones"
CLOSE = 0.045
"""World units; Gaussians on a flat side bulge beyond it, by about one standard deviation."""


def alone(shape: str, color: str) -> Gaussians:
    """An object as a run of its own leaves it, not quite in the middle."""
    random = torch.Generator().manual_seed(0)
    return scene_to_gaussians(
        SceneSpec((ObjectSpec(shape, color, (0.05, -0.03, 0.04), 0.62),)), 1500, random
    )


def stretched(gaussians: Gaussians, factor: float) -> Gaussians:
    means = gaussians.means * torch.tensor([1.0, 1.0, factor])
    return Gaussians(**{**gaussians.parameters(), "means": means})


def placed(layout: Layout, objects: dict[str, Gaussians]) -> PlacedScene:
    extents = {name: seen_extent(one, "cpu") for name, one in objects.items()}
    return place(layout, objects, extents)


@pytest.fixture(scope="module")
def layout() -> Layout:
    return solve_layout(parse_scene(PROMPT))


@pytest.fixture(scope="module")
def objects() -> dict[str, Gaussians]:
    return {
        "red_cube": alone("cube", "red"),
        "blue_cylinder": alone("cylinder", "blue"),
        "green_cone": alone("cone", "green"),
    }


@pytest.mark.parametrize("shape", ["sphere", "cube", "torus"])
def test_an_object_is_measured_as_large_as_it_is_and_where(shape: str) -> None:
    extent = seen_extent(alone(shape, "red"), "cpu")
    true = [0.62 * value for value in (HALF_WIDTH[shape], HALF_WIDTH[shape], HALF_HEIGHT[shape])]
    assert extent.half == pytest.approx(true, abs=CLOSE)
    middle = [(low + high) / 2 for low, high in zip(extent.low, extent.high, strict=True)]
    assert middle == pytest.approx([0.05, -0.03, 0.04], abs=CLOSE / 2)


def test_a_speck_moves_nothing_and_what_is_too_faint_is_the_unit_ball() -> None:
    cube = alone("cube", "red")
    speck = cube.select(torch.tensor([0]))
    parameters = {
        **speck.parameters(),
        "means": torch.tensor([[0.9, 0.9, 0.9]]),
        "log_scales": torch.full((1, 3), -7.0),
    }
    with_speck = concatenate([cube, Gaussians(**parameters)])
    assert seen_extent(with_speck, "cpu") == seen_extent(cube, "cpu")

    faint = {**cube.parameters(), "opacity_logits": torch.full((len(cube),), -12.0)}
    assert seen_extent(Gaussians(**faint), "cpu") == Extent((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))


def test_every_thing_fills_its_box(layout: Layout, objects: dict[str, Gaussians]) -> None:
    scene = placed(layout, objects)
    assert [(pose.name, pose.number) for pose in scene.poses] == [box[:2] for box in layout.boxes]
    start = 0
    for box in layout.boxes:
        count = len(objects[box.name])
        thing = scene.gaussians.select(torch.arange(start, start + count))
        start += count
        extent = seen_extent(thing, "cpu")
        low = [at - half for at, half in zip(box.center, box.half_extents, strict=True)]
        high = [at + half for at, half in zip(box.center, box.half_extents, strict=True)]
        assert extent.low == pytest.approx(low, abs=CLOSE)
        assert extent.high == pytest.approx(high, abs=CLOSE)
    assert start == len(scene.gaussians)


def test_gaussians_know_their_object(layout: Layout, objects: dict[str, Gaussians]) -> None:
    scene = placed(layout, objects)
    for number, item in enumerate(layout.graph.objects):
        own = scene.only(number)
        assert len(own) == item.count * len(objects[item.name])
        colors = objects[item.name].colors.mean(0)
        assert torch.allclose(own.colors.mean(0), colors, atol=1e-5)

    del objects["green_cone"]
    assert set(placed(layout, objects).numbers.tolist()) == {0, 1}, "what is not there is left out"


@pytest.mark.parametrize("factor", [0.85, 1.15])
def test_what_stands_on_something_touches_it_whatever_its_height(factor: float) -> None:
    layout = solve_layout(
        parse_scene("a red cube on top of a blue cylinder on top of a green cube")
    )
    scene = placed(
        layout,
        {
            "red_cube": alone("cube", "red"),
            "blue_cylinder": stretched(alone("cylinder", "blue"), factor),
            "green_cube": stretched(alone("cube", "green"), factor),
        },
    )
    cube, cylinder, lowest = (seen_extent(scene.only(number), "cpu") for number in range(3))
    assert cube.low[2] == pytest.approx(cylinder.high[2], abs=0.01)
    assert cylinder.low[2] == pytest.approx(lowest.high[2], abs=0.01)


def test_scale_is_one_number_and_the_floor_is_kept() -> None:
    box = Box("a", 0, (0.1, 0.2, 0.3), (0.2, 0.2, 0.1), 0.5)
    pose = pose_into(Extent((-0.4, -0.4, -0.2), (0.4, 0.4, 0.2)), box)
    assert pose.scale == pytest.approx(0.5)
    assert pose.translation == pytest.approx((0.1, 0.2, 0.3))

    flat = pose_into(Extent((-0.4, -0.4, 0.0), (0.4, 0.4, 0.2)), box)
    assert flat.translation[2] == pytest.approx(0.2), "its floor is that of the box"


def test_proportions_of_unknown_objects_are_those_that_they_turned_out_to_have() -> None:
    layout = solve_layout(parse_scene("a lamp on top of a desk", embedded=False))
    lamp, desk = (item.name for item in layout.graph.objects)
    wide = Extent((-0.6, -0.6, -0.2), (0.6, 0.6, 0.2))
    measured = measured_layout(layout, {desk: wide})

    box = measured.things()[desk][0]
    assert box.half_extents[2] / box.half_extents[0] == pytest.approx(1 / 3, abs=0.01)
    upper = measured.things()[lamp][0]
    floor = upper.center[2] - upper.half_extents[2]
    assert floor == pytest.approx(box.center[2] + box.half_extents[2], abs=1e-3)
    assert measured.graph.find(lamp).proportions is None

    moved = [box._replace(center=(box.center[0] + 0.01, *box.center[1:])) for box in layout.boxes]
    edited = replace(layout, boxes=tuple(moved))
    assert measured_layout(edited, {desk: wide}) is edited, "boxes of a person stay"
