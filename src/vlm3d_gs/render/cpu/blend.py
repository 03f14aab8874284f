"""Blending of the CPU rasteriser, forward, one 8 x 8 px tile at a time.

The backward pass (`blend_backward`) walks a tile's list front to back with the same arithmetic, and
so takes the same decisions. A tile's planes of 64 pixels lie in one buffer; every loop over its
pixels is one SIMD loop over whole rows of 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from vlm3d_gs.render import conventions
from vlm3d_gs.render.cpu.math import (
    HALF,
    ONE,
    ZERO,
    entry_options,
    exp2_negative,
    kernel_options,
    next_task,
)
from vlm3d_gs.render.cpu.tiles import (
    BLUE,
    DEPTH,
    GREEN,
    HALF_HEIGHT,
    INV_U,
    INV_V,
    LOG2_OPACITY,
    RED,
    SLANT,
    TILE,
    X,
    Y,
    clamped_index,
)

CAP, FLOOR = np.float32(conventions.ALPHA_CAP), np.float32(conventions.ALPHA_FLOOR)
STOP, DEPTH_EPS = np.float32(conventions.TRANSMITTANCE_STOP), np.float32(conventions.DEPTH_EPS)
LOWEST = np.float32(-126.0)
PIXELS = np.uintp(TILE * TILE)
CHECK_EVERY = 8
"""After this many Gaussians a tile checks which of its rows have ended."""
CACHE_LINE = 64
"""Bytes; loads are slower if they straddle two lines."""

# Planes of the buffer. Forward: transmittance T, five sums. Backward: T, five slopes, the light still behind.
PLANE_1, PLANE_2, PLANE_3, PLANE_4, PLANE_5, PLANE_6, CENTRE_X, CENTRE_Y = (
    np.uintp(plane * TILE * TILE) for plane in range(1, 9)
)
BUFFER = 9 * TILE * TILE


@njit(**kernel_options)
def write_centres(buffer: Any) -> None:
    """Fill the planes of pixel centres, relative to the tile's corner."""
    for p in range(TILE * TILE):
        buffer[int(CENTRE_X) + p] = np.float32(p % TILE) + HALF
        buffer[int(CENTRE_Y) + p] = np.float32(p // TILE) + HALF


@njit(**kernel_options)
def line_start(room: Any) -> int:
    """Return the index of the first number in `room` at which a cache line starts."""
    return int((-room.ctypes.data % CACHE_LINE) // 4)


@njit(**kernel_options)
def is_open(buffer: Any, row: int) -> bool:
    """Return whether any pixel of the tile's row still lets light through."""
    most, start = ZERO, np.uintp(row * TILE)
    for p in range(np.uintp(TILE)):
        most = max(most, buffer[start + p])
    return bool(most > ZERO)


@njit(**kernel_options)
def open_rows(buffer: Any, low: int, high: int) -> tuple[int, int]:
    """Narrow a range of rows to the first and last that still let light through; low > high if none do."""
    while low <= high and not is_open(buffer, low):
        low += 1
    while high > low and not is_open(buffer, high):
        high -= 1
    return low, high


@njit(**kernel_options)
def blend_one(buffer: Any, row: Any, left: Any, top: Any, low: int, high: int) -> None:
    """Add one Gaussian to the rows low..high of the tile with its corner at (left, top).

    No pixel outside the tile is touched, whatever the row's numbers: rows come from `clamped_index`.
    """
    first = max(low, clamped_index(row[Y] - row[HALF_HEIGHT] - top + HALF, 0, TILE))
    last = min(high, clamped_index(row[Y] + row[HALF_HEIGHT] - top - HALF, -1, TILE - 1))
    x, y = row[X] - left, row[Y] - top
    slant, inv_u, inv_v, log2_opacity = row[SLANT], row[INV_U], row[INV_V], row[LOG2_OPACITY]
    red, green, blue, depth = row[RED], row[GREEN], row[BLUE], row[DEPTH]

    for p in range(np.uintp(first * TILE), np.uintp((last + 1) * TILE)):
        dy = buffer[p + CENTRE_Y] - y
        u = (buffer[p + CENTRE_X] - x - slant * dy) * inv_u
        v = dy * inv_v
        alpha = min(CAP, exp2_negative(max(LOWEST, log2_opacity - u * u - v * v)))

        # A pixel ends, with T = 0, before the Gaussian that would push T to the stop or below.
        before = buffer[p]
        taken = alpha * before if alpha >= FLOOR else ZERO
        after = before - taken
        goes_on = after > STOP
        weight = taken if goes_on else ZERO
        buffer[p] = after if goes_on else ZERO

        buffer[p + PLANE_1] += weight * red
        buffer[p + PLANE_2] += weight * green
        buffer[p + PLANE_3] += weight * blue
        buffer[p + PLANE_4] += weight * depth
        buffer[p + PLANE_5] += weight


@njit(**kernel_options)
def finish_tile(
    buffer: Any, corner: tuple[int, int], background: Any, color: Any, alpha: Any, depth: Any
) -> None:
    """Composite the background and write the tile's part of the pictures [H, W, 3], [H, W], [H, W]."""
    left, top = corner
    height, width = alpha.shape
    for y in range(top, min(top + TILE, height)):
        for x in range(left, min(left + TILE, width)):
            p = (y - top) * TILE + (x - left)
            total = buffer[p + int(PLANE_5)]
            clear = ONE - total
            color[y, x, 0] = buffer[p + int(PLANE_1)] + clear * background[0]
            color[y, x, 1] = buffer[p + int(PLANE_2)] + clear * background[1]
            color[y, x, 2] = buffer[p + int(PLANE_3)] + clear * background[2]
            alpha[y, x] = total
            depth[y, x] = buffer[p + int(PLANE_4)] / max(total, DEPTH_EPS)


@njit(**kernel_options)
def draw_band(
    buffer: Any,
    packed: Any,
    tiles: tuple[int, int],
    ends: Any,
    entries: Any,
    background: Any,
    pictures: tuple[Any, Any, Any],
) -> None:
    """Draw a run of one view's tiles; arguments as for `blend_forward`, of that view."""
    color, alpha, depth = pictures
    columns = (alpha.shape[1] + TILE - 1) // TILE
    for tile in range(tiles[0], tiles[1]):
        left, top = (tile % columns) * TILE, (tile // columns) * TILE
        for p in range(PIXELS):
            buffer[p] = ONE
            buffer[p + PLANE_1] = ZERO
            buffer[p + PLANE_2] = ZERO
            buffer[p + PLANE_3] = ZERO
            buffer[p + PLANE_4] = ZERO
            buffer[p + PLANE_5] = ZERO

        start, stop = ends[tile], ends[tile + 1]
        low, high = 0, TILE - 1
        for e in range(start, stop):
            if (e - start) % CHECK_EVERY == CHECK_EVERY - 1:
                low, high = open_rows(buffer, low, high)
                if low > high:
                    break
            blend_one(buffer, packed[entries[e]], np.float32(left), np.float32(top), low, high)

        finish_tile(buffer, (left, top), background, color, alpha, depth)


@njit(
    "void(int64[::1], int64, float32[:,:,::1], int64[::1], int64[:,::1], int32[::1], float32[:,::1],"
    " float32[:,:,:,::1], float32[:,:,::1], float32[:,:,::1])",
    **entry_options,
)
def blend_forward(
    counter: Any,
    tasks: int,
    packed: Any,
    bands: Any,
    ends: Any,
    entries: Any,
    background: Any,
    color: Any,
    alpha: Any,
    depth: Any,
) -> None:
    """Draw all tiles; one task per view and band.

    Args:
        counter: shared task counter, starts at 0.
        tasks: C times the number of bands.
        packed: [C, N, 16] rows in depth order.
        bands: [number + 1] first tile row of each band, and the end.
        ends: [C, tiles + 1]; a tile's list is entries[ends[c, tile]:ends[c, tile + 1]].
        entries: [E] int32 positions in the view's depth order.
        background: [C, 3].
        color: [C, H, W, 3], written.
        alpha: [C, H, W], written.
        depth: [C, H, W], written.
    """
    number = len(bands) - 1
    columns = (alpha.shape[2] + TILE - 1) // TILE
    room = np.empty(BUFFER + CACHE_LINE // 4, np.float32)
    buffer = room[line_start(room) :]
    write_centres(buffer)

    task = next_task(counter)
    while task < tasks:
        view, band = task // number, task % number
        draw_band(
            buffer,
            packed[view],
            (bands[band] * columns, bands[band + 1] * columns),
            ends[view],
            entries,
            background[view],
            (color[view], alpha[view], depth[view]),
        )
        task = next_task(counter)
