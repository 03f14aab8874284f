"""Depth order and tile lists of the CPU rasteriser.

Letters: C views, N Gaussians, V of them seen by a view; tiles of 8 x 8 px, numbered row by row. A
band is a run of tile rows, the unit of work from here on. Lists hold positions in the view's depth
order, nearest first.

A packed row has the columns named below. (u, v) is the whitened offset (dx, dy) from the centre to a
pixel: u = (dx - slant * dy) * inv_u, v = dy * inv_v, and alpha = 2^(log2_opacity - u^2 - v^2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from vlm3d_gs.render.conventions import ALPHA_FLOOR
from vlm3d_gs.render.cpu.math import (
    HALF,
    ONE,
    ZERO,
    entry_options,
    float_to_bits,
    kernel_options,
    next_task,
)

TILE = 8
"""Side of a tile, px: one AVX2 register wide. Tiles of 16 take 1.5 times as long (docs/log/renderer.md)."""
X, Y, SLANT, INV_U, INV_V, LOG2_OPACITY = 0, 1, 2, 3, 4, 5
RED, GREEN, BLUE, DEPTH, HALF_HEIGHT, HALF_WIDTH, WIDEST_DY, RANGE = 6, 7, 8, 9, 10, 11, 12, 13
U_UNIT = 14
PACKED_COLUMNS = 16
"""Columns of a packed row (the last is spare, so that a row is one cache line)."""

WHITEN = np.float32(math.sqrt(0.5 * math.log2(math.e)))
"""Converts standard deviations into units in which alpha falls as 2^-(u^2 + v^2)."""
_LOG2_FLOOR = np.float32(math.log2(ALPHA_FLOOR))
_SLACK = np.float32(
    0.01
)  # lists end a little outside the floor; the kernels decide by alpha itself
_RADIX, _RADIX_BITS = 2048, 11


@njit(**kernel_options)
def clamped_index(value: Any, low: int, high: int) -> int:
    """Return floor(value) clamped to low..high, for any float32, low for NaN; low is -1 or above."""
    shifted = value + ONE
    if not shifted > np.float32(low + 1):
        return low
    return int(min(shifted, np.float32(high + 1))) - 1


@njit(**kernel_options)
def sort_by_depth(radii: Any, shapes: Any, order: Any, scratch: tuple[Any, Any, Any]) -> int:
    """Write the indices of the seen Gaussians of one view in ascending depth, equal depths by index.

    Args:
        radii: [N] px, 0 where not seen.
        shapes: [N, 8], depth in the last column, positive where seen.
        order: [N] int32, of which the first V are written.
        scratch: keys [2, N] uint32, indices [2, N] int32, histogram [2048] int64.

    Returns:
        V.
    """
    count = 0
    keys, ids, histogram = scratch
    for n in range(len(radii)):
        if radii[n] > ZERO:
            keys[0, count] = float_to_bits(shapes[n, 7])
            ids[0, count] = n
            count += 1

    # Radix sort by the bits of the depth, 11 at a time; stable, so equal depths stay in order of index.
    source = 0
    for digit in range(3):
        shift = np.uint32(digit * _RADIX_BITS)
        mask = np.uint32(_RADIX - 1)
        histogram[:] = 0
        for i in range(count):
            histogram[(keys[source, i] >> shift) & mask] += 1

        total = 0
        for b in range(_RADIX):
            here = histogram[b]
            histogram[b] = total
            total += here

        target = 1 - source
        for i in range(count):
            bucket = (keys[source, i] >> shift) & mask
            position = histogram[bucket]
            histogram[bucket] = position + 1
            keys[target, position] = keys[source, i]
            ids[target, position] = ids[source, i]
        source = target

    for i in range(count):
        order[i] = ids[source, i]
    return count


@njit(**kernel_options)
def pack_row(mean: Any, shape: Any, row: Any) -> None:
    """Write the packed row of one Gaussian from its centre [2] and shape [8] (see `project`)."""
    slant, inv_u, inv_v = shape[0], shape[1] * WHITEN, shape[2] * WHITEN
    row[X], row[Y], row[SLANT], row[INV_U], row[INV_V] = mean[0], mean[1], slant, inv_u, inv_v
    row[LOG2_OPACITY] = math.log2(shape[3])
    for column in range(4):
        row[RED + column] = shape[4 + column]

    # The box of the ellipse u^2 + v^2 = reach^2 on which alpha falls to the floor.
    reach_sq = max(row[LOG2_OPACITY] - _LOG2_FLOOR, ZERO) + _SLACK
    reach = math.sqrt(reach_sq)
    along, across = slant / inv_v, ONE / inv_u
    spread = math.sqrt(along * along + across * across)
    row[HALF_HEIGHT], row[HALF_WIDTH] = reach / inv_v, reach * spread
    row[WIDEST_DY] = reach * along / (spread * inv_v)
    row[RANGE], row[U_UNIT] = reach_sq, across


@njit(**kernel_options)
def pack_view(means2d: Any, shapes: Any, order: Any, height: int, packed: Any, reach: Any) -> None:
    """Write the packed rows and the tile rows of one view's Gaussians, in the order [V]."""
    for i in range(len(order)):
        row = packed[i]
        pack_row(means2d[order[i]], shapes[order[i]], row)

        # Pixel centres lie at +0.5: the first and last row whose centres the box contains.
        upper = clamped_index(row[Y] - row[HALF_HEIGHT] + HALF, 0, height)
        lower = clamped_index(row[Y] + row[HALF_HEIGHT] - HALF, -1, height - 1)
        empty = upper > lower
        reach[i, 0] = 0 if empty else upper // TILE
        reach[i, 1] = 0 if empty else lower // TILE + 1


