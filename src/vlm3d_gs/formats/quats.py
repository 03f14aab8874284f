"""Quaternions and rotation matrices of arrays; the formulas are those of `core.quaternions`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.quaternions import (
    ZERO_NORM_SQ,
    component_products,
    matrix_entries,
    product,
)

Doubles = NDArray[np.float64]


def normalized(quats: NDArray[np.floating]) -> Doubles:
    """Return unit quaternions, [..., 4] wxyz; zero ones become the identity."""
    wide = np.asarray(quats, np.float64)
    square = np.square(wide).sum(-1, keepdims=True)
    zero = square < ZERO_NORM_SQ
    with np.errstate(invalid="ignore"):  # those of damaged files stay what they are
        unit: Doubles = np.where(zero, np.eye(1, 4)[0], wide) / np.sqrt(np.where(zero, 1.0, square))
    return unit


def unit_quats(quats: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return unit quaternions, [N, 4], rounded once; zero ones become the identity."""
    return normalized(quats).astype(np.float32)


def rotmats(quats: NDArray[np.floating]) -> Doubles:
    """Return the rotation matrices of quaternions of any norm, [..., 3, 3]."""
    w, x, y, z = np.moveaxis(normalized(quats), -1, 0)
    entries: Doubles = np.stack(matrix_entries(w, x, y, z), -1)
    return entries.reshape(*entries.shape[:-1], 3, 3)


def quats_of(rotations: Doubles) -> Doubles:
    """Return the unit quaternions of rotation matrices [..., 3, 3], with w >= 0."""
    products = np.stack([np.stack(row, -1) for row in component_products(rotations)], -2)
    # The row of the largest component: nothing is divided by a small number.
    largest = np.einsum("...ii->...i", products).argmax(-1)
    row = np.take_along_axis(products, largest[..., None, None], -2)[..., 0, :]
    quats = normalized(row)
    return np.where(quats[..., :1] < 0, -quats, quats)


def multiplied(first: Doubles, second: Doubles) -> Doubles:
    """Return the quaternions of `first` applied after `second`, [..., 4] each."""
    a, b, c, d = np.moveaxis(first, -1, 0)
    w, x, y, z = np.moveaxis(second, -1, 0)
    return np.stack(product((a, b, c, d), (w, x, y, z)), -1)
