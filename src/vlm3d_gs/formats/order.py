"""Orders to write Gaussians in: along a Z-curve for compression, or most important first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.quantize import sigmoid

ROWS = 65_536
CELL_BITS = 20
"""Bits of each axis in a Z-curve key; three axes fit 64 bits."""


def morton_order(means: FloatArray) -> NDArray[np.intp]:
    """Return indices along a Z-curve (Morton order) over the bounds: neighbours in space stay close."""
    low = means.min(0).astype(np.float64)
    extent = max(float((means.max(0) - low).max()), 1e-30)
    # In pieces: the cells of all take more memory than the positions.
    key = np.empty(len(means), np.uint64)
    for start in range(0, len(means), ROWS):
        rows = slice(start, start + ROWS)
        cells = ((means[rows] - low) / extent * ((1 << CELL_BITS) - 1)).astype(np.uint64)
        x, y, z = (_interleave(cells[:, axis]) for axis in range(3))
        key[rows] = x | (y << np.uint64(1)) | (z << np.uint64(2))
    return np.argsort(key, kind="stable")


def log_importance(arrays: SplatArrays) -> NDArray[np.float64]:
    """Return [N], logarithms of opacity times volume: most important first, a page loads from coarse to fine."""
    log_volume = arrays.log_scales.sum(1, dtype=np.float64)
    opacity = np.maximum(sigmoid(arrays.opacity_logits).astype(np.float64), 1e-30)
    return log_volume + np.log(opacity)


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
