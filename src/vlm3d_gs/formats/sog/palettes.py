"""Palettes for SOG: 256 numbers, or thousands of vectors, that approximate all of a column.

Both are k-means, bounded in time and memory: the vectors are first split into a few hundred groups,
then each group gets its share of the palette, so that a vector is compared with hundreds of entries
and never with all 65 536. Seeded: the same input gives the same palette.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.formats.arrays import FloatArray
from vlm3d_gs.formats.stream import in_order

CODES = 256
"""Entries of a palette of numbers: one byte each."""
NUMBER_ROUNDS = 2
HISTOGRAM_BINS = 4096
EVEN_SHARE = 0.25
"""Share of the numbers spread evenly over the range: a quarter has no measurable cost in the dense
part and reduces the largest error of outliers tenfold."""
GROUPS = 256
"""Groups that vectors are split into first."""
GROUP_SAMPLE = 65_536
"""Vectors that the groups are fitted to."""
GROUP_ROUNDS, ENTRY_ROUNDS = 4, 3
"""Iterations of k-means over groups, and over entries within a group."""
MAX_ENTRIES = 1024
"""Most entries of a group; bounds the time when most vectors fall into one group."""
ENTRY_SAMPLE = 6
"""Vectors per entry that the entries of a group are fitted to; all vectors are assigned. Of a million
sets of harmonics, 32 and 5 rounds took 2.3 times as long for an error 4 % smaller."""
ROWS = 16_384
"""Vectors that a thread compares with the groups at once."""


def number_palette(values: FloatArray) -> FloatArray:
    """Return 256 ascending numbers that approximate the values with small squared error.

    Args:
        values: any shape, finite, at least one.
    """
    ordered = np.sort(values.reshape(-1)).astype(np.float64)
    distinct = ordered[np.flatnonzero(np.diff(ordered, prepend=-np.inf))]
    if len(distinct) <= CODES:
        return np.pad(distinct, (0, CODES - len(distinct)), mode="edge").astype(np.float32)

    # In sorted order a cluster is a range, and its sum a difference of cumulative sums.
    centers = _initial_centers(ordered)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(NUMBER_ROUNDS):
        cuts = np.searchsorted(ordered, (centers[1:] + centers[:-1]) / 2)
        ends = np.concatenate([[0], cuts, [len(ordered)]])
        counts = np.diff(ends)
        means = np.diff(sums[ends]) / np.maximum(counts, 1)
        centers = np.sort(np.where(counts > 0, means, centers))
    return centers.astype(np.float32)


def nearest_codes(values: FloatArray, palette: FloatArray) -> NDArray[np.uint8]:
    """Return for each value the index of the nearest of 256 ascending numbers, in its shape."""
    middles = (palette[1:].astype(np.float64) + palette[:-1]) / 2
    return np.searchsorted(middles, values).astype(np.uint8)


def vector_palette(vectors: FloatArray, size: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return vectors that approximate all, and the index of each vector's approximation.

    Args:
        vectors: [N, D] finite.
        size: most entries, at least 1.

    Returns:
        [M, D] entries with M <= size, and [N] indices into them. If N <= size, every vector has its
        own entry.
    """
    count = len(vectors)
    if count <= size:
        return vectors, np.arange(count)

    # Compiled, and needed by large scenes only.
    from vlm3d_gs.formats.sog.nearest import kmeans, nearest

    random = np.random.default_rng(0)
    sample = vectors[np.sort(random.permutation(count)[:GROUP_SAMPLE])]
    groups = kmeans(sample, min(GROUPS, size), GROUP_ROUNDS, random)

    blocks = [slice(start, start + ROWS) for start in range(0, count, ROWS)]
    found = list(in_order(lambda n: nearest(vectors[blocks[n]], groups), len(blocks)))
    group = np.concatenate([label for label, _ in found])
    order = np.argsort(group, kind="stable")
    ends = np.searchsorted(group[order], np.arange(len(groups) + 1))
    shares = _shares(group, np.concatenate([square for _, square in found]), len(groups), size)

    def fitted(index: int) -> tuple[FloatArray, NDArray[np.int64]]:
        inside = vectors[order[ends[index] : ends[index + 1]]]
        if len(inside) == 0:
            return inside, np.empty(0, np.int64)
        draw = np.random.default_rng((0, index))  # of its own: threads take groups in any order
        training = inside[draw.permutation(len(inside))[: ENTRY_SAMPLE * shares[index]]]
        centers = kmeans(training, shares[index], ENTRY_ROUNDS, draw)
        return centers, nearest(inside, centers)[0]

    parts = list(in_order(fitted, len(groups)))
    starts = np.cumsum([0, *(len(centers) for centers, _ in parts)])
    labels = np.empty(count, np.int64)
    labels[order] = np.concatenate(
        [start + label for start, (_, label) in zip(starts, parts, strict=False)]
    )
    return np.concatenate([centers for centers, _ in parts]), labels


def _initial_centers(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 256 numbers, most with the cube root of the values' density, the others evenly spaced."""
    counts, edges = np.histogram(ordered, HISTOGRAM_BINS)
    dense = np.cbrt(counts) / np.cbrt(counts).sum()
    mass = np.cumsum((1.0 - EVEN_SHARE) * dense + EVEN_SHARE / HISTOGRAM_BINS)
    at = (np.arange(CODES) + 0.5) / CODES * mass[-1]
    return np.interp(at, np.concatenate([[0.0], mass]), edges)


def _shares(group: NDArray[np.int64], squares: FloatArray, groups: int, size: int) -> list[int]:
    """Return the number of entries of each group: by its size times its spread, at least one."""
    counts = np.bincount(group, minlength=groups)
    total = np.bincount(group, weights=squares, minlength=groups)
    weights = np.sqrt(counts * total) + 1e-30  # size times root mean square distance
    shares = 1 + np.floor((size - groups) * weights / weights.sum()).astype(int)
    return [int(share) for share in np.minimum(shares, np.clip(counts, 1, MAX_ENTRIES))]
