"""Projection of the CPU rasteriser: covariance, perspective and spherical harmonics.

Letters: C views, N Gaussians. A Gaussian's factor L = R diag(scale) has the covariance L L^T; its
image in a view is M = J W L (two rows r1, r2), with covariance

    [a b; b c] = M M^T + dilation.

A shape [8] holds slant = b / c, 1 / sqrt(a - b^2 / c), 1 / sqrt(c), opacity, red, green, blue,
depth. The second entry is computed from |r1 x r2|^2, which equals the undilated determinant:
nothing cancels, however thin the ellipse. The opacity of antialiased scenes is that of the Gaussian
times the root of the determinants' ratio, without and with dilation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from vlm3d_gs.render import conventions
from vlm3d_gs.render.cpu.harmonics import harmonic_color
from vlm3d_gs.render.cpu.math import (
    LARGEST_SQUARE,
    ONE,
    TWO,
    ZERO,
    entry_options,
    exact_options,
    kernel_options,
    next_task,
)

CAMERA_COLUMNS = 24
"""A camera's row: rotation (9), translation (3), fx, fy, cx, cy, limits of x/z (2) and y/z (2), position (3), spare."""
GAUSSIANS_PER_TASK = 512

_DILATION, _NEAR = np.float32(conventions.DILATION_PX2), np.float32(conventions.NEAR)
_FLOOR = np.float32(conventions.ALPHA_FLOOR)
_LARGEST_VARIANCE = np.float32(1e30)
_LARGEST = np.float32(1e35)
"""Of depths and colours; room is left for a focal length in pixels, and for sums over a tile."""
_ZERO_NORM_SQ = np.float32(1e-24)


