"""The level of a field whose surface has silhouettes most like those of the splat's renders.

A ray meets the surface at level t exactly if the largest value along it is at least t. So one image
of largest values per view holds the silhouettes of all levels, and the best level needs no search.
"""

# Numba's decorators carry no types.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.mesh.grid import F32, F64, Grid
from vlm3d_gs.render import Backend, render
from vlm3d_gs.render.cpu.math import entry_options, kernel_options, next_task
from vlm3d_gs.render.cpu.threads import run_tasks

Mask = NDArray[np.bool_]

PIXELS_PER_VOXEL, SIZES_PX = 1.0, (96, 384)
"""Size of the images: the renderer dilates everything by half a pixel, which must stay below a voxel."""
DISTANCE, FOV_DEG = 3.1, 40.0
"""The unit ball just fills the image."""
SOLID_ALPHA = 0.5
"""From this opacity on a pixel belongs to the object."""
LEVELS = 512
"""Candidate levels, at evenly spaced quantiles of the values."""
STRIDE = 0.5
"""Distance between samples of a ray, voxels."""
EDGE = 1.000001
"""Just above 1, so that the voxel at the far end of an axis has a next sample."""


@dataclass(frozen=True)
class LevelFit:
    """A level, and how well its silhouettes match."""

    level: float
    """Value of the field at the surface."""
    iou: float
    """Intersection over union with the silhouettes of the renders, all views together, 0 to 1."""


def fit_cameras(size_px: int) -> Cameras:
    """Return 20 cameras all around the scene, above and below too."""
    views = [(azimuth, 15.0) for azimuth in range(0, 360, 45)]
    views += [(azimuth, -20.0) for azimuth in range(22, 382, 90)]
    views += [(azimuth, 50.0) for azimuth in range(22, 382, 90)]
    views += [(0, 85.0), (90, 70.0), (0, -85.0), (90, -60.0)]
    azimuths, elevations = zip(*views, strict=True)
    return orbit(list(azimuths), list(elevations), DISTANCE, FOV_DEG, size_px, size_px)


def image_size(resolution: int) -> int:
    """Return the size of the images that the level of a grid is fitted on, pixels."""
    return int(min(max(PIXELS_PER_VOXEL * resolution, SIZES_PX[0]), SIZES_PX[1]))


def silhouettes(gaussians: Gaussians, cameras: Cameras, backend: Backend = "auto") -> Mask:
    """Return which pixels belong to the object, [C, H, W] on the host."""
    with torch.no_grad():
        rendering = render(gaussians, cameras.to(gaussians.device), backend=backend)
    return (rendering.alpha[..., 0] >= SOLID_ALPHA).cpu().numpy()


def fit_level(field: F32, grid: Grid, cameras: Cameras, masks: Mask) -> LevelFit:
    """Return the level whose surface has silhouettes most like the target's.

    Args:
        field: [X, Y, Z], large inside.
        grid: where its samples are.
        cameras: C cameras.
        masks: [C, H, W] the target silhouettes.

    Raises:
        ExportError: the masks are empty, so nothing in the renders is solid.
    """
    if not masks.any():
        raise ExportError(
            "There is no mesh to make: the scene is so transparent that no view shows anything solid."
        )

    peaks = ray_maxima(field, grid, cameras)
    values = np.sort(peaks[masks])
    levels = np.unique(values[np.linspace(0, len(values) - 1, LEVELS).astype(int)])

    # Pixels above each level: within the masks the intersection, over all pixels the silhouette.
    inside = len(values) - np.searchsorted(values, levels, side="left")
    ordered = np.sort(peaks.reshape(-1))
    above = len(ordered) - np.searchsorted(ordered, levels, side="left")
    ious = inside / (len(values) + above - inside)
    best = int(np.argmax(ious))
    return LevelFit(float(levels[best]), float(ious[best]))


