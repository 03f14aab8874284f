"""Even samples of the primitives' surfaces: points, outward normals, area.

Unit primitives as in `raycast`. Samples come from a low-discrepancy sequence with a random start, so that even few
points cover a surface without gaps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.prompts import SHAPES
from vlm3d_gs.mini.world import raycast as rc

Samples = tuple[Tensor, Tensor]
"""Points [n, 3] and unit outward normals [n, 3], float64."""

CONE_SLOPE = rc.CONE_RADIUS / (2.0 * rc.CONE_HALF)


def surface_area(shape: str) -> float:
    """Return the area of a primitive of size 1, world units squared."""
    if shape == "sphere":
        return 4.0 * math.pi
    if shape == "cube":
        return 6.0 * (2.0 * rc.CUBE_HALF) ** 2
    if shape == "cylinder":
        radius, half = rc.CYLINDER_RADIUS, rc.CYLINDER_HALF
        return 2.0 * math.pi * radius * (2.0 * half + radius)
    if shape == "cone":
        slant = math.hypot(rc.CONE_RADIUS, 2.0 * rc.CONE_HALF)
        return math.pi * rc.CONE_RADIUS * (slant + rc.CONE_RADIUS)
    if shape == "torus":
        return 4.0 * math.pi**2 * rc.TORUS_MAJOR * rc.TORUS_MINOR
    raise ConfigError(f"Unknown shape {shape!r}. Known: {', '.join(SHAPES)}.")


def sample_surface(shape: str, n: int, generator: torch.Generator) -> Samples:
    """Draw points evenly from the surface of a primitive of size 1 at the origin.

    Args:
        shape: one of `prompts.SHAPES`.
        n: number of points.
        generator: source of the sequence's start, on the CPU.

    Returns:
        Points and unit outward normals, [n, 3] float64 each.

    Raises:
        ConfigError: unknown shape.
    """
    u, v = _even_square(n, generator)
    if shape == "sphere":
        normals = _ring(u, torch.sqrt(4.0 * v * (1.0 - v)), 1.0 - 2.0 * v)
        return normals, normals
    if shape == "cube":
        return _cube(u, v)
    if shape == "cylinder":
        return _cylinder(u, v)
    if shape == "cone":
        return _cone(u, v)
    if shape == "torus":
        return _torus(u, v)
    raise ConfigError(f"Unknown shape {shape!r}. Known: {', '.join(SHAPES)}.")


def _even_square(n: int, generator: torch.Generator) -> Samples:
    """Return the R2 sequence in the unit square: steps of the inverse powers of the plastic number (Roberts 2018)."""
    plastic = 1.3247179572447460
    start = torch.rand(2, generator=generator, dtype=torch.float64)
    index = torch.arange(n, dtype=torch.float64)
    return (start[0] + index / plastic) % 1.0, (start[1] + index / plastic**2) % 1.0


def _ring(turn: Tensor, radius: Tensor, height: Tensor) -> Tensor:
    angle = 2.0 * math.pi * turn
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle), height], dim=-1)


def _cube(u: Tensor, v: Tensor) -> Samples:
    face = (6.0 * u).long().clamp_max(5)
    a, b = 2.0 * (6.0 * u - face) - 1.0, 2.0 * v - 1.0
    axis, sign = face // 2, 1.0 - 2.0 * (face % 2).double()

    rows = torch.arange(len(u))
    points = torch.empty(len(u), 3, dtype=torch.float64)
    points[rows, axis], points[rows, (axis + 1) % 3], points[rows, (axis + 2) % 3] = sign, a, b
    normals = torch.zeros_like(points)
    normals[rows, axis] = sign

    return rc.CUBE_HALF * points, normals


def _cylinder(u: Tensor, v: Tensor) -> Samples:
    radius, half = rc.CYLINDER_RADIUS, rc.CYLINDER_HALF
    cap = radius / (2.0 * (2.0 * half + radius))  # share of the area in each of the two caps
    side = (v - 2.0 * cap) / (1.0 - 2.0 * cap)
    sign = torch.where(v < cap, 1.0, -1.0)

    # On a disc, the root of a uniform number gives the radius of a uniform point.
    within = torch.sqrt((v % cap) / cap)
    on_cap = v < 2.0 * cap
    height = torch.where(on_cap, sign * half, half * (2.0 * side - 1.0))
    points = _ring(u, torch.where(on_cap, radius * within, torch.full_like(u, radius)), height)
    flat = torch.where(on_cap, sign, torch.zeros_like(u))

    return points, _ring(u, 1.0 - flat.abs(), flat)


def _cone(u: Tensor, v: Tensor) -> Samples:
    slant = math.hypot(rc.CONE_RADIUS, 2.0 * rc.CONE_HALF)
    base = rc.CONE_RADIUS / (slant + rc.CONE_RADIUS)  # share of the area in the base
    on_base = v < base
    reach = torch.sqrt(torch.where(on_base, v / base, (v - base) / (1.0 - base)))
    side_height = rc.CONE_HALF * (1.0 - 2.0 * reach)
    height = torch.where(on_base, torch.full_like(u, -rc.CONE_HALF), side_height)

    norm = math.sqrt(1.0 + CONE_SLOPE**2)
    outward = torch.where(on_base, torch.zeros_like(u), torch.full_like(u, 1.0 / norm))
    upward = torch.where(on_base, torch.full_like(u, -1.0), torch.full_like(u, CONE_SLOPE / norm))

    return _ring(u, rc.CONE_RADIUS * reach, height), _ring(u, outward, upward)


def _torus(u: Tensor, v: Tensor) -> Samples:
    # The tube's angle has density proportional to the distance from the axis: invert its integral.
    grid = torch.linspace(0.0, 2.0 * math.pi, 2049, dtype=torch.float64)
    cumulative = (grid + rc.TORUS_MINOR / rc.TORUS_MAJOR * torch.sin(grid)) / (2.0 * math.pi)
    right = torch.searchsorted(cumulative, v).clamp(1, len(grid) - 1)
    fraction = (v - cumulative[right - 1]) / (cumulative[right] - cumulative[right - 1])
    tube = grid[right - 1] + fraction * (grid[right] - grid[right - 1])

    radius = rc.TORUS_MAJOR + rc.TORUS_MINOR * torch.cos(tube)
    points = _ring(u, radius, rc.TORUS_MINOR * torch.sin(tube))
    return points, _ring(u, torch.cos(tube), torch.sin(tube))