@njit(**kernel_options)
def unit_quat(quat: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Return w, x, y, z of norm 1 and the norm; the identity and norm 0 for a zero quaternion."""
    w, x, y, z = quat[0], quat[1], quat[2], quat[3]
    norm_sq = w * w + x * x + y * y + z * z
    if norm_sq < _ZERO_NORM_SQ:
        return ONE, ZERO, ZERO, ZERO, ZERO
    if not norm_sq < LARGEST_SQUARE:
        return unit_large_quat(w, x, y, z)
    norm = math.sqrt(norm_sq)
    return w / norm, x / norm, y / norm, z / norm, norm


@njit(**exact_options)
def unit_large_quat(w: Any, x: Any, y: Any, z: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Do the work of `unit_quat` where squares would overflow."""
    largest = max(abs(w), abs(x), abs(y), abs(z))
    w, x, y, z = w / largest, x / largest, y / largest, z / largest
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    return w / norm, x / norm, y / norm, z / norm, largest * norm


@njit(**kernel_options)
def write_factor(quat: Any, log_scale: Any, factor: Any) -> None:
    """Write L = R diag(scale) [9], row by row."""
    w, x, y, z, _ = unit_quat(quat)
    s0, s1, s2 = math.exp(log_scale[0]), math.exp(log_scale[1]), math.exp(log_scale[2])
    factor[0] = (ONE - TWO * (y * y + z * z)) * s0
    factor[1] = TWO * (x * y - w * z) * s1
    factor[2] = TWO * (x * z + w * y) * s2
    factor[3] = TWO * (x * y + w * z) * s0
    factor[4] = (ONE - TWO * (x * x + z * z)) * s1
    factor[5] = TWO * (y * z - w * x) * s2
    factor[6] = TWO * (x * z - w * y) * s0
    factor[7] = TWO * (y * z + w * x) * s1
    factor[8] = (ONE - TWO * (x * x + y * y)) * s2


@njit(**kernel_options)
def to_view(camera: Any, mean: Any) -> tuple[Any, Any, Any]:
    """Return a point in camera axes."""
    x = camera[0] * mean[0] + camera[1] * mean[1] + camera[2] * mean[2] + camera[9]
    y = camera[3] * mean[0] + camera[4] * mean[1] + camera[5] * mean[2] + camera[10]
    z = camera[6] * mean[0] + camera[7] * mean[1] + camera[8] * mean[2] + camera[11]
    return x, y, z


@njit(**kernel_options)
def image_rows(camera: Any, point: tuple[Any, Any, Any], factor: Any, rows: Any) -> None:
    """Write the Jacobian times the rotation [0:6], and that times the factor, the rows r1 and r2 [6:12]."""
    x, y, z = point
    inv_z = ONE / z
    tan_x = min(max(x * inv_z, camera[16]), camera[17])
    tan_y = min(max(y * inv_z, camera[18]), camera[19])
    fx, fy = camera[12] * inv_z, camera[13] * inv_z
    for j in range(3):
        rows[j] = fx * (camera[j] - tan_x * camera[6 + j])
        rows[3 + j] = fy * (camera[3 + j] - tan_y * camera[6 + j])
    for j in range(3):
        rows[6 + j] = rows[0] * factor[j] + rows[1] * factor[3 + j] + rows[2] * factor[6 + j]
        rows[9 + j] = rows[3] * factor[j] + rows[4] * factor[3 + j] + rows[5] * factor[6 + j]


@njit(**kernel_options)
def second_moments(rows: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Return a, b, c of the dilated 2D covariance and r1 x r2, from the rows r1 and r2 at [6:12]."""
    x1, y1, z1, x2, y2, z2 = rows[6], rows[7], rows[8], rows[9], rows[10], rows[11]
    a = x1 * x1 + y1 * y1 + z1 * z1 + _DILATION
    b = x1 * x2 + y1 * y2 + z1 * z2
    c = x2 * x2 + y2 * y2 + z2 * z2 + _DILATION
    return a, b, c, y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2


@njit(**exact_options)
def large_variance(a: Any, c: Any, d0: Any, d1: Any, d2: Any) -> Any:
    """Return a - b^2 / c where |r1 x r2|^2 overflows; a and c are so large that their dilation is nothing."""
    return d0 * (d0 / c) + d1 * (d1 / c) + d2 * (d2 / c) + _DILATION * (a / c + ONE)


@njit(**exact_options)
def compensation(a: Any, c: Any, d0: Any, d1: Any, d2: Any) -> Any:
    """Return the root of the determinants' ratio, without and with dilation; a and c are dilated."""
    norm_sq = d0 * d0 + d1 * d1 + d2 * d2
    if not norm_sq < LARGEST_SQUARE:
        return ONE  # the dilation is nothing to such an ellipse
    rest = (a - _DILATION) + c
    return math.sqrt((norm_sq / c) / (norm_sq / c + _DILATION * (rest / c)))


@njit(**kernel_options)
def project_run(
    run: tuple[int, int],
    parameters: Any,
    cameras: Any,
    sizes: tuple[int, ...],
    scratch: tuple[Any, Any, Any],
    means2d: Any,
    shapes: Any,
    radii: Any,
) -> None:
    """Project the Gaussians run[0] to run[1] - 1 into all views; arguments as for `project_forward`."""
    means, log_scales, quats, opacity_logits, sh = parameters
    factor, rows, basis = scratch
    width, height, degree = np.float32(sizes[0]), np.float32(sizes[1]), sizes[2]
    for n in range(run[0], run[1]):
        # Fainter than the floor at its centre: no pixel can see it.
        # This and all tests below are written so that NaN fails them.
        opacity = ONE / (ONE + math.exp(-opacity_logits[n]))
        if not opacity > _FLOOR:
            continue
        full_extent = math.sqrt(TWO * math.log(opacity / _FLOOR))
        write_factor(quats[n], log_scales[n], factor)

        for view in range(len(cameras)):
            camera = cameras[view]
            x, y, z = to_view(camera, means[n])
            if not _NEAR <= z < _LARGEST:
                continue

            image_rows(camera, (x, y, z), factor, rows)
            a, b, c, d0, d1, d2 = second_moments(rows)
            if not (a < _LARGEST_VARIANCE and c < _LARGEST_VARIANCE):
                continue

            covered, extent = opacity, full_extent
            if len(sizes) == 4:  # a constant for the compiler
                covered = opacity * compensation(a, c, d0, d1, d2)
                if not covered > _FLOOR:
                    continue
                extent = math.sqrt(TWO * math.log(covered / _FLOOR))

            # Skip what lies wholly outside the picture.
            u, v = camera[12] * x / z + camera[14], camera[13] * y / z + camera[15]
            reach_x, reach_y = extent * math.sqrt(a), extent * math.sqrt(c)
            if not (u + reach_x > ZERO and u - reach_x < width):
                continue
            if not (v + reach_y > ZERO and v - reach_y < height):
                continue

            shape = shapes[view, n]
            harmonic_color(sh[n], means[n], camera[20:23], degree, basis, shape[4:7])
            if not (shape[4] < _LARGEST and shape[5] < _LARGEST and shape[6] < _LARGEST):
                shape[4:7] = ZERO
                continue

            # determinant = |r1 x r2|^2 + dilation * rest
            rest = (a - _DILATION) + (c - _DILATION) + _DILATION
            shape[0] = b / c
            shape[1] = ONE / math.sqrt((d0 * d0 + d1 * d1 + d2 * d2) / c + _DILATION * (rest / c))
            if not shape[1] > ZERO:
                shape[1] = ONE / math.sqrt(large_variance(a, c, d0, d1, d2))
            shape[2] = ONE / math.sqrt(c)
            shape[3] = covered
            shape[7] = z

            means2d[view, n, 0], means2d[view, n, 1] = u, v
            radii[view, n] = max(reach_x, reach_y)


def _project_forward(
    counter: Any,
    tasks: int,
    means: Any,
    log_scales: Any,
    quats: Any,
    opacity_logits: Any,
    sh: Any,
    cameras: Any,
    sizes: Any,
    means2d: Any,
    shapes: Any,
    radii: Any,
) -> None:
    """Project all Gaussians into all views; one task per run of Gaussians.

    Args:
        counter: shared task counter, starts at 0.
        tasks: N / 512, rounded up.
        means: [N, 3].
        log_scales: [N, 3].
        quats: [N, 4].
        opacity_logits: [N].
        sh: [N, K, 3].
        cameras: [C, 24].
        sizes: picture width, height, the spherical-harmonics degree, and for an antialiased scene a fourth number.
        means2d: [C, N, 2] zeros, written where seen.
        shapes: [C, N, 8] zeros, written where seen.
        radii: [C, N] zeros, written where seen.
    """
    scratch = (np.empty(9, np.float32), np.empty(12, np.float32), np.empty((4, 16), np.float32))

    task = next_task(counter)
    while task < tasks:
        first = task * GAUSSIANS_PER_TASK
        project_run(
            (first, min(first + GAUSSIANS_PER_TASK, len(means))),
            (means, log_scales, quats, opacity_logits, sh),
            cameras,
            sizes,
            scratch,
            means2d,
            shapes,
            radii,
        )
        task = next_task(counter)


project_forward = njit(
    "void(int64[::1], int64, float32[:,::1], float32[:,::1], float32[:,::1], float32[::1], float32[:,:,::1],"
    " float32[:,::1], UniTuple(int64, 3), float32[:,:,::1], float32[:,:,::1], float32[:,::1])",
    **entry_options,
)(_project_forward)
project_forward_antialiased = njit(**entry_options)(_project_forward)
"""The same with the filter, compiled when first called: few scenes need it, and no other may lose speed or a bit."""