def ray_maxima(field: F32, grid: Grid, cameras: Cameras) -> F32:
    """Return the largest value of a field along the ray through each pixel's centre, [C, H, W].

    Interpolated trilinearly; the field's smallest value where a ray misses the grid.
    """
    count = len(cameras)
    rotations = cameras.viewmats[:, :3, :3].double().cpu().numpy()
    positions = cameras.positions.double().cpu().numpy()
    inverse = np.linalg.inv(cameras.Ks.double().cpu().numpy())
    directions = np.ascontiguousarray(np.swapaxes(rotations, 1, 2) @ inverse)
    starts = (positions - np.asarray(grid.origin)) / grid.step
    peaks = np.full((count, cameras.height, cameras.width), field.min(), np.float32)
    run_tasks(march, count * cameras.height, field, starts, directions, peaks)
    return peaks


@njit(**kernel_options)
def clip_to_grid(
    field: F32, start: tuple[float, float, float], direction: tuple[float, float, float]
) -> tuple[float, float]:
    """Return the distances at which a ray enters and leaves a grid; it misses if far is not above near."""
    near, far = 0.0, 1e9
    for axis in range(3):
        top = field.shape[axis] - EDGE
        d, o = direction[axis], start[axis]
        if abs(d) < 1e-12:
            if o < 0.0 or o > top:
                far = -1.0
            continue
        first, last = -o / d, (top - o) / d
        if math.isnan(first) or math.isnan(last):
            return 0.0, -1.0
        near, far = max(near, min(first, last)), min(far, max(first, last))

    # No ray is longer inside; without this a ray of length 0, from numbers too large to square, would never leave.
    return near, min(far, near + field.shape[0] + field.shape[1] + field.shape[2])


@njit(**kernel_options)
def interpolate(field: F32, x: float, y: float, z: float) -> float:
    """Return a field between its samples, trilinearly."""
    i, j, k = int(x), int(y), int(z)
    a, b, c = x - i, y - j, z - k
    low = (field[i, j, k] * (1 - c) + field[i, j, k + 1] * c) * (1 - b)
    low += (field[i, j + 1, k] * (1 - c) + field[i, j + 1, k + 1] * c) * b
    high = (field[i + 1, j, k] * (1 - c) + field[i + 1, j, k + 1] * c) * (1 - b)
    high += (field[i + 1, j + 1, k] * (1 - c) + field[i + 1, j + 1, k + 1] * c) * b
    return low * (1 - a) + high * a


@njit(**entry_options)
def march(
    counter: NDArray[np.int64], tasks: int, field: F32, starts: F64, rays: F64, peaks: F32
) -> None:
    """Write the largest value along each ray; one task is one row of one view.

    Args:
        counter: [1], the next task.
        tasks: C * H.
        field: [X, Y, Z].
        starts: [C, 3] camera centres, in voxels from sample 0.
        rays: [C, 3, 3] from pixel coordinates to ray directions in the world.
        peaks: [C, H, W], raised where a ray meets a larger value.
    """
    height, width = peaks.shape[1], peaks.shape[2]
    while True:
        task = next_task(counter)
        if task >= tasks:
            return

        view, row = task // height, task % height
        start = (starts[view, 0], starts[view, 1], starts[view, 2])
        ray = rays[view]
        for col in range(width):
            u, v = col + 0.5, row + 0.5
            dx = ray[0, 0] * u + ray[0, 1] * v + ray[0, 2]
            dy = ray[1, 0] * u + ray[1, 1] * v + ray[1, 2]
            dz = ray[2, 0] * u + ray[2, 1] * v + ray[2, 2]
            norm = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
            direction = (dx * norm, dy * norm, dz * norm)

            best = peaks[view, row, col]
            t, far = clip_to_grid(field, start, direction)
            while t < far:
                # Rounding may leave the grid by a hair at either end. The limit comes first: for NaN,
                # max and min return what they are given first.
                x = min(field.shape[0] - EDGE, max(0.0, start[0] + t * direction[0]))
                y = min(field.shape[1] - EDGE, max(0.0, start[1] + t * direction[1]))
                z = min(field.shape[2] - EDGE, max(0.0, start[2] + t * direction[2]))
                best = max(best, interpolate(field, x, y, z))
                t += STRIDE
            peaks[view, row, col] = best
