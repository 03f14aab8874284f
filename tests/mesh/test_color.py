from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scenes import scene_for, splats
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.mesh.atlas import dilate, paint, unwrap
from vlm3d_gs.mesh.bake import bake, bake_cameras, project
from vlm3d_gs.mesh.grid import grid_over
from vlm3d_gs.mesh.raster import rasterize_depth
from vlm3d_gs.mesh.shells import outer_field
from vlm3d_gs.mesh.solid import Solid, decimate, surface
from vlm3d_gs.mini.world.scenes import ObjectSpec, SceneSpec

RADIUS = 0.6


def ball(radius: float = RADIUS, x: float = 0.0, faces: int = 3000) -> Solid:
    grid = grid_over(-np.ones(3), np.ones(3), 40)
    axes = [o + grid.step * np.arange(n) for o, n in zip(grid.origin, grid.shape, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - [x, 0.0, 0.0]
    field = (radius - np.linalg.norm(points, axis=-1)).astype(np.float32)
    return decimate(surface(outer_field(field, 0.0, grid.step), grid), faces)


def two_sided(gaussians: Gaussians) -> Gaussians:
    """Red where y is positive, blue elsewhere."""
    red, blue = torch.tensor([1.7, -1.7, -1.7]), torch.tensor([-1.7, -1.7, 1.7])
    sides = torch.where(gaussians.means[:, 1:2] > 0, red, blue)
    return Gaussians.from_parameters({**gaussians.parameters(), "sh": sides[:, None]})


def white_ball(radius: float = RADIUS, n: int = 4000) -> Gaussians:
    item = ObjectSpec("sphere", "white", (0.0, 0.0, 0.0), radius)
    return splats(SceneSpec((item,)), n=n)


def test_depth_is_that_of_the_nearest_surface() -> None:
    solid, view = ball(), bake_cameras(101).select([0])
    viewmat, intrinsics = view.viewmats[0].double().numpy(), view.Ks[0].double().numpy()
    depth = np.full((101, 101), 1e9, np.float32)
    rasterize_depth(project(solid.vertices, viewmat, intrinsics), solid.faces, depth)
    assert depth[50, 50] == pytest.approx(3.1 - RADIUS, abs=0.01)
    assert depth[0, 0] > 1e8
    # The sphere's outline, as seen from 3.1 with 40 degrees, has this radius in pixels.
    outline = 50.5 / np.tan(np.deg2rad(20.0)) * np.tan(np.arcsin(RADIUS / 3.1))
    assert (depth < 1e8).sum() == pytest.approx(np.pi * outline**2, rel=0.03)


def test_colours_land_on_their_side() -> None:
    solid = ball()
    colors = bake(two_sided(white_ball()), solid, solid.vertices, solid.vertex_normals)
    right, left = solid.vertices[:, 1] > 0.1, solid.vertices[:, 1] < -0.1
    assert np.abs(colors[right] - [0.98, 0.0, 0.0]).mean() < 0.03
    assert np.abs(colors[left] - [0.0, 0.0, 0.98]).mean() < 0.03


def test_an_occluder_leaves_no_colour_on_the_surface_behind_it() -> None:
    scene = scene_for("a red sphere in front of a blue sphere")
    gaussians = splats(scene, n=4000)
    red, blue = scene.objects
    solid = ball(blue.size, faces=2000)
    shifted = Solid(solid.vertices + np.asarray(blue.center), solid.faces)
    other = ball(red.size, faces=2000)
    both = Solid(
        np.concatenate([shifted.vertices, other.vertices + np.asarray(red.center)]),
        np.concatenate([solid.faces, other.faces + len(solid.vertices)]).astype(np.int32),
    )
    colors = bake(gaussians, both, both.vertices, both.vertex_normals)
    assert (colors[: len(solid.vertices), 0] > 0.35).mean() < 0.01
    assert (colors[len(solid.vertices) :, 2] > 0.35).mean() < 0.01


def test_what_no_view_sees_takes_the_nearest_colour() -> None:
    solid = ball()
    inner = 0.5 * solid.vertices  # inside the ball: hidden from every view
    colors = bake(two_sided(white_ball()), solid, inner, solid.vertex_normals)
    assert np.allclose(colors, 0.5)  # nothing seen at all: grey
    positions = np.concatenate([solid.vertices, inner])
    normals = np.concatenate([solid.vertex_normals] * 2)
    colors = bake(two_sided(white_ball()), solid, positions, normals)[len(inner) :]
    right = inner[:, 1] > 0.1
    assert np.abs(colors[right] - [0.98, 0.0, 0.0]).mean() < 0.05


def test_an_atlas_covers_every_triangle_once() -> None:
    solid = ball()
    atlas = unwrap(solid, 256)
    assert np.array_equal(np.sort(atlas.sources[atlas.faces], axis=1), np.sort(solid.faces, axis=1))
    assert atlas.uvs.min() >= 0.0
    assert atlas.uvs.max() <= 1.0
    a, b, c = (atlas.uvs[atlas.faces[:, k]] for k in range(3))
    areas = np.abs(np.linalg.det(np.stack([b - a, c - a], axis=-1))) / 2.0
    assert 0.4 < areas.sum() <= 1.0  # no room for overlap, little waste


def test_the_texture_shows_at_each_corner_what_is_baked_there() -> None:
    solid, scene = ball(), two_sided(white_ball())
    texture = paint(scene, solid, 512)
    assert texture.image.shape == (512, 512, 3)
    expected = bake(scene, solid, solid.vertices, solid.vertex_normals)[texture.atlas.sources]
    uv = texture.atlas.uvs
    rows = np.clip(((1.0 - uv[:, 1]) * 512).astype(int), 0, 511)
    columns = np.clip((uv[:, 0] * 512).astype(int), 0, 511)
    away = np.abs(solid.vertices[texture.atlas.sources][:, 1]) > 0.05
    assert np.abs(texture.image[rows, columns] - expected)[away].mean() < 0.02


def test_dilation_copies_the_nearest_texel_and_changes_none() -> None:
    image = np.zeros((8, 8, 3), np.float32)
    covered = np.zeros((8, 8), bool)
    covered[2, 2], covered[6, 6] = True, True
    image[2, 2], image[6, 6] = 0.25, 0.75
    filled = dilate(image, covered)
    assert np.array_equal(filled[covered], image[covered])
    assert (filled[:3, :3] == 0.25).all()
    assert (filled[6:, 6:] == 0.75).all()


def test_the_backend_reaches_the_renderer() -> None:
    solid = ball(faces=200)
    cameras = replace(bake_cameras(24))
    points = (solid.vertices, solid.vertex_normals)
    slow = bake(white_ball(n=200), solid, *points, cameras=cameras, backend="reference")
    quick = bake(white_ball(n=200), solid, *points, cameras=cameras, backend="cpu")
    assert np.abs(slow - quick).max() < 5e-3
