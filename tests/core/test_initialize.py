"""First clouds."""

from __future__ import annotations

import pytest
import torch

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import validate
from vlm3d_gs.core.initialize import ball, from_points, neighbour_distances, shell


def test_ball_fills_its_radius_evenly(generator):
    cloud = ball(4000, 0.5, generator)
    radii = cloud.means.norm(dim=-1)
    assert float(radii.max()) <= 0.5
    assert float((radii < 0.25).float().mean()) == pytest.approx(0.125, abs=0.02)
    assert float(cloud.means.mean(0).norm()) < 0.03
    validate(cloud)


def test_shell_lies_on_the_sphere(generator):
    cloud = shell(500, 0.8, generator)
    torch.testing.assert_close(cloud.means.norm(dim=-1), torch.full((500,), 0.8))


def test_colour_opacity_and_degree_are_as_asked(generator):
    cloud = ball(50, 1.0, generator, opacity=0.3, gray=0.25, sh_degree=2)
    torch.testing.assert_close(cloud.opacities, torch.full((50,), 0.3))
    torch.testing.assert_close(cloud.colors, torch.full((50, 3), 0.25))
    assert cloud.sh_degree == 2
    noisy = ball(2000, 1.0, generator, color_noise=0.05)
    assert float(noisy.colors.std()) == pytest.approx(0.05, rel=0.1)


def test_size_is_the_mean_distance_of_three_neighbours(generator):
    points = torch.randn(40, 3, generator=generator)
    distances = torch.cdist(points.double(), points.double())
    expected = distances.sort(dim=1).values[:, 1:4].mean(1)
    torch.testing.assert_close(neighbour_distances(points).double(), expected, rtol=1e-4, atol=1e-4)
    cloud = from_points(points, generator)
    torch.testing.assert_close(cloud.scales[:, 0].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_points_have_a_size(n, generator):
    cloud = ball(n, 1.0, generator)
    assert bool(torch.isfinite(cloud.log_scales).all())


def test_same_seed_same_cloud():
    a, b = (ball(20, 1.0, torch.Generator().manual_seed(3), color_noise=0.1) for _ in range(2))
    assert torch.equal(a.means, b.means)
    assert torch.equal(a.sh, b.sh)


def test_impossible_clouds_are_refused(generator):
    with pytest.raises(ConfigError, match="at least 1 Gaussian, got 0"):
        ball(0, 1.0, generator)
    with pytest.raises(ConfigError, match="radius of an initial cloud must be positive"):
        shell(5, 0.0, generator)
    with pytest.raises(ConfigError, match="opacity must be above 0 and below 1, got 1.0"):
        ball(5, 1.0, generator, opacity=1.0)
