"""Palettes for SOG: 256 numbers, or thousands of vectors, that approximate all of a column.

Both are k-means, bounded in time and memory: the vectors are first split into a few hundred groups,
then each group gets its share of the palette, so that a vector is compared with hundreds of entries
and never with all 65 536. Seeded: the same input gives the same palette.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.formats.arrays import FloatArray

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
GROUP_ROUNDS, ENTRY_ROUNDS = 8, 5
"""Iterations of k-means over groups, and over entries within a group."""
MAX_ENTRIES = 1024
"""Most entries of a group; bounds the time when most vectors fall into one group."""
ENTRY_SAMPLE = 32
"""Vectors per entry that the entries of a group are fitted to; all vectors are assigned."""
ROWS = 16_384
"""Vectors compared at once; bounds the memory."""


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

    random = np.random.default_rng(0)
    sample = vectors[np.sort(random.permutation(count)[:GROUP_SAMPLE])]
    groups = _kmeans(sample, min(GROUPS, size), GROUP_ROUNDS, random)
    group = _nearest(vectors, groups)
    order = np.argsort(group, kind="stable")
    ends = np.searchsorted(group[order], np.arange(len(groups) + 1))
    shares = _shares(vectors, groups, group, size)

    entries: list[FloatArray] = []
    labels = np.empty(count, np.int64)
    total = 0
    for index, share in enumerate(shares):
        members = order[ends[index] : ends[index + 1]]
        if len(members) == 0:
            continue

        inside = vectors[members]
        training = inside[random.permutation(len(inside))[: ENTRY_SAMPLE * share]]
        centers = _kmeans(training, share, ENTRY_ROUNDS, random)
        labels[members] = total + _nearest(inside, centers)
        entries.append(centers)
        total += len(centers)
    return np.concatenate(entries), labels


def _initial_centers(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 256 numbers, most with the cube root of the values' density, the others evenly spaced."""
    counts, edges = np.histogram(ordered, HISTOGRAM_BINS)
    dense = np.cbrt(counts) / np.cbrt(counts).sum()
    mass = np.cumsum((1.0 - EVEN_SHARE) * dense + EVEN_SHARE / HISTOGRAM_BINS)
    at = (np.arange(CODES) + 0.5) / CODES * mass[-1]
    return np.interp(at, np.concatenate([[0.0], mass]), edges)


def _shares(
    vectors: FloatArray, groups: FloatArray, group: NDArray[np.int64], size: int
) -> list[int]:
    """Return the number of entries of each group: by its size times its spread, at least one."""
    spread = np.zeros(len(vectors))
    for start in range(0, len(vectors), ROWS):
        rows = slice(start, start + ROWS)
        spread[rows] = np.square(vectors[rows] - groups[group[rows]]).sum(1)

    counts = np.bincount(group, minlength=len(groups))
    total = np.bincount(group, weights=spread, minlength=len(groups))
    weights = np.sqrt(counts * total) + 1e-30  # size times root mean square distance
    free = size - len(groups)
    shares = 1 + np.floor(free * weights / weights.sum()).astype(int)
    return [int(share) for share in np.minimum(shares, np.clip(counts, 1, MAX_ENTRIES))]


def _kmeans(vectors: FloatArray, size: int, rounds: int, random: np.random.Generator) -> FloatArray:
    """Return up to `size` centres of vectors; a centre that loses all of its vectors does not move."""
    if len(vectors) <= size:
        return vectors

    centers = vectors[np.sort(random.permutation(len(vectors))[:size])]
    for _ in range(rounds):
        label = _nearest(vectors, centers)
        order = np.argsort(label, kind="stable")
        present, starts, counts = np.unique(label[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(vectors[order], starts)
        centers = centers.copy()
        centers[present] = sums / counts[:, None].astype(np.float32)
    return centers


def _nearest(vectors: FloatArray, centers: FloatArray) -> NDArray[np.int64]:
    """Return the index of the nearest centre of each vector."""
    labels = np.empty(len(vectors), np.int64)
    # |v - c|^2 is |v|^2 + 2 (|c|^2 / 2 - v c), and |v|^2 does not change which centre is nearest.
    half = np.square(centers).sum(1) / 2
    for start in range(0, len(vectors), ROWS):
        rows = slice(start, start + ROWS)
        labels[rows] = (half - vectors[rows] @ centers.T).argmin(1)
    return labels
