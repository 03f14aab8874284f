"""Initial clouds: Gaussians from which an optimisation can start."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlm3d_gs.core.bands import coefficient_count
from vlm3d_gs.core.checks import expect_shape
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.harmonics import rgb_to_sh0

NEIGHBOURS = 3
"""A Gaussian's initial size is the mean distance to this many nearest neighbours."""


def ball(
    n: int,
    radius: float,
    generator: torch.Generator,
    *,
    opacity: float = 0.1,
    gray: float = 0.5,
    color_noise: float = 0.0,
    sh_degree: int = 0,
) -> Gaussians:
    """Draw Gaussians uniformly inside a ball around the origin.

    Args:
        n: number of Gaussians, at least 1.
        radius: world units, positive.
        generator: source of the random numbers (a CPU generator).
        opacity: of every Gaussian, above 0 and below 1.
        gray: colour of every channel, 0..1.
        color_noise: standard deviation added to each colour channel.
        sh_degree: 0 to 3; higher coefficients start at zero.

    Returns:
        n isotropic float32 Gaussians on the CPU.

    Raises:
        ConfigError: a value outside its range.
    """
    _expect_cloud(n, radius)
    radii = radius * torch.rand(n, 1, generator=generator).pow(1.0 / 3.0)
    means = radii * _directions(n, generator)
    return from_points(
        means, generator, opacity=opacity, gray=gray, color_noise=color_noise, sh_degree=sh_degree
    )


def shell(
    n: int,
    radius: float,
    generator: torch.Generator,
    *,
    opacity: float = 0.1,
    gray: float = 0.5,
    color_noise: float = 0.0,
    sh_degree: int = 0,
) -> Gaussians:
    """Draw Gaussians uniformly on a sphere around the origin; arguments as for `ball`.

    Raises:
        ConfigError: a value outside its range.
    """
    _expect_cloud(n, radius)
    means = radius * _directions(n, generator)
    return from_points(
        means, generator, opacity=opacity, gray=gray, color_noise=color_noise, sh_degree=sh_degree
    )


def from_points(
    means: Tensor,
    generator: torch.Generator,
    *,
    opacity: float = 0.1,
    gray: float = 0.5,
    color_noise: float = 0.0,
    sh_degree: int = 0,
) -> Gaussians:
    """Return isotropic Gaussians at these points, each as large as the distance to its neighbours.

    Args:
        means: [N, 3] float32 centres.
        generator: source of the random numbers for `color_noise`.
        opacity: of every Gaussian, above 0 and below 1.
        gray: colour of every channel, 0..1.
        color_noise: standard deviation added to each colour channel.
        sh_degree: 0 to 3.

    Raises:
        ConfigError: the opacity is not inside 0..1, or the degree is unknown.
        ShapeError: means is not [N, 3].
    """
    count = expect_shape("means", means, ("N", 3))["N"]
    if not 0.0 < opacity < 1.0:
        raise ConfigError(f"The initial opacity must be above 0 and below 1, got {opacity}.")

    scales = neighbour_distances(means).clamp(min=1e-4)  # points may coincide
    rgb = gray + color_noise * torch.randn(count, 3, generator=generator)
    sh = torch.zeros(count, coefficient_count(sh_degree), 3)
    sh[:, 0] = rgb_to_sh0(rgb)

    quats = torch.zeros(count, 4)
    quats[:, 0] = 1.0
    logit = math.log(opacity / (1.0 - opacity))
    return Gaussians(
        means, scales.log()[:, None].repeat(1, 3), quats, torch.full((count,), logit), sh
    )


def neighbour_distances(points: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Return each point's mean distance to its nearest neighbours.

    Args:
        points: [N, 3].
        neighbours: number of neighbours; fewer are used where there are fewer other points.

    Returns:
        [N] in the units of the points; 1 for a lone point.

    Takes time quadratic in N, about a second for 20,000 points; memory is bounded by working in blocks.
    """
    count = len(points)
    used = min(neighbours, count - 1)
    if used < 1:
        return points.new_ones(count)

    # The nearest of all points is the point itself, hence one more than used and the first dropped.
    blocks = points.split(max(1, 8_000_000 // count))
    means = [
        torch.cdist(block, points).topk(used + 1, largest=False).values[:, 1:].mean(-1)
        for block in blocks
    ]
    return torch.cat(means)


def _directions(n: int, generator: torch.Generator) -> Tensor:
    """Return [n, 3] unit vectors, uniform over the sphere."""
    return torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)


def _expect_cloud(n: int, radius: float) -> None:
    """Raise a ConfigError for a cloud that cannot be drawn."""
    if n < 1:
        raise ConfigError(f"An initial cloud needs at least 1 Gaussian, got {n}.")
    if not radius > 0.0:
        raise ConfigError(f"The radius of an initial cloud must be positive, got {radius}.")
