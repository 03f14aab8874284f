"""Palettes for SOG: 256 numbers, or thousands of vectors, that approximate all of a column.

Both are k-means, bounded in time and memory: the vectors are split into a few dozen groups, these
into as many again, and each gets its share of the palette, so that a vector is compared with about a
hundred vectors and never with all 65 536. Seeded: the same input gives the same palette.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.formats.arrays import FloatArray
from vlm3d_gs.formats.stream import in_order

T = TypeVar("T")
CODES = 256
"""Entries of a palette of numbers: one byte each."""
NUMBER_ROUNDS = 2
NUMBER_SAMPLE = 500_000
"""Numbers that the palette is fitted to, and the two ends."""
HISTOGRAM_BINS = 4096
EVEN_SHARE = 0.25
"""Share of the numbers spread evenly over the range: a quarter has no measurable cost in the dense
part and reduces the largest error of outliers tenfold."""
BRANCHES = 40
"""Most groups that vectors are split into at once: the cube root of the largest palette."""
GROUP_SAMPLE = 64
"""Vectors a group that groups are fitted to."""
GROUP_ROUNDS, ENTRY_ROUNDS = 3, 1
"""Iterations of k-means over groups, and over the entries of the last ones."""
LEAF = 256
"""Largest share of the palette that is no longer split."""
MAX_ENTRIES = 1024
"""Most entries of a group that is not split further; bounds the time when most vectors fall into one."""
MAX_DEPTH = 4
ENTRY_SAMPLE = 16
"""Vectors per entry that the entries of a group are fitted to; all vectors are assigned, and an entry
ends as the mean of its own. docs/log/files.md has other choices, their time and their errors."""
ROWS = 16_384
"""Vectors that a thread compares with the groups at once."""


def number_palette(values: FloatArray) -> FloatArray:
    """Return 256 ascending numbers that approximate the values with small squared error.

    Args:
        values: any shape, finite, at least one.
    """
    flat = values.reshape(-1)
    thinned = flat[:: max(1, flat.size // NUMBER_SAMPLE)]
    ordered = np.sort(np.append(thinned, [flat.min(), flat.max()])).astype(np.float64)
    distinct = _distinct(ordered)
    if len(distinct) <= CODES and len(thinned) < flat.size:
        ordered = np.sort(flat).astype(np.float64)
        distinct = _distinct(ordered)
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


def _distinct(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ascending numbers without repetitions."""
    return ordered[np.flatnonzero(np.diff(ordered, prepend=-np.inf))]


def nearest_codes(values: FloatArray, palette: FloatArray) -> NDArray[np.uint8]:
    """Return for each value the index of the nearest of 256 ascending numbers, in its shape."""
    # Compiled.
    from vlm3d_gs.formats.sog.nearest import codes

    return codes(values, palette)


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

    return _split(np.ascontiguousarray(vectors), size, (0,))


def _split(
    vectors: FloatArray, size: int, place: tuple[int, ...]
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return at most `size` entries for more vectors than that, and each vector's entry.

    Args:
        vectors: [N, D].
        size: at least 1.
        place: of these vectors in the tree, which seeds what is drawn: threads take groups in any order.
    """
    # Compiled, and needed by large scenes only.
    from vlm3d_gs.formats.sog.nearest import kmeans, means, nearest

    random = np.random.default_rng(place)
    if size <= LEAF or len(place) > MAX_DEPTH:
        size = min(size, MAX_ENTRIES)
        training = vectors[random.permutation(len(vectors))[: ENTRY_SAMPLE * size]]
        centers = kmeans(training, size, ENTRY_ROUNDS, random)
        labels = nearest(vectors, centers)[0]
        return means(vectors, labels, centers), labels

    many = min(BRANCHES, math.isqrt(size - 1) + 1)
    sample = vectors[np.sort(random.permutation(len(vectors))[: GROUP_SAMPLE * many])]
    groups = kmeans(sample, many, GROUP_ROUNDS, random)
    blocks = [slice(start, start + ROWS) for start in range(0, len(vectors), ROWS)]
    every = in_order if len(place) == 1 else _map
    found = list(every(lambda n: nearest(vectors[blocks[n]], groups), len(blocks)))
    group = np.concatenate([label for label, _ in found])
    order = np.argsort(group, kind="stable")
    ends = np.searchsorted(group[order], np.arange(len(groups) + 1))
    shares = _shares(group, np.concatenate([square for _, square in found]), len(groups), size)

    def fitted(index: int) -> tuple[FloatArray, NDArray[np.int64]]:
        inside = vectors[order[ends[index] : ends[index + 1]]]
        if len(inside) <= shares[index]:
            return inside, np.arange(len(inside))
        return _split(inside, shares[index], (*place, index))

    parts = list(every(fitted, len(groups)))
    starts = np.cumsum([0, *(len(centers) for centers, _ in parts)])
    labels = np.empty(len(vectors), np.int64)
    labels[order] = np.concatenate(
        [start + label for start, (_, label) in zip(starts, parts, strict=False)]
    )
    return np.concatenate([centers for centers, _ in parts]), labels


def _map(function: Callable[[int], T], count: int) -> Iterator[T]:
    """Yield the same as `in_order`, by this thread alone."""
    return map(function, range(count))


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
    return [int(share) for share in np.minimum(shares, np.maximum(counts, 1))]
