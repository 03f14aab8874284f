"""Derivative of the CPU rasteriser's projection. Letters and the entries of a shape are those of `project`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from vlm3d_gs.render import conventions
from vlm3d_gs.render.cpu.harmonics import harmonic_color_gradient
from vlm3d_gs.render.cpu.math import (
    HALF,
    LARGEST_SQUARE,
    ONE,
    TWO,
    ZERO,
    entry_options,
    exact_options,
    kernel_options,
    next_task,
)
from vlm3d_gs.render.cpu.project import (
    GAUSSIANS_PER_TASK,
    image_rows,
    second_moments,
    to_view,
    unit_quat,
    write_factor,
)

_DILATION = np.float32(conventions.DILATION_PX2)
_LARGE_INVERSE = np.float32(1e-6)
"""Of an ellipse a million pixels wide, 1/px: to the fifth power, times a slope, it nears the least float32."""


@njit(**kernel_options)
def compensation_slopes(
    d_compensation: Any, factor: Any, rest: Any, inv_det_root: Any, norm_sq: Any
) -> tuple[Any, Any]:
    """Return dL/d|cross| / |cross| and dL/drest of `project.compensation`.

    Args:
        d_compensation: dL/d of it.
        factor: its value, |cross| / sqrt(|cross|^2 + dilation * rest).
        rest: the undilated variances' sum and the dilation.
        inv_det_root: 1 / sqrt(|cross|^2 + dilation * rest).
        norm_sq: |cross|^2.
    """
    if not ZERO < norm_sq < LARGEST_SQUARE:
        return ZERO, ZERO
    small = _DILATION * d_compensation * inv_det_root
    along = small * (rest * inv_det_root) * inv_det_root / math.sqrt(norm_sq)
    return along, -HALF * small * inv_det_root * factor


@njit(**exact_options)
def large_rows_gradient(
    rows: Any, shape: Any, d_shape: Any, d_compensation: Any, d_rows: Any
) -> None:
    """Do the work of `rows_gradient` for large ellipses, by factors none of which underflows.

    Rows and their cross product are divided by the ellipse's widths before they are multiplied by
    anything small. Right up to 1e11 px; beyond, where the slopes themselves end in the least
    float32, the result falls to zero. Arguments as for `rows_gradient`.
    """
    a, _, c, d0, d1, d2 = second_moments(rows)
    slant, inv_u, inv_v = shape[0], shape[1], shape[2]
    x1, y1, z1 = rows[6] * inv_v, rows[7] * inv_v, rows[8] * inv_v
    x2, y2, z2 = rows[9] * inv_v, rows[10] * inv_v, rows[11] * inv_v

    # The cross product in units of the ellipse's area, and dL/d(r1 x r2) for the rows above.
    c0, c1, c2 = d0 * inv_v * inv_u, d1 * inv_v * inv_u, d2 * inv_v * inv_u
    slope = -inv_u * inv_u * d_shape[1]
    along1 = slope * (_DILATION * inv_u * inv_v)
    norm_sq = c0 * c0 + c1 * c1 + c2 * c2
    if d_compensation[1] != ZERO and norm_sq > ZERO:
        # as in compensation_slopes; 1 / sqrt(determinant) = inv_u inv_v
        small = _DILATION * d_compensation[1] * inv_u * inv_v * inv_u
        slope += small * (((a - _DILATION) + c) * inv_v * inv_u) / math.sqrt(norm_sq)
        along1 -= small * d_compensation[0]
    e0, e1, e2 = slope * c0, slope * c1, slope * c2

    d_b = d_shape[0] * inv_v
    along2 = along1 + inv_v * (inv_u * d_shape[1] - TWO * slant * d_shape[0] - inv_v * d_shape[2])
    d_rows[0] = d_b * x2 + along1 * x1 + (y2 * e2 - z2 * e1)
    d_rows[1] = d_b * y2 + along1 * y1 + (z2 * e0 - x2 * e2)
    d_rows[2] = d_b * z2 + along1 * z1 + (x2 * e1 - y2 * e0)
    d_rows[3] = d_b * x1 + along2 * x2 + (e1 * z1 - e2 * y1)
    d_rows[4] = d_b * y1 + along2 * y2 + (e2 * x1 - e0 * z1)
    d_rows[5] = d_b * z1 + along2 * z2 + (e0 * y1 - e1 * x1)


@njit(**kernel_options)
def rows_gradient(rows: Any, shape: Any, d_shape: Any, d_compensation: Any, d_rows: Any) -> None:
    """Write dL/d(r1, r2) [6] from the gradients of a shape's first three entries and of the opacity's factor.

    Args:
        rows: [12] as `image_rows` writes them.
        shape: [8] as written by the forward pass.
        d_shape: [8] dL/d of it.
        d_compensation: the factor, and dL/d of it; 1 and 0 where there is none.
        d_rows: [6], written.
    """
    a, _, c, d0, d1, d2 = second_moments(rows)
    slant, inv_u, inv_v = shape[0], shape[1], shape[2]

    # inv_u = variance^-1/2 with variance = (|cross|^2 + dilation * rest) / c
    d_variance = -HALF * inv_u * inv_u * inv_u * d_shape[1]
    d_b = d_shape[0] / c
    d_rest = _DILATION / c * d_variance
    # at fixed cross and rest, variance falls with c by variance / c
    d_c = (
        -(slant * d_shape[0] + d_variance / (inv_u * inv_u)) / c
        - HALF * inv_v * inv_v * inv_v * d_shape[2]
    )

    # d|cross|^2 = 2 cross . d(r1 x r2)
    scale = TWO * d_variance / c
    if d_compensation[1] != ZERO:
        rest, norm_sq = (a - _DILATION) + c, d0 * d0 + d1 * d1 + d2 * d2
        along, more = compensation_slopes(
            d_compensation[1], d_compensation[0], rest, inv_u * inv_v, norm_sq
        )
        scale, d_rest = scale + along, d_rest + more
    d0, d1, d2 = d0 * scale, d1 * scale, d2 * scale

    x1, y1, z1, x2, y2, z2 = rows[6], rows[7], rows[8], rows[9], rows[10], rows[11]
    along1, along2 = TWO * d_rest, TWO * (d_rest + d_c)
    d_rows[0] = d_b * x2 + along1 * x1 + (y2 * d2 - z2 * d1)
    d_rows[1] = d_b * y2 + along1 * y1 + (z2 * d0 - x2 * d2)
    d_rows[2] = d_b * z2 + along1 * z1 + (x2 * d1 - y2 * d0)
    d_rows[3] = d_b * x1 + along2 * x2 + (d1 * z1 - d2 * y1)
    d_rows[4] = d_b * y1 + along2 * y2 + (d2 * x1 - d0 * z1)
    d_rows[5] = d_b * z1 + along2 * z2 + (d0 * y1 - d1 * x1)


@njit(**kernel_options)
def point_gradient(
    camera: Any,
    point: tuple[Any, Any, Any],
    d_jacobian: tuple[Any, Any, Any, Any],
    d_mean2d: Any,
    d_depth: Any,
) -> tuple[Any, Any, Any]:
    """Return dL/d(point in camera axes).

    Args:
        camera: row of the camera.
        point: x, y, z in camera axes.
        d_jacobian: dL/d of the entries fx/z, -fx tan_x/z, fy/z, -fy tan_y/z.
        d_mean2d: [2] dL/d of the projected centre.
        d_depth: dL/d of the depth.
    """
    x, y, z = point
    fx, fy, inv_z = camera[12], camera[13], ONE / z
    d_xx, d_xz, d_yy, d_yz = d_jacobian
    raw_x, raw_y = x * inv_z, y * inv_z
    tan_x, tan_y = min(max(raw_x, camera[16]), camera[17]), min(max(raw_y, camera[18]), camera[19])

    # A clamped tangent has no gradient of its own.
    d_inv_z = fx * (d_xx - tan_x * d_xz) + fy * (d_yy - tan_y * d_yz)
    d_tan_x = fx * d_mean2d[0]
    d_tan_y = fy * d_mean2d[1]
    if camera[16] <= raw_x <= camera[17]:
        d_tan_x -= fx * inv_z * d_xz
    if camera[18] <= raw_y <= camera[19]:
        d_tan_y -= fy * inv_z * d_yz

    d_inv_z += d_tan_x * x + d_tan_y * y
    return d_tan_x * inv_z, d_tan_y * inv_z, d_depth - inv_z * inv_z * d_inv_z


@njit(**kernel_options)
def factor_gradient(
    quat: Any, factor: Any, d_factor: Any, log_scale: Any, d_quat: Any, d_log_scale: Any
) -> None:
    """Write dL/dquat [4] and dL/dlog_scale [3] from dL/dL."""
    w, x, y, z, norm = unit_quat(quat)
    for j in range(3):
        d_log_scale[j] = (
            d_factor[j] * factor[j]
            + d_factor[3 + j] * factor[3 + j]
            + d_factor[6 + j] * factor[6 + j]
        )

    # dL/dR, and from it the gradient of the unit quaternion
    s0, s1, s2 = math.exp(log_scale[0]), math.exp(log_scale[1]), math.exp(log_scale[2])
    r00, r01, r02 = d_factor[0] * s0, d_factor[1] * s1, d_factor[2] * s2
    r10, r11, r12 = d_factor[3] * s0, d_factor[4] * s1, d_factor[5] * s2
    r20, r21, r22 = d_factor[6] * s0, d_factor[7] * s1, d_factor[8] * s2
    dw = TWO * (z * (r10 - r01) + y * (r02 - r20) + x * (r21 - r12))
    dx = TWO * (y * (r01 + r10) + z * (r02 + r20) + w * (r21 - r12) - TWO * x * (r11 + r22))
    dy = TWO * (x * (r01 + r10) + z * (r12 + r21) + w * (r02 - r20) - TWO * y * (r00 + r22))
    dz = TWO * (x * (r02 + r20) + y * (r12 + r21) + w * (r10 - r01) - TWO * z * (r00 + r11))
    if norm == ZERO:
        d_quat[:] = ZERO
        return

    # through the normalisation
    along = w * dw + x * dx + y * dy + z * dz
    d_quat[0], d_quat[1] = (dw - w * along) / norm, (dx - x * along) / norm
    d_quat[2], d_quat[3] = (dy - y * along) / norm, (dz - z * along) / norm


@njit(**kernel_options)
def add_view(
    camera: Any,
    gaussian: tuple[Any, Any],
    shape: Any,
    slopes: tuple[Any, Any, Any],
    scratch: tuple[Any, Any],
    d_factor: Any,
    d_mean: Any,
) -> None:
    """Add one view's part of dL/dL [9] and dL/dmean [3].

    Args:
        camera: row of the camera.
        gaussian: its centre [3] and its factor L [9].
        shape: [8] as written by the forward pass.
        slopes: dL/d of the projected centre [2] and of the shape [8]; the opacity's factor and dL/d of it.
        scratch: [12] and [6].
        d_factor: added to.
        d_mean: added to.
    """
    mean, factor = gaussian
    d_mean2d, d_shape, d_compensation = slopes
    rows, d_rows = scratch
    x, y, z = to_view(camera, mean)
    image_rows(camera, (x, y, z), factor, rows)
    rows_gradient(rows, shape, d_shape, d_compensation, d_rows)
    if min(shape[1], shape[2]) < _LARGE_INVERSE:
        large_rows_gradient(rows, shape, d_shape, d_compensation, d_rows)

    # M = A L with A = J W: dA = dM L^T, dL += A^T dM, dJ = dA W^T
    d_xx, d_xz, d_yy, d_yz = ZERO, ZERO, ZERO, ZERO
    for j in range(3):
        d_a0, d_a1 = ZERO, ZERO
        for k in range(3):
            d_a0 += d_rows[k] * factor[3 * j + k]
            d_a1 += d_rows[3 + k] * factor[3 * j + k]
            d_factor[3 * j + k] += rows[j] * d_rows[k] + rows[3 + j] * d_rows[3 + k]
        d_xx += d_a0 * camera[j]
        d_xz += d_a0 * camera[6 + j]
        d_yy += d_a1 * camera[3 + j]
        d_yz += d_a1 * camera[6 + j]

    px, py, pz = point_gradient(camera, (x, y, z), (d_xx, d_xz, d_yy, d_yz), d_mean2d, d_shape[7])
    for j in range(3):
        d_mean[j] += camera[j] * px + camera[3 + j] * py + camera[6 + j] * pz


@njit(**kernel_options)
def differentiate_run(
    run: tuple[int, int],
    parameters: Any,
    views: tuple[Any, tuple[int, ...]],
    drawn: tuple[Any, Any],
    slopes: tuple[Any, Any],
    scratch: Any,
    gradients: Any,
) -> None:
    """Differentiate the Gaussians run[0] to run[1] - 1; arguments as for `project_backward`, in groups."""
    means, log_scales, quats, opacity_logits, sh = parameters
    (cameras, mode), (shapes, radii), (d_means2d, d_shapes) = views, drawn, slopes
    (factor, d_factor), (rows, d_rows), basis = scratch
    d_means, d_log_scales, d_quats, d_logits, d_sh = gradients
    for n in range(run[0], run[1]):
        d_factor[:] = ZERO
        seen, opacity, d_opacity = False, ZERO, ZERO

        for view in range(len(cameras)):
            if not radii[view, n] > ZERO:
                continue
            if not seen:
                write_factor(quats[n], log_scales[n], factor)
                seen, opacity = True, shapes[view, n, 3]
                if len(mode) == 2:  # a constant for the compiler
                    opacity = ONE / (ONE + math.exp(-opacity_logits[n]))

            camera, d_shape = cameras[view], d_shapes[view, n]
            factor_of_opacity, d_factor_of_opacity = ONE, ZERO
            if len(mode) == 2:
                factor_of_opacity = shapes[view, n, 3] / opacity
                d_factor_of_opacity = d_shape[3] * opacity
            d_opacity += d_shape[3] * factor_of_opacity
            add_view(
                camera,
                (means[n], factor),
                shapes[view, n],
                (d_means2d[view, n], d_shape, (factor_of_opacity, d_factor_of_opacity)),
                (rows, d_rows),
                d_factor,
                d_means[n],
            )
            harmonic_color_gradient(
                sh[n], means[n], camera[20:23], mode[0], basis, shapes[view, n, 4:7], d_shape[4:7],
                d_sh[n], d_means[n],
            )  # fmt: skip

        if seen:
            factor_gradient(quats[n], factor, d_factor, log_scales[n], d_quats[n], d_log_scales[n])
            # 1 - sigmoid(x) = sigmoid(x) * exp(-x), which keeps its digits near 1
            d_logits[n] = d_opacity * opacity * opacity * math.exp(-opacity_logits[n])


def _project_backward(
    counter: Any,
    tasks: int,
    means: Any,
    log_scales: Any,
    quats: Any,
    opacity_logits: Any,
    sh: Any,
    cameras: Any,
    mode: Any,
    shapes: Any,
    radii: Any,
    d_means2d: Any,
    d_shapes: Any,
    gradients: Any,
) -> None:
    """Differentiate `project_forward`, adding views in order; one task per run of Gaussians.

    Args:
        counter: shared task counter, starts at 0.
        tasks: N / 512, rounded up.
        means: [N, 3]; it, log_scales, quats, opacity_logits, sh and cameras as for `project_forward`.
        log_scales: see there.
        quats: see there.
        opacity_logits: see there.
        sh: see there.
        cameras: see there.
        mode: spherical-harmonics degree, and for an antialiased scene a second number.
        shapes: [C, N, 8] as written by `project_forward`.
        radii: [C, N] as written by `project_forward`.
        d_means2d: [C, N, 2] dL/d of the centres.
        d_shapes: [C, N, 8] dL/d of the shapes.
        gradients: zeros in the shapes of means, log_scales, quats, opacity_logits and sh, written.
    """
    matrices = (np.empty(9, np.float32), np.empty(9, np.float32))
    rows = (np.empty(12, np.float32), np.empty(6, np.float32))
    basis = np.empty((4, 16), np.float32)

    task = next_task(counter)
    while task < tasks:
        first = task * GAUSSIANS_PER_TASK
        differentiate_run(
            (first, min(first + GAUSSIANS_PER_TASK, len(means))),
            (means, log_scales, quats, opacity_logits, sh),
            (cameras, mode),
            (shapes, radii),
            (d_means2d, d_shapes),
            (matrices, rows, basis),
            gradients,
        )
        task = next_task(counter)


project_backward = njit(
    "void(int64[::1], int64, float32[:,::1], float32[:,::1], float32[:,::1], float32[::1], float32[:,:,::1],"
    " float32[:,::1], UniTuple(int64, 1), float32[:,:,::1], float32[:,::1], float32[:,:,::1], float32[:,:,::1],"
    " Tuple((float32[:,::1], float32[:,::1], float32[:,::1], float32[::1], float32[:,:,::1])))",
    **entry_options,
)(_project_backward)
project_backward_antialiased = njit(**entry_options)(_project_backward)
"""The same with the filter, compiled when first called."""
