"""The voxel grid: the scene normalised into the unit ball, and the box around its visible part.

Letters: X, Y, Z samples along the axes of a grid; N Gaussians. Values are given at the samples;
sample (i, j, k) is at origin + step * (i, j, k).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.gaussians import Gaussians, validate

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

VISIBLE_OPACITY = 0.02
"""Fainter Gaussians do not count when the object is located."""
FAR_QUANTILE, FAR_FACTOR = 0.99, 2.0
"""Gaussians beyond this multiple of the radius that holds this share of them are dropped."""
REACH = 3.0
"""Standard deviations at which a Gaussian is cut off."""
MARGIN = 2
"""Empty samples around the box, so that every surface is closed."""


@dataclass(frozen=True, slots=True)
class Normalization:
    """How a scene was normalised into the unit ball: p' = (p - center) / radius."""

    center: tuple[float, float, float]
    """In the scene's own coordinates."""
    radius: float
    """World units."""

    def denormalize(self, points: F64) -> F64:
        """Return points of the unit ball in the scene's own coordinates, [..., 3] both."""
        return points * self.radius + np.asarray(self.center)


@dataclass(frozen=True, slots=True)
class Grid:
    """Samples on a regular lattice."""

    origin: tuple[float, float, float]
    """Position of sample (0, 0, 0)."""
    step: float
    """Distance between neighbours, the same along all axes."""
    shape: tuple[int, int, int]
    """X, Y, Z."""


def normalize(gaussians: Gaussians) -> tuple[Gaussians, Normalization]:
    """Return the visible part of a scene, moved and scaled into the unit ball.

    Stray Gaussians are dropped: those farther from the median than twice the radius that holds 99 %
    of the visible Gaussians.

    Args:
        gaussians: any scene, at any position and scale.

    Returns:
        The normalised Gaussians, detached, and how they were normalised.

    Raises:
        ExportError: the scene is empty or nothing of it is visible.
        ConfigError: a parameter is NaN or infinite.
    """
    if len(gaussians) == 0:
        raise ExportError("There is no mesh to make: the scene has no Gaussians.")
    validate(gaussians)

    scene = gaussians.detach()
    scene = scene.select(scene.opacities >= VISIBLE_OPACITY)
    if len(scene) == 0:
        raise ExportError(
            f"There is no mesh to make: all {len(gaussians)} Gaussians are transparent "
            f"(opacity below {VISIBLE_OPACITY})."
        )

    median = scene.means.median(dim=0).values
    distances = (scene.means - median).norm(dim=-1)
    near = distances.sort().values[math.ceil(FAR_QUANTILE * (len(scene) - 1))]
    scene = scene.select(distances <= FAR_FACTOR * near + 1e-9)

    reach = REACH * _deviations(scene)
    low = (scene.means - reach).amin(dim=0)
    high = (scene.means + reach).amax(dim=0)
    center = 0.5 * (low + high)
    radius = float(((scene.means - center).norm(dim=-1) + reach.amax(dim=-1)).max())

    moved = {
        "means": (scene.means - center) / radius,
        "log_scales": scene.log_scales - scene.means.new_tensor(radius).log(),
    }
    normalized = scene.changed(moved)
    x, y, z = center.tolist()
    return normalized, Normalization((x, y, z), radius)


def grid_over(low: F64, high: F64, resolution: int) -> Grid:
    """Return a grid over a box, with `MARGIN` more samples on every side.

    Args:
        low: [3] corner of the box.
        high: [3] the other corner, larger in at least one coordinate.
        resolution: voxels along the box's longest side.
    """
    size = np.asarray(high, np.float64) - np.asarray(low, np.float64)
    step = float(size.max()) / resolution
    counts = np.ceil(size / step - 1e-9).astype(int) + 1
    start = np.asarray(low, np.float64) - MARGIN * step
    x, y, z = (int(count) + 2 * MARGIN for count in counts)
    return Grid((float(start[0]), float(start[1]), float(start[2])), step, (x, y, z))


def bounds_of(field: F32, grid: Grid, level: float) -> tuple[F64, F64]:
    """Return the bounding box of the samples at or above a level, enlarged by one voxel.

    Raises:
        ExportError: there are none.
    """
    occupied = field >= level
    corners = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hits = np.flatnonzero(occupied.any(axis=others))
        if len(hits) == 0:
            raise ExportError(
                "There is no mesh to make: the scene is nowhere dense enough to have a surface."
            )
        corners.append((hits[0] - 1, hits[-1] + 1))
    origin = np.asarray(grid.origin)
    low, high = np.array(corners, np.float64).T
    return origin + grid.step * low, origin + grid.step * high


def _deviations(gaussians: Gaussians) -> torch.Tensor:
    """Return the standard deviations along the world's axes, [N, 3]."""
    return gaussians.covariances.diagonal(dim1=-2, dim2=-1).sqrt()
