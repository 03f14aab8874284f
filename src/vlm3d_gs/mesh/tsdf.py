"""Truncated signed distance at every sample of a grid, fused from rendered depth of many views.

Each view measures how far a sample is in front of the surface that it shows there, in units of the
truncation range, clipped at 1. A sample more than that behind the surface is hidden, and the view
does not count. A view with nothing solid there sees the sample as free. The field is the negative
mean over the views (a truncated signed distance), and 1, inside, where no view counts.

On the CPU a compiled kernel fuses slab by slab, on a GPU torch does. Memory is the grid and one view.

Source: Curless and Levoy 1996 (volumetric fusion of range images).
"""

# Numba's decorators carry no types.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.mesh.bake import bake_cameras
from vlm3d_gs.mesh.grid import F32, F64, Grid
from vlm3d_gs.mesh.silhouettes import SOLID_ALPHA
from vlm3d_gs.render import Backend, render
from vlm3d_gs.render.cpu.math import entry_options, next_task
from vlm3d_gs.render.cpu.threads import run_tasks

SLABS = 64
"""Slices of the grid along x, the unit of work of a thread."""
RANGE_STEPS, RANGE_DEVIATIONS = 4.0, 3.5
"""Truncation range: at least this many voxels, and this many of the Gaussians' median standard
deviations, since the depth of soft splats varies by about as much from view to view."""
PIXELS_PER_STEP = 2.0
"""Size of the depth images: about this many pixels a voxel."""
SIZES_PX = (128, 1024)
"""Smallest and largest depth images."""


def distance_field(gaussians: Gaussians, grid: Grid, backend: Backend = "auto") -> F32:
    """Return the fused field at every sample.

    Args:
        gaussians: the scene, inside the unit ball.
        grid: the samples.
        backend: as in `render.render`.

    Returns:
        [X, Y, Z] in -1..1 on the host, positive inside.
    """
    # The image spans about 2.2 world units at the distance of the object.
    size_px = int(min(max(PIXELS_PER_STEP * 2.2 / grid.step, SIZES_PX[0]), SIZES_PX[1]))
    cameras = bake_cameras(size_px)

    deviation = float(gaussians.scales.amax(dim=-1).median())
    truncation = max(RANGE_STEPS * grid.step, RANGE_DEVIATIONS * deviation)
    if gaussians.device.type == "cuda":
        return fuse_torch(gaussians, grid, cameras, truncation, backend)

    total = np.zeros(grid.shape, np.float32)
    counts = np.zeros(grid.shape, np.uint16)
    for index in range(len(cameras)):
        view = cameras.select([index])
        depth = depth_image(gaussians, view, backend).numpy()

        project = (view.Ks[0].double() @ view.viewmats[0, :3].double()).numpy()
        origin = np.asarray(grid.origin)
        run_tasks(fuse, SLABS, depth, project, origin, grid.step, truncation, total, counts)
    return _mean(total, counts)


def fuse_torch(
    gaussians: Gaussians, grid: Grid, cameras: Cameras, truncation: float, backend: Backend = "auto"
) -> F32:
    """Return what `distance_field` returns, by torch plane by plane, on the device of the Gaussians."""
    device = gaussians.device
    x, y, z = (
        origin + grid.step * torch.arange(count, dtype=torch.float64)
        for origin, count in zip(grid.origin, grid.shape, strict=True)
    )
    depths = torch.stack(
        [depth_image(gaussians, cameras.select([i]), backend) for i in range(len(cameras))]
    )
    projections = cameras.Ks.double() @ cameras.viewmats[:, :3].double()
    plane = torch.stack(torch.meshgrid(y, z, indexing="ij"), dim=-1).to(device)

    field = np.empty(grid.shape, np.float32)
    for i, x_plane in enumerate(x.tolist()):
        total = torch.zeros(plane.shape[:2], dtype=torch.float32, device=device)
        counts = torch.zeros_like(total)

        for depth, project in zip(depths, projections.to(device), strict=True):
            image = plane @ project[:, 1:3].T + (project[:, 0] * x_plane + project[:, 3])
            column = torch.floor(image[..., 0] / image[..., 2]).long()
            row = torch.floor(image[..., 1] / image[..., 2]).long()
            inside = (column >= 0) & (row >= 0) & (column < depth.shape[1]) & (row < depth.shape[0])
            inside &= image[..., 2] > 0.0

            surface = depth[row.clamp(0, depth.shape[0] - 1), column.clamp(0, depth.shape[1] - 1)]
            distance = (surface - image[..., 2].float()) / truncation
            observed = inside & (distance >= -1.0)
            total += torch.where(observed, distance.clamp(max=1.0), 0.0)
            counts += observed

        mean = torch.where(counts > 0, -total / counts.clamp(min=1), 1.0)
        field[i] = mean.cpu().numpy()
    return field


def depth_image(gaussians: Gaussians, view: Cameras, backend: Backend) -> torch.Tensor:
    """Return the expected depth of one view, [H, W] float32, infinite where nothing is solid."""
    with torch.no_grad():
        rendering = render(gaussians, view.to(gaussians.device), backend=backend)
    solid = rendering.alpha[0, ..., 0] >= SOLID_ALPHA
    return torch.where(solid, rendering.depth[0, ..., 0], math.inf).float()


def _mean(total: F32, counts: NDArray[np.uint16]) -> F32:
    field = np.ones(total.shape, np.float32)
    np.divide(-total, counts, out=field, where=counts > 0)
    return field


@njit(**entry_options)
def fuse(
    counter: NDArray[np.int64],
    tasks: int,
    depth: F32,
    project: F64,
    origin: F64,
    step: float,
    truncation: float,
    total: F32,
    counts: NDArray[np.uint16],
) -> None:
    """Add the distances of one view to the totals; each task owns one slab along x.

    Args:
        counter: [1], the next task.
        tasks: number of slabs.
        depth: [H, W], infinite where nothing is solid.
        project: [3, 4] world to column * depth, row * depth, depth.
        origin: [3] of the grid.
        step: of the grid.
        truncation: truncation range, world units.
        total: [X, Y, Z], sum of the distances in front of the surface, in truncation ranges.
        counts: [X, Y, Z], views that counted.
    """
    height, width = depth.shape
    while True:
        task = next_task(counter)
        if task >= tasks:
            return

        for i in range(task * total.shape[0] // tasks, (task + 1) * total.shape[0] // tasks):
            x = origin[0] + i * step
            for j in range(total.shape[1]):
                y = origin[1] + j * step
                for k in range(total.shape[2]):
                    z = origin[2] + k * step
                    camera_z = (
                        project[2, 0] * x + project[2, 1] * y + project[2, 2] * z + project[2, 3]
                    )
                    if camera_z <= 0.0:
                        continue

                    across = project[0, 0] * x + project[0, 1] * y + project[0, 2] * z
                    down = project[1, 0] * x + project[1, 1] * y + project[1, 2] * z
                    column = (across + project[0, 3]) / camera_z
                    row = (down + project[1, 3]) / camera_z
                    if not (0.0 <= column < width and 0.0 <= row < height):  # nor NaN
                        continue

                    distance = (depth[int(row), int(column)] - camera_z) / truncation
                    if distance >= -1.0:
                        total[i, j, k] += min(distance, 1.0)
                        counts[i, j, k] += 1
