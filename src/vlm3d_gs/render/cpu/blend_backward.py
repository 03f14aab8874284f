"""Derivative of the CPU rasteriser's blending.

The lists are walked front to back again, with the arithmetic of the forward pass and so with its
decisions. With weights w_i, transmittance T_i and the slope q_i of the loss along the contribution
of Gaussian i, a pixel needs the sum of w * q over all Gaussians behind i. That is the total, known
from the finished picture, minus what has been passed:

    dL/dalpha_i = T_i q_i - (sum over j > i of w_j q_j) / (1 - alpha_i)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from vlm3d_gs.render.cpu.blend import (
    BUFFER,
    CACHE_LINE,
    CAP,
    CENTRE_X,
    CENTRE_Y,
    CHECK_EVERY,
    DEPTH_EPS,
    FLOOR,
    LOWEST,
    PLANE_1,
    PLANE_2,
    PLANE_3,
    PLANE_4,
    PLANE_5,
    PLANE_6,
    STOP,
    line_start,
    open_rows,
    write_centres,
)
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
    WHITEN,
    X,
    Y,
    clamped_index,
)

GRADIENT_COLUMNS = 12
"""Row of blend gradients: red, green, blue, depth, then the sums of h, hu, hv, huu, huv, hvv with h = dL/dsigma."""


@njit(**kernel_options)
def load_slopes(
    buffer: Any, corner: tuple[int, int], background: Any, pictures: Any, slopes: Any
) -> bool:
    """Fill the tile's planes from one view's pictures and the slopes of the loss; return whether any slope is not zero.

    Args:
        buffer: planes of the tile.
        corner: left and top edge, px.
        background: [3].
        pictures: colour [H, W, 3], alpha [H, W] and depth [H, W] of the forward pass.
        slopes: dL/d of these.
    """
    left, top = corner
    color, alpha, depth = pictures
    d_color, d_alpha, d_depth = slopes
    height, width = alpha.shape
    sloped = False
    for p in range(TILE * TILE):
        y, x = top + p // TILE, left + p % TILE
        inside = y < height and x < width
        if not inside:
            for plane in range(7):
                buffer[plane * TILE * TILE + p] = ZERO
            continue

        # Depth divides by alpha, and the background shows through 1 - alpha: both act on the weights.
        total = alpha[y, x]
        red, green, blue = d_color[y, x, 0], d_color[y, x, 1], d_color[y, x, 2]
        per_depth = d_depth[y, x] / max(total, DEPTH_EPS)
        behind = red * background[0] + green * background[1] + blue * background[2]
        per_weight = (
            d_alpha[y, x] - behind - (per_depth * depth[y, x] if total > DEPTH_EPS else ZERO)
        )
        drawn = (
            red * color[y, x, 0]
            + green * color[y, x, 1]
            + blue * color[y, x, 2]
            - (ONE - total) * behind
        )

        buffer[p] = ONE
        buffer[p + int(PLANE_1)], buffer[p + int(PLANE_2)], buffer[p + int(PLANE_3)] = (
            red,
            green,
            blue,
        )
        buffer[p + int(PLANE_4)], buffer[p + int(PLANE_5)] = per_depth, per_weight
        buffer[p + int(PLANE_6)] = drawn + total * (per_depth * depth[y, x] + per_weight)
        sloped = sloped or red != ZERO or green != ZERO or blue != ZERO
        sloped = sloped or per_depth != ZERO or per_weight != ZERO
    return sloped


@njit(**kernel_options)
def unblend_one(buffer: Any, row: Any, left: Any, top: Any, sums: Any, low: int, high: int) -> None:
    """Pass one Gaussian in the rows low..high of the tile, and add its gradients to `sums` [12].

    As in `blend_one`, no pixel outside the tile is touched.
    """
    first = max(low, clamped_index(row[Y] - row[HALF_HEIGHT] - top + HALF, 0, TILE))
    last = min(high, clamped_index(row[Y] + row[HALF_HEIGHT] - top - HALF, -1, TILE - 1))
    x, y = row[X] - left, row[Y] - top
    slant, inv_u, inv_v, log2_opacity = row[SLANT], row[INV_U], row[INV_V], row[LOG2_OPACITY]
    red, green, blue, depth = row[RED], row[GREEN], row[BLUE], row[DEPTH]
    s_red, s_green, s_blue, s_depth, s_h = ZERO, ZERO, ZERO, ZERO, ZERO
    s_hu, s_hv, s_huu, s_huv, s_hvv = ZERO, ZERO, ZERO, ZERO, ZERO

    for p in range(np.uintp(first * TILE), np.uintp((last + 1) * TILE)):
        dy = buffer[p + CENTRE_Y] - y
        u = (buffer[p + CENTRE_X] - x - slant * dy) * inv_u
        v = dy * inv_v
        alpha = min(CAP, exp2_negative(max(LOWEST, log2_opacity - u * u - v * v)))

        before = buffer[p]
        taken = alpha * before if alpha >= FLOOR else ZERO
        after = before - taken
        goes_on = after > STOP
        weight = taken if goes_on else ZERO
        buffer[p] = after if goes_on else ZERO

        d_red, d_green, d_blue, d_depth = (
            buffer[p + PLANE_1],
            buffer[p + PLANE_2],
            buffer[p + PLANE_3],
            buffer[p + PLANE_4],
        )
        slope = (
            buffer[p + PLANE_5] + red * d_red + green * d_green + blue * d_blue + depth * d_depth
        )

        # h = dL/dsigma = -alpha dL/dalpha, 0 where alpha is capped or the pixel has ended
        behind = buffer[p + PLANE_6] - weight * slope
        buffer[p + PLANE_6] = behind
        h = behind * alpha / (ONE - alpha) - weight * slope
        h = h if (weight > ZERO and alpha < CAP) else ZERO

        hu, hv = h * u, h * v
        s_red += weight * d_red
        s_green += weight * d_green
        s_blue += weight * d_blue
        s_depth += weight * d_depth
        s_h += h
        s_hu += hu
        s_hv += hv
        s_huu += hu * u
        s_huv += hu * v
        s_hvv += hv * v

    sums[0] += s_red
    sums[1] += s_green
    sums[2] += s_blue
    sums[3] += s_depth
    sums[4] += s_h
    sums[5] += s_hu
    sums[6] += s_hv
    sums[7] += s_huu
    sums[8] += s_huv
    sums[9] += s_hvv


@njit(**kernel_options)
def undraw_band(
    buffer: Any,
    packed: Any,
    tiles: tuple[int, int],
    ends: Any,
    entries: Any,
    background: Any,
    pictures: tuple[Any, Any, Any],
    slopes: tuple[Any, Any, Any],
    sums: Any,
) -> None:
    """Differentiate a run of one view's tiles; arguments as for `blend_backward`, of that view and band."""
    columns = (pictures[1].shape[1] + TILE - 1) // TILE
    for tile in range(tiles[0], tiles[1]):
        left, top = (tile % columns) * TILE, (tile // columns) * TILE
        start, stop = ends[tile], ends[tile + 1]
        if start == stop or not load_slopes(buffer, (left, top), background, pictures, slopes):
            continue

        low, high = 0, TILE - 1
        for e in range(start, stop):
            if (e - start) % CHECK_EVERY == CHECK_EVERY - 1:
                low, high = open_rows(buffer, low, high)
                if low > high:
                    break
            i = entries[e]
            unblend_one(buffer, packed[i], np.float32(left), np.float32(top), sums[i], low, high)


@njit(
    "void(int64[::1], int64, float32[:,:,::1], int64[::1], int64[:,::1], int32[::1], float32[:,::1],"
    " Tuple((float32[:,:,:,::1], float32[:,:,::1], float32[:,:,::1])),"
    " Tuple((float32[:,:,:,::1], float32[:,:,::1], float32[:,:,::1])), float32[:,:,:,::1])",
    **entry_options,
)
def blend_backward(
    counter: Any,
    tasks: int,
    packed: Any,
    bands: Any,
    ends: Any,
    entries: Any,
    background: Any,
    pictures: Any,
    slopes: Any,
    sums: Any,
) -> None:
    """Differentiate `blend_forward`; one task per view and band, each with its own sums.

    Args:
        counter: shared task counter, starts at 0.
        tasks: C times the number of bands.
        packed: it, bands, ends, entries and background as for `blend_forward`.
        bands: see there.
        ends: see there.
        entries: see there.
        background: see there.
        pictures: colour, alpha and depth of the forward pass.
        slopes: dL/d of these.
        sums: [C, number of bands, N, 12] zeros, added to.
    """
    number = len(bands) - 1
    columns = (pictures[1].shape[2] + TILE - 1) // TILE
    room = np.empty(BUFFER + CACHE_LINE // 4, np.float32)
    buffer = room[line_start(room) :]
    write_centres(buffer)

    task = next_task(counter)
    while task < tasks:
        view, band = task // number, task % number
        undraw_band(
            buffer,
            packed[view],
            (bands[band] * columns, bands[band + 1] * columns),
            ends[view],
            entries,
            background[view],
            (pictures[0][view], pictures[1][view], pictures[2][view]),
            (slopes[0][view], slopes[1][view], slopes[2][view]),
            sums[view, band],
        )
        task = next_task(counter)


@njit(**kernel_options)
def reduce_view(
    packed: Any,
    reach: Any,
    order: Any,
    bands: Any,
    sums: Any,
    total: Any,
    d_means2d: Any,
    d_shapes: Any,
) -> None:
    """Do the work of `reduce_bands` for one view; `packed` has its V rows only, `total` [12] is scratch."""
    for i in range(len(packed)):
        total[:] = ZERO
        for band in range(len(sums)):
            if bands[band + 1] <= reach[i, 0] or bands[band] >= reach[i, 1]:
                continue
            for column in range(GRADIENT_COLUMNS):
                total[column] += sums[band, i, column]

        row, n = packed[i], order[i]
        # The kernels' u and v are in units that make alpha a power of two, the shapes in standard deviations.
        inv_u, inv_v = row[INV_U] / WHITEN, row[INV_V] / WHITEN
        hu, hv = total[5] / WHITEN, total[6] / WHITEN
        square = WHITEN * WHITEN
        huu, huv, hvv = total[7] / square, total[8] / square, total[9] / square

        d_means2d[n, 0] = -inv_u * hu
        d_means2d[n, 1] = inv_u * row[SLANT] * hu - inv_v * hv
        gradient = d_shapes[n]
        gradient[0] = -inv_u / inv_v * huv
        gradient[1] = huu / inv_u
        gradient[2] = hvv / inv_v
        gradient[3] = -total[4] / exp2_negative(row[LOG2_OPACITY])
        for column in range(4):
            gradient[4 + column] = total[column]


@njit(
    "void(int64[::1], int64, float32[:,:,::1], int32[:,:,::1], int32[:,::1], int64[::1], int64[::1],"
    " float32[:,:,:,::1], float32[:,:,::1], float32[:,:,::1])",
    **entry_options,
)
def reduce_bands(
    counter: Any,
    tasks: int,
    packed: Any,
    reach: Any,
    order: Any,
    counts: Any,
    bands: Any,
    sums: Any,
    d_means2d: Any,
    d_shapes: Any,
) -> None:
    """Turn the bands' sums into gradients of centres and shapes, adding bands in order; one task per view.

    Args:
        counter: shared task counter, starts at 0.
        tasks: C.
        packed: [C, N, 16] rows in depth order.
        reach: [C, N, 2] tile rows of each; only the bands that it reaches are read.
        order: [C, N] Gaussian of each position.
        counts: [C] V of each view.
        bands: [number + 1] first tile row of each band, and the end.
        sums: [C, number of bands, N, 12] from `blend_backward`.
        d_means2d: [C, N, 2] zeros, written where seen.
        d_shapes: [C, N, 8] zeros, written where seen.
    """
    total = np.empty(GRADIENT_COLUMNS, np.float32)
    view = next_task(counter)
    while view < tasks:
        seen = counts[view]
        reduce_view(
            packed[view, :seen],
            reach[view],
            order[view],
            bands,
            sums[view],
            total,
            d_means2d[view],
            d_shapes[view],
        )
        view = next_task(counter)
