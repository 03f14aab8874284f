"""Spherical harmonics of the CPU rasteriser: a Gaussian's colour as a camera sees it, and its gradient.

The basis is that of `vlm3d_gs.core.harmonics`, up to degree 3.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from vlm3d_gs.core.bands import SH_C0, SH_C1, SH_C2, SH_C3
from vlm3d_gs.render.cpu.math import HALF, LARGEST_SQUARE, TWO, ZERO, exact_options, kernel_options

_C0, _C1 = np.float32(SH_C0), np.float32(SH_C1)
_A2, _B2, _C2 = (np.float32(value) for value in SH_C2)
_D3, _E3, _F3, _G3, _H3 = (np.float32(value) for value in SH_C3)
_THREE, _FOUR, _SIX, _EIGHT = np.float32(3.0), np.float32(4.0), np.float32(6.0), np.float32(8.0)


@njit(**kernel_options)
def write_basis(x: Any, y: Any, z: Any, degree: int, basis: Any) -> None:
    """Write the basis functions [0] and their derivatives by x, y and z [1:4] at a unit vector; basis is [4, 16]."""
    count = (degree + 1) * (degree + 1)
    basis[:, :count] = ZERO
    basis[0, 0] = _C0
    if degree == 0:
        return

    basis[0, 1], basis[0, 2], basis[0, 3] = -_C1 * y, _C1 * z, -_C1 * x
    basis[2, 1], basis[3, 2], basis[1, 3] = -_C1, _C1, -_C1
    if degree == 1:
        return

    xx, yy, zz = x * x, y * y, z * z
    basis[0, 4], basis[1, 4], basis[2, 4] = _A2 * x * y, _A2 * y, _A2 * x
    basis[0, 5], basis[2, 5], basis[3, 5] = -_A2 * y * z, -_A2 * z, -_A2 * y
    basis[0, 6] = _B2 * (TWO * zz - xx - yy)
    basis[1, 6], basis[2, 6], basis[3, 6] = -TWO * _B2 * x, -TWO * _B2 * y, _FOUR * _B2 * z
    basis[0, 7], basis[1, 7], basis[3, 7] = -_A2 * x * z, -_A2 * z, -_A2 * x
    basis[0, 8], basis[1, 8], basis[2, 8] = _C2 * (xx - yy), TWO * _C2 * x, -TWO * _C2 * y
    if degree == 2:
        return

    basis[0, 9] = -_D3 * y * (_THREE * xx - yy)
    basis[1, 9], basis[2, 9] = -_SIX * _D3 * x * y, -_THREE * _D3 * (xx - yy)
    basis[0, 10] = _E3 * x * y * z
    basis[1, 10], basis[2, 10], basis[3, 10] = _E3 * y * z, _E3 * x * z, _E3 * x * y
    basis[0, 11] = -_F3 * y * (_FOUR * zz - xx - yy)
    basis[1, 11], basis[2, 11] = TWO * _F3 * x * y, -_F3 * (_FOUR * zz - xx - _THREE * yy)
    basis[3, 11] = -_EIGHT * _F3 * y * z
    basis[0, 12] = _G3 * z * (TWO * zz - _THREE * xx - _THREE * yy)
    basis[1, 12], basis[2, 12] = -_SIX * _G3 * x * z, -_SIX * _G3 * y * z
    basis[3, 12] = _G3 * (_SIX * zz - _THREE * xx - _THREE * yy)
    basis[0, 13] = -_F3 * x * (_FOUR * zz - xx - yy)
    basis[1, 13], basis[2, 13] = -_F3 * (_FOUR * zz - _THREE * xx - yy), TWO * _F3 * x * y
    basis[3, 13] = -_EIGHT * _F3 * x * z
    basis[0, 14] = _H3 * z * (xx - yy)
    basis[1, 14], basis[2, 14], basis[3, 14] = (
        TWO * _H3 * x * z,
        -TWO * _H3 * y * z,
        _H3 * (xx - yy),
    )
    basis[0, 15] = -_D3 * x * (xx - _THREE * yy)
    basis[1, 15], basis[2, 15] = -_THREE * _D3 * (xx - yy), _SIX * _D3 * x * y


@njit(**kernel_options)
def direction(mean: Any, position: Any) -> tuple[Any, Any, Any, Any]:
    """Return the unit vector from the camera's position to the centre, and the distance (at least 1e-12)."""
    x, y, z = mean[0] - position[0], mean[1] - position[1], mean[2] - position[2]
    square = x * x + y * y + z * z
    if not square < LARGEST_SQUARE:
        return far_direction(x, y, z)
    length = max(math.sqrt(square), np.float32(1e-12))
    return x / length, y / length, z / length, length


@njit(**exact_options)
def far_direction(x: Any, y: Any, z: Any) -> tuple[Any, Any, Any, Any]:
    """Return the unit vector along (x, y, z), and the length, where squares would overflow."""
    largest = max(abs(x), abs(y), abs(z))
    x, y, z = x / largest, y / largest, z / largest
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length, largest * length


@njit(**kernel_options)
def harmonic_color(sh: Any, mean: Any, position: Any, degree: int, basis: Any, color: Any) -> None:
    """Write max(SH + 0.5, 0) [3] as seen from a camera position; `basis` [4, 16] is scratch."""
    if degree == 0:
        for channel in range(3):
            color[channel] = max(_C0 * sh[0, channel] + HALF, ZERO)
        return
    x, y, z, _ = direction(mean, position)
    write_basis(x, y, z, degree, basis)
    for channel in range(3):
        value = HALF
        for k in range((degree + 1) * (degree + 1)):
            value += basis[0, k] * sh[k, channel]
        color[channel] = max(value, ZERO)


@njit(**kernel_options)
def harmonic_color_gradient(
    sh: Any,
    mean: Any,
    position: Any,
    degree: int,
    basis: Any,
    color: Any,
    d_color: Any,
    d_sh: Any,
    d_mean: Any,
) -> None:
    """Add to dL/dsh [K, 3] and dL/dmean [3]; a channel that was clamped to zero has no gradient."""
    if degree == 0:
        for channel in range(3):
            d_sh[0, channel] += _C0 * d_color[channel] if color[channel] > ZERO else ZERO
        return

    x, y, z, length = direction(mean, position)
    write_basis(x, y, z, degree, basis)
    dx, dy, dz = ZERO, ZERO, ZERO
    for channel in range(3):
        slope = d_color[channel] if color[channel] > ZERO else ZERO
        for k in range((degree + 1) * (degree + 1)):
            d_sh[k, channel] += basis[0, k] * slope
            weight = sh[k, channel] * slope
            dx += basis[1, k] * weight
            dy += basis[2, k] * weight
            dz += basis[3, k] * weight

    # through the normalisation of the direction
    along = x * dx + y * dy + z * dz
    d_mean[0] += (dx - x * along) / length
    d_mean[1] += (dy - y * along) / length
    d_mean[2] += (dz - z * along) / length
