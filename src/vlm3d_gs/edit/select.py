"""Which Gaussians are kept: by place, opacity, size, or connection to the largest part."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.optimize.parts import connected_parts

SOLID_OPACITY = 0.05
"""Fainter Gaussians connect nothing: haze around a scene would join it with its floaters."""
GAP_SIGMAS = 4.0
"""Width of an empty gap between parts, in standard deviations of the median solid Gaussian."""
GAP_SPACINGS = 2.0
"""The same in distances to the nearest neighbour, of those that nine in ten are below; the wider counts."""
SPACING_SAMPLE, SPACING_QUANTILE = 20_000, 0.9


def inside_box(gaussians: Gaussians, low: Tensor, high: Tensor) -> Tensor:
    """Return [N] bool, whether the centres lie within a box, its faces included.

    Args:
        gaussians: N Gaussians.
        low: [3] lowest coordinates; infinite where there is no bound.
        high: [3] highest coordinates.
    """
    return ((gaussians.means >= low) & (gaussians.means <= high)).all(-1)


def inside_sphere(gaussians: Gaussians, center: Tensor, radius: float) -> Tensor:
    """Return [N] bool, whether the centres are within `radius` of `center`, [3]."""
    return (gaussians.means.double() - center.double()).norm(dim=-1) <= radius


def opaque(gaussians: Gaussians, min_opacity: float) -> Tensor:
    """Return [N] bool, whether opacities are at least `min_opacity`, 0 to 1."""
    return gaussians.opacities >= min_opacity


def narrow(gaussians: Gaussians, max_scale: float) -> Tensor:
    """Return [N] bool, whether no standard deviation is above `max_scale`, world units."""
    return gaussians.log_scales.amax(-1) <= float(np.log(max_scale))


def in_largest_part(gaussians: Gaussians) -> Tensor:
    """Return [N] bool, whether Gaussians belong to the part that holds the most summed opacity.

    Parts are groups of solid Gaussians with empty space around them; faint ones belong to the solid
    ones that they are near.

    Args:
        gaussians: N >= 1 finite Gaussians on the CPU.
    """
    solid = gaussians.opacities >= SOLID_OPACITY
    if not bool(solid.any()):
        solid = torch.ones_like(solid)

    means, opacities = gaussians.means[solid], gaussians.opacities[solid]
    gap = _gap(gaussians.select(solid))
    parts = connected_parts(means, gap)
    held = torch.zeros_like(opacities).index_add(0, parts, opacities)
    largest = parts == held.argmax()

    keep = torch.zeros_like(solid)
    keep[solid] = largest
    faint = gaussians.means[~solid].numpy()
    if len(faint):
        distances, _ = cKDTree(means[largest].numpy()).query(faint, distance_upper_bound=gap)
        keep[~solid] = torch.from_numpy(np.isfinite(distances))
    return keep


def _gap(gaussians: Gaussians) -> float:
    """Return how wide empty space must be to separate parts, world units."""
    size = GAP_SIGMAS * float(gaussians.scales.amax(-1).median())
    step = max(1, len(gaussians) // SPACING_SAMPLE)
    means = gaussians.means.numpy()
    if len(means) < 2:
        return max(size, 1e-30)

    spacing, _ = cKDTree(means).query(means[::step], k=2)
    return max(size, GAP_SPACINGS * float(np.quantile(spacing[:, 1], SPACING_QUANTILE)), 1e-30)
