from __future__ import annotations

import numpy as np
import pytest
import torch

from scenes import splats_for
from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.gaussians import Gaussians, concatenate
from vlm3d_gs.mesh import density
from vlm3d_gs.mesh.bake import bake_cameras
from vlm3d_gs.mesh.density import density_blocks, density_field
from vlm3d_gs.mesh.grid import MARGIN, Grid, bounds_of, grid_over, normalize
from vlm3d_gs.mesh.silhouettes import fit_cameras, fit_level, ray_maxima
from vlm3d_gs.mesh.tsdf import distance_field, fuse_torch

CUBE = np.ones(3)


def some_gaussians(generator: torch.Generator, n: int = 40) -> Gaussians:
    return Gaussians(
        means=0.5 * torch.randn(n, 3, generator=generator),
        log_scales=-2.5 + 0.5 * torch.randn(n, 3, generator=generator),
        quats=torch.randn(n, 4, generator=generator),
        opacity_logits=torch.randn(n, generator=generator),
        sh=torch.zeros(n, 1, 3),
    )


def points_of(grid: Grid) -> np.ndarray:
    axes = [o + grid.step * np.arange(n) for o, n in zip(grid.origin, grid.shape, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def ball_field(grid: Grid, radius: float) -> np.ndarray:
    return (radius - np.linalg.norm(points_of(grid), axis=-1)).astype(np.float32)


def test_a_grid_covers_its_box_with_a_margin() -> None:
    grid = grid_over(np.array([-1.0, -0.5, 0.0]), np.array([1.0, 0.5, 0.3]), 20)
    assert grid.step == pytest.approx(0.1)
    assert grid.shape == (21 + 2 * MARGIN, 11 + 2 * MARGIN, 4 + 2 * MARGIN)
    last = np.asarray(grid.origin) + grid.step * (np.asarray(grid.shape) - 1)
    assert np.allclose(grid.origin, [-1.2, -0.7, -0.2])
    assert np.all(last >= np.array([1.0, 0.5, 0.3]) + MARGIN * grid.step - 1e-9)


def test_the_density_is_the_sum_of_the_blurred_gaussians(generator: torch.Generator) -> None:
    scene = some_gaussians(generator)
    grid = grid_over(-CUBE, CUBE, 24)
    covariances = scene.covariances.double().numpy()
    covariances = covariances + np.eye(3) * (density.THINNEST * grid.step) ** 2
    away = points_of(grid)[..., None, :] - scene.means.double().numpy()
    square = np.einsum("...ni,nij,...nj->...n", away, np.linalg.inv(covariances), away)
    parts = np.where(square < 9.0, np.exp(-0.5 * square), 0.0)
    expected = (parts * scene.opacities.double().numpy()).sum(axis=-1)
    got = density_field(scene, grid)
    assert got.max() > 0.5
    # At the cut-off a rounding decides about exp(-4.5) = 0.011.
    assert np.mean(np.abs(got - expected) > 1e-5) < 1e-3
    assert np.abs(got - expected).max() < 0.02


def test_torch_and_the_kernel_agree_on_the_density(
    generator: torch.Generator, device: torch.device
) -> None:
    scene = some_gaussians(generator)
    grid = grid_over(-CUBE, 1.3 * CUBE, 60)  # several blocks, the last ones not full
    ours, theirs = density_field(scene, grid), density_blocks(scene.to(device), grid)
    assert np.mean(np.abs(ours - theirs) > 1e-4) < 1e-3
    assert np.abs(ours - theirs).max() < 0.02


def test_threads_do_not_change_the_density(generator: torch.Generator) -> None:
    scene, grid = some_gaussians(generator), grid_over(-CUBE, CUBE, 40)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = density_field(scene, grid)
        torch.set_num_threads(3)
        assert np.array_equal(density_field(scene, grid), alone)
    finally:
        torch.set_num_threads(before)


def test_torch_and_the_kernel_agree_on_the_distance(device: torch.device) -> None:
    scene, _ = normalize(splats_for("a white cone"))
    # Not symmetric: samples on a line between two pixels belong to either.
    grid = grid_over(-np.array([0.913, 0.971, 0.937]), CUBE, 24)
    truncation = max(4.0 * grid.step, 3.5 * float(scene.scales.amax(dim=-1).median()))
    size_px = max(128, int(2.0 * 2.2 / grid.step))
    ours = distance_field(scene, grid, "cpu")
    theirs = fuse_torch(scene.to(device), grid, bake_cameras(size_px), truncation)
    assert np.mean(np.abs(ours - theirs) > 1e-3) < 1e-3


def test_the_distance_is_1_deep_inside_and_minus_1_far_outside() -> None:
    scene, _ = normalize(splats_for("a white sphere"))
    grid = grid_over(-CUBE, CUBE, 32)
    field = distance_field(scene, grid)
    radii = np.linalg.norm(points_of(grid), axis=-1)
    assert field[radii < 0.1].min() == pytest.approx(1.0)
    assert field[radii > 1.1].max() < -0.9


def test_the_largest_value_along_a_ray_is_that_of_its_nearest_point() -> None:
    grid = grid_over(-CUBE, CUBE, 48)
    cameras = fit_cameras(32)
    peaks = ray_maxima(ball_field(grid, 0.7), grid, cameras)
    # A ray through pixel (u, v) passes the middle at the distance |origin x direction|.
    for view in range(len(cameras)):
        rows, columns = np.mgrid[0:32, 0:32] + 0.5
        pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
        rays = pixels @ np.linalg.inv(cameras.Ks[view].double().numpy()).T
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        eye = cameras.viewmats[view, :3, 3].double().numpy()
        distances = np.linalg.norm(np.cross(np.broadcast_to(-eye, rays.shape), rays), axis=-1)
        near = distances < 0.95
        assert np.abs(peaks[view] - (0.7 - distances))[near].max() < 2e-2


def test_the_level_is_the_one_whose_silhouettes_match() -> None:
    grid = grid_over(-CUBE, CUBE, 64)
    cameras = fit_cameras(96)
    expected = ray_maxima(ball_field(grid, 0.6), grid, cameras) >= 0.0
    fit = fit_level(ball_field(grid, 0.9), grid, cameras, expected)
    assert fit.level == pytest.approx(0.3, abs=0.01)
    assert fit.iou > 0.99


def test_nothing_solid_in_any_view_is_an_error() -> None:
    grid = grid_over(-CUBE, CUBE, 16)
    cameras = fit_cameras(16)
    with pytest.raises(ExportError, match="no view shows anything solid"):
        fit_level(ball_field(grid, 0.5), grid, cameras, np.zeros((len(cameras), 16, 16), bool))


def test_normalising_drops_stray_gaussians_and_can_be_undone(generator: torch.Generator) -> None:
    scene = splats_for("a red cube")
    moved = {**scene.parameters(), "means": scene.means * 5.0 + 20.0}
    moved["log_scales"] = scene.log_scales + np.log(5.0)
    far = scene.select(torch.tensor([0]))
    stray = Gaussians.from_parameters({**far.parameters(), "means": torch.full((1, 3), 900.0)})
    normalized, normalization = normalize(concatenate([Gaussians.from_parameters(moved), stray]))
    assert len(normalized) == len(scene)
    assert float(normalized.means.norm(dim=-1).max()) < 1.0
    restored = normalization.denormalize(normalized.means.double().numpy())
    assert np.abs(restored - moved["means"].numpy()).max() < 1e-3
    assert torch.allclose(
        normalized.scales * normalization.radius, moved["log_scales"].exp(), rtol=1e-4
    )


def test_of_a_few_gaussians_none_counts_as_stray() -> None:
    few = splats_for("a red cube").select(torch.tensor([0, 1]))
    apart = {**few.parameters(), "means": torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])}
    assert len(normalize(Gaussians.from_parameters(apart))[0]) == 2


def test_the_bounding_box_of_a_field() -> None:
    grid = grid_over(-CUBE, CUBE, 20)
    low, high = bounds_of(ball_field(grid, 0.55), grid, 0.0)
    assert np.allclose(low, -0.6, atol=1e-6)
    assert np.allclose(high, 0.6, atol=1e-6)
    with pytest.raises(ExportError, match="nowhere dense"):
        bounds_of(ball_field(grid, 0.5), grid, 9.0)


@pytest.mark.parametrize(("opacity_logit", "count"), [(0.0, 0), (-20.0, 5)])
def test_an_empty_or_transparent_scene_is_an_error(opacity_logit: float, count: int) -> None:
    scene = splats_for("a red cube").select(torch.arange(count))
    faint = {**scene.parameters(), "opacity_logits": torch.full((count,), opacity_logit)}
    with pytest.raises(ExportError, match="no Gaussians" if count == 0 else "transparent"):
        normalize(Gaussians.from_parameters(faint))
