"""k-means over short vectors, and codes of numbers, as compiled loops: what palettes spend their time on.

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

BINS = 4096


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
        centers = means(vectors, nearest(vectors, centers)[0], centers)
    return centers


def means(vectors: FloatArray, labels: NDArray[np.int64], centers: FloatArray) -> FloatArray:
    """Return for each label the mean of its vectors; without any, the centre that it had."""
    sums, counts = np.zeros(centers.shape, np.float64), np.zeros(len(centers), np.int64)
    _add_up(vectors, labels, sums, counts)
    present = counts > 0
    moved = centers.copy()
    moved[present] = sums[present] / counts[present, None]
    return moved


def codes(values: FloatArray, palette: FloatArray) -> NDArray[np.uint8]:
    """Return for each value the index of the nearest of 256 ascending numbers, in its shape."""
    middles = (palette[1:].astype(np.float64) + palette[:-1]) / 2
    low, high = middles[0], middles[-1]
    # A table of even bins leads to the right code or to one a few before it.
    bins = np.linspace(low, high, BINS + 1)
    starts = np.searchsorted(middles, bins[:-1])
    scale = BINS / (high - low) if high > low else 0.0
    found = np.empty(values.size, np.uint8)
    _codes(np.ascontiguousarray(values).reshape(-1), middles, starts, low, scale, found)
    return found.reshape(values.shape)


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


@njit(**OPTIONS)
def _codes(
    values: FloatArray,
    middles: NDArray[np.float64],
    starts: NDArray[np.int64],
    low: float,
    scale: float,
    found: NDArray[np.uint8],
) -> None:
    """Count the ascending middles that lie below each value."""
    for n in range(len(values)):
        value = float(values[n])
        place = (value - low) * scale
        code = 0
        if place >= 1.0:  # the bin before may hold it too, by rounding
            code = starts[min(int(min(place, 1e9)), len(starts)) - 1]
        while code < len(middles) and middles[code] < value:
            code += 1
        found[n] = code