@njit(
    "void(int64[::1], int64, float32[:,:,::1], float32[:,:,::1], float32[:,::1], int64, int32[:,::1],"
    " int64[::1], float32[:,:,::1], int32[:,:,::1])",
    **entry_options,
)
def order_views(
    counter: Any,
    tasks: int,
    means2d: Any,
    shapes: Any,
    radii: Any,
    height: int,
    order: Any,
    counts: Any,
    packed: Any,
    reach: Any,
) -> None:
    """Sort every view by depth and pack the Gaussians that it sees; one task per view.

    Args:
        counter: shared task counter, starts at 0.
        tasks: C.
        means2d: [C, N, 2] px.
        shapes: [C, N, 8].
        radii: [C, N] px.
        height: picture height, px.
        order: [C, N] int32, written.
        counts: [C] int64, V of each view, written.
        packed: [C, N, 16], of which the first V rows of each view are written.
        reach: [C, N, 2] int32, likewise: first tile row that a Gaussian reaches, and one past the last.
    """
    count = radii.shape[1]
    keys, ids = np.empty((2, count), np.uint32), np.empty((2, count), np.int32)
    histogram = np.empty(_RADIX, np.int64)

    view = next_task(counter)
    while view < tasks:
        seen = sort_by_depth(radii[view], shapes[view], order[view], (keys, ids, histogram))
        counts[view] = seen
        pack_view(
            means2d[view], shapes[view], order[view, :seen], height, packed[view], reach[view]
        )
        view = next_task(counter)


@njit(**kernel_options)
def half_chord(row: Any, dy: Any, sign: Any) -> Any:
    """Return the offset in x of the ellipse's right (sign 1) or left (-1) edge at the offset dy in y."""
    v = dy * row[INV_V]
    return row[SLANT] * dy + sign * math.sqrt(max(row[RANGE] - v * v, ZERO)) * row[U_UNIT]


@njit(**kernel_options)
def tile_span(row: Any, top: Any, width: int) -> tuple[int, int]:
    """Return the first and last tile column that a Gaussian reaches in one tile row (none if last < first).

    The ellipse is clipped at the row's outermost pixel centres, so tiles that it misses at its corners are skipped.

    Args:
        row: packed row.
        top: y of the tile row's upper edge, px.
        width: picture width, px.
    """
    low = max(top + HALF - row[Y], -row[HALF_HEIGHT])
    high = min(top + np.float32(TILE - 0.5) - row[Y], row[HALF_HEIGHT])
    if low > high:
        return 1, 0

    # The ellipse is widest at `widest` on the right, at -`widest` on the left; outside the row, take its edge.
    widest = row[WIDEST_DY]
    right = left = row[X]
    if low <= widest <= high:
        right += row[HALF_WIDTH]
    else:
        right += half_chord(row, min(max(widest, low), high), ONE)
    if low <= -widest <= high:
        left -= row[HALF_WIDTH]
    else:
        left += half_chord(row, min(max(-widest, low), high), -ONE)

    first = clamped_index(
        left + HALF, 0, width
    )  # the first pixel centre at or right of `left`, up to rounding
    last = clamped_index(right - HALF, -1, width - 1)
    if first > last:
        return 1, 0
    return first // TILE, last // TILE


@njit(**kernel_options)
def walk_band(
    packed: Any, reach: Any, band: tuple[int, int], width: int, cursors: Any, entries: Any
) -> None:
    """Go through a band's (Gaussian, tile) pairs in depth order, and count or write them.

    Args:
        packed: [V, 16] of one view.
        reach: [V, 2] tile rows of each.
        band: first tile row and one past the last.
        width: picture width, px.
        cursors: [tiles] of the view; each pair adds one to its tile's.
        entries: [E] int32, written at the cursors; empty to only count.
    """
    columns = (width + TILE - 1) // TILE
    writing = len(entries) > 0
    for i in range(len(reach)):
        for tile_row in range(max(reach[i, 0], band[0]), min(reach[i, 1], band[1])):
            first, last = tile_span(packed[i], np.float32(tile_row * TILE), width)
            for tile in range(tile_row * columns + first, tile_row * columns + last + 1):
                if writing:
                    entries[cursors[tile]] = i
                cursors[tile] += 1


@njit(
    "void(int64[::1], int64, float32[:,:,::1], int32[:,:,::1], int64[::1], int64[::1], int64, int64[:,::1],"
    " int32[::1])",
    **entry_options,
)
def list_tiles(
    counter: Any,
    tasks: int,
    packed: Any,
    reach: Any,
    counts: Any,
    bands: Any,
    width: int,
    cursors: Any,
    entries: Any,
) -> None:
    """Count the pairs of every tile, or write them; one task per view and band.

    Args:
        counter: shared task counter, starts at 0.
        tasks: C times the number of bands.
        packed: [C, N, 16].
        reach: [C, N, 2].
        counts: [C] V of each view.
        bands: [number + 1] first tile row of each band, and the end.
        width: picture width, px.
        cursors: [C, tiles] int64, advanced; start at zeros to count, at the lists' first positions to write.
        entries: [E] int32, or empty to count.
    """
    number = len(bands) - 1
    task = next_task(counter)
    while task < tasks:
        view, index = task // number, task % number
        seen = counts[view]
        band = (bands[index], bands[index + 1])
        walk_band(packed[view, :seen], reach[view, :seen], band, width, cursors[view], entries)
        task = next_task(counter)
