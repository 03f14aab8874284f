"""The density of a scene of Gaussians at every sample of a grid.

The density at p is the sum of opacity * exp(-d^2 / 2) over the Gaussians, where d is the distance of
p from a Gaussian's centre in its own standard deviations, cut off at d = 3. Every Gaussian is first
blurred a little, so that none falls between the samples. On the CPU a compiled kernel visits the
voxels of each Gaussian, slab by slab of the grid; on a GPU torch evaluates block by block, only with
the Gaussians that reach the block. Memory is the grid itself and a bounded scratch.
"""

# Numba's decorators carry no types.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.mesh.grid import F32, F64, REACH, Grid
from vlm3d_gs.render.cpu.math import ceil_within, entry_options, floor_within, next_task
from vlm3d_gs.render.cpu.threads import run_tasks

SLABS = 64
"""Slices of the grid along x, the unit of work of a thread."""
BLOCK = 24
"""Side of torch's blocks, samples."""
MAX_PAIRS = 32_000_000
"""Gaussian-sample pairs that torch evaluates at once; 4 to 16 bytes each."""
THINNEST = 0.7
"""Standard deviation, in voxels, of the blur: samples would miss thinner Gaussians."""


def density_field(gaussians: Gaussians, grid: Grid) -> F32:
    """Return the density at every sample.

    Args:
        gaussians: N Gaussians on any device; CUDA uses torch, everything else the compiled kernel.
        grid: the samples.

    Returns:
        [X, Y, Z] on the host. On the CPU the same bytes with any number of threads.
    """
    if gaussians.device.type == "cuda":
        return density_blocks(gaussians, grid)
    rows = _rows(gaussians, grid.step).double().numpy()
    field = np.zeros(grid.shape, np.float32)
    run_tasks(add_gaussians, SLABS, rows, np.asarray(grid.origin), grid.step, field)
    return field


def density_blocks(gaussians: Gaussians, grid: Grid) -> F32:
    """Return what `density_field` returns, by torch in blocks, on the device of the Gaussians."""
    rows = _rows(gaussians, grid.step)
    field = np.zeros(grid.shape, np.float32)
    origin = rows.new_tensor(grid.origin)

    for x in range(0, grid.shape[0], BLOCK):
        for y in range(0, grid.shape[1], BLOCK):
            for z in range(0, grid.shape[2], BLOCK):
                start = (x, y, z)
                stop = tuple(min(a + BLOCK, n) for a, n in zip(start, grid.shape, strict=True))
                axes = [
                    origin[k] + grid.step * torch.arange(start[k], stop[k], device=rows.device)
                    for k in range(3)
                ]

                # Only Gaussians whose box of reach meets the block.
                low = torch.stack([axis[0] for axis in axes])
                high = torch.stack([axis[-1] for axis in axes])
                near = (rows[:, :3] + rows[:, 9:12] >= low) & (rows[:, :3] - rows[:, 9:12] <= high)
                nearby = rows[near.all(dim=-1)]

                if len(nearby):
                    block = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
                    field[block] = _block_density(nearby, axes).cpu().numpy()
    return field


def _block_density(rows: Tensor, axes: list[Tensor]) -> Tensor:
    """Return the density on the product of three axes."""
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    flat = points.reshape(-1, 3)
    total = flat.new_zeros(len(flat))
    chunk = max(1, MAX_PAIRS // len(flat))
    for several in rows.split(chunk):
        x, y, z = (flat[:, None, k] - several[None, :, k] for k in range(3))
        xx, yy, zz, xy, xz, yz = several[:, 3:9].unbind(-1)
        square = xx * x * x + yy * y * y + zz * z * z + 2.0 * (xy * x * y + xz * x * z + yz * y * z)
        weight = torch.where(square < REACH * REACH, torch.exp(-0.5 * square), 0.0)
        total += weight @ several[:, 12]
    return total.reshape(points.shape[:3])


def _rows(gaussians: Gaussians, step: float) -> Tensor:
    """Return the constants of each Gaussian's density, [N, 13].

    Centre, precision (xx, yy, zz, xy, xz, yz), reach along x, y and z, opacity.
    """
    scene = gaussians.detach().to(dtype=torch.float64)
    blur = torch.eye(3, dtype=torch.float64, device=scene.device) * (THINNEST * step) ** 2
    covariances = scene.covariances + blur
    precision = torch.linalg.inv(covariances)
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    mixed = precision[:, (0, 0, 1), (1, 2, 2)]
    reach = REACH * covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    columns = [scene.means, diagonal, mixed, reach, scene.opacities[:, None]]
    return torch.cat(columns, dim=-1).to(torch.float32)


@njit(**entry_options)
def add_gaussians(
    counter: NDArray[np.int64], tasks: int, rows: F64, origin: F64, step: float, field: F32
) -> None:
    """Add Gaussians to a field; each task owns one slab along x.

    Args:
        counter: [1], the next task.
        tasks: number of slabs.
        rows: [N, 13] as `_rows` makes them.
        origin: [3] of the grid.
        step: of the grid.
        field: [X, Y, Z], added to.
    """
    limit = REACH * REACH
    samples_y, samples_z = field.shape[1], field.shape[2]
    while True:
        task = next_task(counter)
        if task >= tasks:
            return
        first, last = task * field.shape[0] // tasks, (task + 1) * field.shape[0] // tasks

        for n in range(rows.shape[0]):
            # The voxels within reach, inside this slab.
            cx, cy, cz = rows[n, 0] - origin[0], rows[n, 1] - origin[1], rows[n, 2] - origin[2]
            i0 = ceil_within((cx - rows[n, 9]) / step, first, last)
            i1 = floor_within((cx + rows[n, 9]) / step, first - 1, last - 1) + 1
            j0 = ceil_within((cy - rows[n, 10]) / step, 0, samples_y)
            j1 = floor_within((cy + rows[n, 10]) / step, -1, samples_y - 1) + 1

            xx, yy, zz = rows[n, 3], rows[n, 4], rows[n, 5]
            xy, xz, yz = rows[n, 6], rows[n, 7], rows[n, 8]
            for i in range(i0, i1):
                x = i * step - cx
                for j in range(j0, j1):
                    y = j * step - cy
                    # Along z the square is zz z^2 + 2 b z + c, below the limit between its roots.
                    b = xz * x + yz * y
                    c = xx * x * x + yy * y * y + 2.0 * xy * x * y
                    root = b * b - zz * (c - limit)
                    if not root > 0.0:
                        continue

                    root = math.sqrt(root)
                    k0 = ceil_within((cz + (-b - root) / zz) / step, 0, samples_z)
                    k1 = floor_within((cz + (-b + root) / zz) / step, -1, samples_z - 1) + 1
                    for k in range(k0, k1):
                        z = k * step - cz
                        square = (zz * z + 2.0 * b) * z + c
                        field[i, j, k] += rows[n, 12] * math.exp(-0.5 * square)
