"""k-means over short vectors as a compiled loop: what a palette of harmonics spends its time on.

Matrix products of this size are fast on one thread only: a BLAS that splits each among several
spends most of its time waiting. Here a thread works on a group, and its scores stay in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vlm3d_gs.formats.arrays import FloatArray

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "boundscheck": False,
    "fastmath": {"contract"},
}
"""No interpreter lock, so that threads can work at once; products and sums may become one operation."""


def nearest(vectors: FloatArray, centers: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """Return the index of the nearest centre of each vector, and the square of its distance.

    Args:
        vectors: [N, D].
        centers: [M, D], at least one.
    """
    labels, squares = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    columns = np.ascontiguousarray(centers.T)
    half = np.square(centers).sum(1) / np.float32(2.0)
    _assign(np.ascontiguousarray(vectors), columns, half, labels, squares)
    return labels, squares


def kmeans(vectors: FloatArray, size: int, rounds: int, random: np.random.Generator) -> FloatArray:
    """Return up to `size` centres of vectors; a centre that loses all of its vectors does not move."""
    if len(vectors) <= size:
        return vectors

    vectors = np.ascontiguousarray(vectors)
    centers = vectors[np.sort(random.permutation(len(vectors))[:size])]
    for _ in range(rounds):
        labels, _ = nearest(vectors, centers)
        sums, counts = np.zeros(centers.shape, np.float64), np.zeros(size, np.int64)
        _add_up(vectors, labels, sums, counts)
        present = counts > 0
        centers[present] = sums[present] / counts[present, None]
    return centers


@njit(**OPTIONS)
def _assign(
    vectors: FloatArray,
    columns: FloatArray,
    half: FloatArray,
    labels: NDArray[np.int64],
    squares: FloatArray,
) -> None:
    """Find the nearest centre of each vector; `columns` are the coordinates of all centres, [D, M]."""
    # |v - c|^2 is |v|^2 + 2 (|c|^2 / 2 - v c), and |v|^2 does not change which centre is nearest.
    width, many = columns.shape
    fours = width // 4
    score = np.empty(many, np.float32)
    for n in range(len(vectors)):
        score[:] = half
        square = np.float32(0.0)

        # Four coordinates at a time, so that a score is loaded and stored less often.
        for four in range(fours):
            d = 4 * four
            w, x, y, z = vectors[n, d], vectors[n, d + 1], vectors[n, d + 2], vectors[n, d + 3]
            square += w * w + x * x + y * y + z * z
            ws, xs, ys, zs = columns[d], columns[d + 1], columns[d + 2], columns[d + 3]
            for m in range(many):
                score[m] -= w * ws[m] + x * xs[m] + y * ys[m] + z * zs[m]
        for d in range(4 * fours, width):
            w, ws = vectors[n, d], columns[d]
            square += w * w
            for m in range(many):
                score[m] -= w * ws[m]

        best, lowest = 0, score[0]
        for m in range(1, many):
            if score[m] < lowest:
                best, lowest = m, score[m]
        labels[n] = best
        squares[n] = max(np.float32(0.0), square + np.float32(2.0) * lowest)


@njit(**OPTIONS)
def _add_up(
    vectors: FloatArray,
    labels: NDArray[np.int64],
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:
    """Add each vector to the sum of its label."""
    for n in range(len(vectors)):
        counts[labels[n]] += 1
        for d in range(vectors.shape[1]):
            sums[labels[n], d] += vectors[n, d]
