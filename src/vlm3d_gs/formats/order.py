"""Orders to write Gaussians in: along a Z-curve for compression, or most important first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.quantize import sigmoid

CELL_BITS = 20
"""Bits of each axis in a Z-curve key; three axes fit 64 bits."""


def morton_order(arrays: SplatArrays) -> NDArray[np.intp]:
    """Return indices along a Z-curve (Morton order) over the bounds: neighbours in space stay close."""
    low = arrays.means.min(0).astype(np.float64)
    extent = max(float((arrays.means.max(0) - low).max()), 1e-30)
    cells = ((arrays.means - low) / extent * ((1 << CELL_BITS) - 1)).astype(np.uint64)
    key = (
        _interleave(cells[:, 0]) | (_interleave(cells[:, 1]) << 1) | (_interleave(cells[:, 2]) << 2)
    )
    return np.argsort(key, kind="stable")


def importance_order(arrays: SplatArrays) -> NDArray[np.intp]:
    """Return indices by decreasing opacity times volume, so that a page loads from coarse to fine."""
    log_volume = arrays.log_scales.sum(1, dtype=np.float64)
    opacity = np.maximum(sigmoid(arrays.opacity_logits).astype(np.float64), 1e-30)
    return np.argsort(-(log_volume + np.log(opacity)), kind="stable")


def _interleave(cells: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Insert two zero bits after each bit of numbers below 2^21."""
    spread = cells & np.uint64(0x1FFFFF)
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        spread = (spread | (spread << np.uint64(shift))) & np.uint64(mask)
    return spread
