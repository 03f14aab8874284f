"""The bytes of an SPZ file's harmonics, most of what is written: one compiled pass over the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from vlm3d_gs.formats.arrays import FloatArray
from vlm3d_gs.formats.quantize import ByteArray

BUCKETS = (1, 8, 16, 16)
"""Steps of the bytes that harmonics of each degree are rounded to."""
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "boundscheck": False,
}
"""No interpreter lock, so that threads can each take a piece."""


def harmonic_bytes(sh: FloatArray) -> ByteArray:
    """Return the bytes [N, K-1, 3] of harmonics [N, K, 3] above degree 0; 128 is 0, and 0 and 255 are -1 and 1."""
    degrees = np.floor(np.sqrt(np.arange(sh.shape[1]))).astype(int)
    found = np.empty((len(sh), sh.shape[1] - 1, 3), np.uint8)
    _round(np.ascontiguousarray(sh), np.array(BUCKETS, np.float32)[degrees], found)
    return found


@njit(**OPTIONS)
def _round(sh: FloatArray, steps: FloatArray, found: ByteArray) -> None:
    """Round to bytes, and those to the nearest multiple of the step of their degree."""
    for n in range(len(sh)):
        for k in range(1, sh.shape[1]):
            step = steps[k]
            shift = np.float32(128.0) + np.floor(step / np.float32(2.0))
            for channel in range(3):
                code = np.rint(sh[n, k, channel] * np.float32(128.0)) + shift
                code = np.floor(code / step) * step
                found[n, k - 1, channel] = np.uint8(
                    min(max(code, np.float32(0.0)), np.float32(255.0))
                )
