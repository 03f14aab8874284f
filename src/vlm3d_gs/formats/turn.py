"""Turning splats into other axes, a compiled loop over Gaussians.

Everything is summed in double precision and rounded once, so that axes that only change places
stay exact.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vlm3d_gs.core.quaternions import ZERO_NORM_SQ
from vlm3d_gs.formats.frames import sh_rotation
from vlm3d_gs.formats.quats import quats_of

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
AnyFloats = NDArray[np.floating]
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "boundscheck": False,
}
"""No interpreter lock, so that threads can each turn a piece; compiled code is cached between runs."""


class Turn:
    """A rotation of splats, prepared once and applied to any number of pieces.

    Args:
        rotation: [3, 3] proper rotation.
        degree: of the harmonics of the splats.
    """

    def __init__(self, rotation: DoubleArray, degree: int) -> None:
        self._rotation = np.ascontiguousarray(rotation, np.float64)
        self._quat = quats_of(self._rotation)

        # The non-zero entries of the matrix: e stands in row j if starts[j] <= e < starts[j + 1].
        mixing = sh_rotation(self._rotation, degree)
        rows, self._columns = np.nonzero(mixing)
        self._starts = np.searchsorted(rows, np.arange(len(mixing) + 1))
        self._weights: DoubleArray = mixing[rows, self._columns]

    def __call__(
        self, means: AnyFloats, quats: AnyFloats, sh: AnyFloats
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return positions, unit quaternions and harmonics turned, as float32.

        Args:
            means: [N, 3].
            quats: [N, 4] wxyz, any norm; zero means the identity.
            sh: [N, K, 3].
        """
        means, quats = np.ascontiguousarray(means), np.ascontiguousarray(quats)
        sh = np.ascontiguousarray(sh)
        new_means, new_quats = np.empty(means.shape, np.float32), np.empty(quats.shape, np.float32)
        new_sh = np.empty(sh.shape, np.float32)
        _turn_places(means, quats, self._rotation, self._quat, new_means, new_quats)
        _turn_harmonics(sh, self._starts, self._columns, self._weights, new_sh)
        return new_means, new_quats, new_sh


@njit(**OPTIONS)
def _turn_places(
    means: AnyFloats,
    quats: AnyFloats,
    rotation: DoubleArray,
    turn: DoubleArray,
    new_means: FloatArray,
    new_quats: FloatArray,
) -> None:
    """Turn positions by a matrix, and quaternions by the same rotation as a quaternion."""
    a, b, c, d = turn
    for n in range(len(means)):
        x, y, z = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
        for j in range(3):
            new_means[n, j] = rotation[j, 0] * x + rotation[j, 1] * y + rotation[j, 2] * z

        w, x, y, z = (
            float(quats[n, 0]),
            float(quats[n, 1]),
            float(quats[n, 2]),
            float(quats[n, 3]),
        )
        square = w * w + x * x + y * y + z * z
        if square < ZERO_NORM_SQ:
            w, x, y, z, square = 1.0, 0.0, 0.0, 0.0, 1.0

        scale = 1.0 / math.sqrt(square)
        new_quats[n, 0] = scale * (a * w - b * x - c * y - d * z)
        new_quats[n, 1] = scale * (a * x + b * w + c * z - d * y)
        new_quats[n, 2] = scale * (a * y - b * z + c * w + d * x)
        new_quats[n, 3] = scale * (a * z + b * y - c * x + d * w)


@njit(**OPTIONS)
def _turn_harmonics(
    sh: AnyFloats,
    starts: NDArray[np.int64],
    columns: NDArray[np.int64],
    weights: DoubleArray,
    new_sh: FloatArray,
) -> None:
    """Multiply the coefficients of each channel by the matrix whose non-zero entries these are."""
    for n in range(len(sh)):
        for j in range(len(starts) - 1):
            red, green, blue = 0.0, 0.0, 0.0
            for e in range(starts[j], starts[j + 1]):
                k, weight = columns[e], weights[e]
                red += weight * sh[n, k, 0]
                green += weight * sh[n, k, 1]
                blue += weight * sh[n, k, 2]
            new_sh[n, j, 0], new_sh[n, j, 1], new_sh[n, j, 2] = red, green, blue
