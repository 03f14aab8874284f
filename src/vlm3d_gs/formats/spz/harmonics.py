"""The bytes of an SPZ file's harmonics, most of what is written.

In NumPy: a compiled loop takes half of the 0.2 s a million, but its library takes a second to load.
"""

from __future__ import annotations

import numpy as np

from vlm3d_gs.formats.arrays import FloatArray
from vlm3d_gs.formats.quantize import ByteArray

BUCKETS = (1, 8, 16, 16)
"""Steps of the bytes that harmonics of each degree are rounded to; powers of two."""


def harmonic_bytes(sh: FloatArray) -> ByteArray:
    """Return the bytes [N, K-1, 3] of harmonics [N, K, 3] above degree 0; 128 is 0, and 0 and 255 are -1 and 1."""
    count, coefficients, _ = sh.shape
    degrees = np.floor(np.sqrt(np.arange(1, coefficients))).astype(int)
    steps = np.repeat(np.array(BUCKETS, np.int16)[degrees], 3)

    codes = sh[:, 1:].reshape(count, -1) * np.float32(128.0)
    np.clip(codes, -128.0, 127.0, out=codes)
    np.rint(codes, out=codes)

    # To the nearest multiple of the step, the lowest bits of which are zero.
    whole = codes.astype(np.int16)
    whole += 128 + steps // 2
    whole &= -steps
    np.minimum(whole, 255, out=whole)
    return whole.astype(np.uint8).reshape(count, coefficients - 1, 3)
