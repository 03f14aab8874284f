"""The formulas of quaternions and rotation matrices, on anything that can be added and multiplied.

`core.rotations` applies them to tensors, `formats.quats` to arrays. Components are wxyz.
"""

from __future__ import annotations

from typing import Any

ZERO_NORM_SQ = 1e-24
"""Below this squared norm a quaternion counts as zero and stands for the identity."""


def product(
    first: tuple[Any, Any, Any, Any], second: tuple[Any, Any, Any, Any]
) -> tuple[Any, Any, Any, Any]:
    """Return the quaternion of `first` applied after `second` (the Hamilton product)."""
    a, b, c, d = first
    w, x, y, z = second
    return (
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    )


def matrix_entries(w: Any, x: Any, y: Any, z: Any) -> list[Any]:
    """Return the nine entries of the rotation matrix of a unit quaternion, row by row."""
    return [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]


def component_products(rotation: Any) -> list[list[Any]]:
    """Return four times the products of each two components of a rotation's quaternion, 4 by 4.

    Any row with a value that is not small, normalised, is the quaternion or its negative.

    Args:
        rotation: [..., 3, 3].

    Source: Shepperd 1978, Quaternion from rotation matrix.
    """
    m = rotation
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx = m[..., 2, 1] - m[..., 1, 2]
    wy = m[..., 0, 2] - m[..., 2, 0]
    wz = m[..., 1, 0] - m[..., 0, 1]
    xy = m[..., 1, 0] + m[..., 0, 1]
    xz = m[..., 0, 2] + m[..., 2, 0]
    yz = m[..., 2, 1] + m[..., 1, 2]
    return [
        [1 + xx + yy + zz, wx, wy, wz],
        [wx, 1 + xx - yy - zz, xy, xz],
        [wy, xy, 1 - xx + yy - zz, yz],
        [wz, xz, yz, 1 - xx - yy + zz],
    ]
