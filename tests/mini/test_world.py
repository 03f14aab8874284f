"""The mini world: pictures against an independent sampling of the shapes, ground truth, balance, held-out rule."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from scenes import render_scene
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.prompts import (
    COLORS,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    Composition,
    ObjectPhrase,
    parse_composition,
)
from vlm3d_gs.mini.world.raycast import LIGHT
from vlm3d_gs.mini.world.scenes import (
    PALETTE,
    ObjectSpec,
    SceneSpec,
    build_scene,
    canonical,
    is_held_out,
    phrase_prompt,
    sample_composition,
    sample_scene,
)


def inside(shape: str, points: np.ndarray) -> np.ndarray:
    """Membership in a shape of size 1 at the origin, from its words, not from the ray caster."""
    x, y, z = points.T
    radius = np.hypot(x, y)
    return {
        "sphere": lambda: (points**2).sum(1) <= 1.0,
        "cube": lambda: np.abs(points).max(1) <= 0.8,
        "cylinder": lambda: (radius <= 0.75) & (np.abs(z) <= 0.85),
        "cone": lambda: (np.abs(z) <= 0.9) & (radius <= 0.9 * (0.9 - z) / 1.8),
        "torus": lambda: (radius - 0.68) ** 2 + z**2 <= 0.30**2,
    }[shape]()


@pytest.mark.parametrize("shape", SHAPES)
def test_silhouettes_cover_the_projected_solid_and_nothing_else(shape: str) -> None:
    """Pixels with many points of the solid are covered; clearly covered pixels contain a point."""
    rng = np.random.default_rng(0)
    center, size, side = np.array([0.1, -0.15, 0.05]), 0.6, 48
    points = rng.uniform(-1.05, 1.05, (400_000, 3))
    points = points[inside(shape, points)] * size + center
    cameras = orbit([20.0, 200.0], [10.0, 60.0], 3.0, 40.0, side, side)
    spec = SceneSpec((ObjectSpec(shape, "red", tuple(center), size),))
    alpha = render_scene(spec, cameras, supersample=4).alpha[..., 0].numpy()
    for view in range(2):
        matrix, k = cameras.viewmats[view].double().numpy(), cameras.Ks[view].double().numpy()
        pixels = (points @ matrix[:3, :3].T + matrix[:3, 3]) @ k.T
        column, row = (pixels[:, :2] / pixels[:, 2:]).T
        count = np.zeros((side, side))
        np.add.at(count, (row.astype(int), column.astype(int)), 1)
        many = count > 0.3 * np.median(count[count > 0])
        assert not (many & (alpha[view] == 0)).any()
        assert not ((alpha[view] > 0.4) & (count == 0)).any()
        assert 0.02 < many.mean() < 0.5


def test_colour_is_albedo_times_shade_and_the_same_from_everywhere() -> None:
    spec = SceneSpec((ObjectSpec("cube", "orange", (0.0, 0.0, 0.0), 0.6),))
    top = render_scene(spec, orbit([0.0, 77.0], 89.0, 3.0, 40.0, 33, 33)).color[:, 16, 16]
    expected = torch.tensor(PALETTE["orange"]) * (0.72 + 0.28 * float(LIGHT[2]))
    torch.testing.assert_close(top, expected.expand(2, 3), atol=1e-5, rtol=1e-5)


def test_nearer_objects_hide_those_behind() -> None:
    scene = build_scene(parse_composition("a red cube in front of a blue cube"))
    images = render_scene(scene, orbit([0.0, 180.0], 0.0, 3.0, 40.0, 65, 65))
    assert images.ids[0, 34, 32] == 0
    assert images.ids[1, 34, 32] == 1


@pytest.mark.parametrize("relation", RELATIONS)
def test_relations_hold_as_the_front_camera_sees_them(relation: str) -> None:
    rng = np.random.default_rng(1)
    cameras = orbit([0.0, 90.0], 10.0, 3.05, 40.0, 64, 64)
    for _ in range(10):
        composition = sample_composition(rng, 2, None)
        scene = build_scene(Composition(composition.objects, relation), rng)
        ids = render_scene(scene, cameras).ids
        rows, columns = ({}, {})
        for index in (0, 1):
            row, column = (ids[1] == index).nonzero().double().mean(0)
            front = (ids[0] == index).nonzero().double().mean(0)
            rows[index], columns[index] = row, (front[1], column)
        apart_front = columns[0][0] - columns[1][0]
        apart_side = columns[0][1] - columns[1][1]
        assert {
            "on top of": rows[0] < rows[1],
            "under": rows[0] > rows[1],
            "to the left of": apart_front < -8,
            "to the right of": apart_front > 8,
            "in front of": apart_side < -8,
            "behind": apart_side > 8,
        }[relation], (scene, relation)


def test_scenes_stay_in_the_unit_ball_and_objects_apart() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        scene = sample_scene(rng)
        for item in scene.objects:
            assert np.linalg.norm(item.center) + 0.3 * item.size < 1.0
        if scene.relation:
            axis = {"on top of": 2, "under": 2, "in front of": 0, "behind": 0}.get(
                scene.relation, 1
            )
            first, second = (np.array(item.center) for item in scene.objects)
            assert abs(first - second).argmax() == axis


def test_sampling_is_balanced_and_never_gives_a_held_out_combination() -> None:
    rng = np.random.default_rng(3)
    drawn = [sample_composition(rng, 2) for _ in range(2000)]
    assert not any(is_held_out(item) for item in drawn)
    for values, expected in (
        (Counter(item.relation for item in drawn), len(RELATIONS)),
        (Counter(item.objects[0].color for item in drawn), len(COLORS)),
        (Counter(item.objects[1].shape for item in drawn), len(SHAPES)),
    ):
        assert len(values) == expected
        assert min(values.values()) > 0.7 * 2000 / expected
    held = [sample_composition(rng, 2, True) for _ in range(200)]
    assert all(is_held_out(item) for item in held)
    assert len({item.relation for item in held}) == len(RELATIONS)
    share = np.mean([is_held_out(sample_composition(rng, 2, None)) for _ in range(3000)])
    assert 0.09 < share < 0.16


def test_a_statement_and_its_opposite_are_one_combination() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        stated = sample_composition(rng, 2, None)
        assert stated.relation is not None
        turned = Composition(stated.objects[::-1], OPPOSITE[stated.relation])
        assert canonical(stated) == canonical(turned)
        assert is_held_out(stated) == is_held_out(turned)


def test_every_phrasing_means_the_scene() -> None:
    rng = np.random.default_rng(5)
    phrasings = set()
    for _ in range(300):
        composition = sample_composition(rng, None, None)
        text = phrase_prompt(composition, rng)
        assert canonical(parse_composition(text)) == canonical(composition), text
        phrasings |= set(text.split())
    assert {"ball", "box", "left", "donut", "beneath", "the"} <= phrasings


def test_composition_is_kept_as_ground_truth() -> None:
    stated = Composition((ObjectPhrase("red", "cube"), ObjectPhrase("cyan", "cone")), "behind")
    assert build_scene(stated).composition == stated
