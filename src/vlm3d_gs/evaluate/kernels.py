"""Compiled loops of the checker: rays against primitives, and connected components."""

# Numba's decorators carry no types.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vlm3d_gs.mini.world.raycast import FAR, hit
from vlm3d_gs.render.cpu.cache import can_cache

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

MAX_STRETCH = 1.4
"""Largest ratio of vertical to horizontal scale, and of horizontal to vertical."""
LOG_STRETCH = math.log(MAX_STRETCH) + 1e-9


@njit(cache=can_cache(), nogil=True)
def _reach(
    shape: int,
    params: F64,
    scale: tuple[float, float],
    turn: tuple[float, float],
    origin: F64,
    direction: F64,
) -> float:
    """Return the distance to the primitive along one ray, world units; FAR if it is missed.

    The ray is transformed into the primitive's own rotated and scaled frame.
    """
    scale_xy, scale_z = scale
    cosine, sine = turn
    ox, oy, oz = origin[0] - params[0], origin[1] - params[1], origin[2] - params[2]
    x, y, z = (
        (cosine * ox + sine * oy) / scale_xy,
        (cosine * oy - sine * ox) / scale_xy,
        oz / scale_z,
    )
    dx = (cosine * direction[0] + sine * direction[1]) / scale_xy
    dy = (cosine * direction[1] - sine * direction[0]) / scale_xy
    dz = direction[2] / scale_z

    # Normalise the direction in that frame; `norm` converts distances back.
    norm = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
    dx, dy, dz = dx * norm, dy * norm, dz * norm

    b = x * dx + y * dy + z * dz
    if b * b - (x * x + y * y + z * z - 2.0) <= 0.0:  # misses the ball that holds every primitive
        return FAR
    t, _, _, _ = hit(shape, x, y, z, dx, dy, dz)
    return t * norm if t < FAR else FAR


@njit(cache=can_cache(), nogil=True)
def silhouette_iou(
    shape: int, params: F64, origins: F64, directions: F64, inside: Mask, limits: F64
) -> float:
    """Return the intersection over union of a primitive's silhouettes with masks.

    Args:
        shape: index into `prompts.SHAPES`.
        params: [6] centre x, y, z; logarithms of the horizontal and the vertical scale; turn, rad.
        origins: [R, 3] camera positions.
        directions: [R, 3] unit rays.
        inside: [R] the masks.
        limits: [R] distance from which on something else would hide the primitive.

    Returns:
        0 to 1; -1 if the proportions are out of bounds.
    """
    if abs(params[4] - params[3]) > LOG_STRETCH:
        return -1.0
    scale = (math.exp(params[3]), math.exp(params[4]))
    turn = (math.cos(params[5]), math.sin(params[5]))

    both, either = 0, 0
    for r in range(inside.shape[0]):
        covered = _reach(shape, params, scale, turn, origins[r], directions[r]) < limits[r]
        if covered and inside[r]:
            both += 1
        if covered or inside[r]:
            either += 1
    return both / max(either, 1)


@njit(cache=can_cache(), nogil=True)
def cast_reach(shape: int, params: F64, origins: F64, directions: F64, reach: F64) -> None:
    """Write the distance along each ray, FAR for a miss; other arguments as in `silhouette_iou`."""
    scale = (math.exp(params[3]), math.exp(params[4]))
    turn = (math.cos(params[5]), math.sin(params[5]))
    for r in range(reach.shape[0]):
        reach[r] = _reach(shape, params, scale, turn, origins[r], directions[r])


@njit(cache=can_cache(), nogil=True)
def search(
    shape: int,
    start: F64,
    sizes: F64,
    free: int,
    steps: tuple[float, float],
    origins: F64,
    directions: F64,
    inside: Mask,
    limits: F64,
) -> F64:
    """Maximise `silhouette_iou` by pattern search.

    Tries each parameter up and down, and halves the step when nothing helps.

    Args:
        shape: index into `prompts.SHAPES`.
        start: [6] first parameters.
        sizes: [6] natural size of each parameter.
        free: number of parameters to search, from the first; the others stay.
        steps: first and last step, in units of the sizes.
        origins: [R, 3] camera positions.
        directions: [R, 3] unit rays.
        inside: [R] the masks.
        limits: [R] as in `silhouette_iou`.

    Returns:
        [6] the best parameters found.
    """
    best = start.copy()
    score = silhouette_iou(shape, best, origins, directions, inside, limits)

    step = steps[0]
    while step >= steps[1]:
        better = False
        for k in range(free):
            for sign in (-1.0, 1.0):
                trial = best.copy()
                trial[k] += sign * step * sizes[k]
                value = silhouette_iou(shape, trial, origins, directions, inside, limits)
                if value > score:
                    best, score, better = trial, value, True
                    break

        if not better:
            step *= 0.5
    return best


@njit(cache=can_cache(), nogil=True)
def _spread(mask: Mask, seen: Mask, row: int, col: int, stack: I64) -> int:
    """Visit the component of one pixel, and return its size; `stack` holds the visited pixels."""
    height, width = mask.shape
    stack[0, 0], stack[0, 1] = row, col
    seen[row, col] = True
    count, done = 1, 0

    while done < count:
        r, c = stack[done, 0], stack[done, 1]
        done += 1
        for y in range(max(r - 1, 0), min(r + 2, height)):
            for x in range(max(c - 1, 0), min(c + 2, width)):
                if mask[y, x] and not seen[y, x]:
                    seen[y, x] = True
                    stack[count, 0], stack[count, 1] = y, x
                    count += 1

    return count


@njit(cache=can_cache(), nogil=True)
def fill_sizes(masks: Mask, sizes: I64) -> None:
    """Write the component size of each mask pixel into `sizes`; both [V, H, W]."""
    views, height, width = masks.shape
    stack = np.empty((height * width, 2), np.int64)
    for v in range(views):
        seen = np.zeros((height, width), np.bool_)
        for row in range(height):
            for col in range(width):
                if masks[v, row, col] and not seen[row, col]:
                    count = _spread(masks[v], seen, row, col, stack)
                    for k in range(count):
                        sizes[v, stack[k, 0], stack[k, 1]] = count


@njit(cache=can_cache(), nogil=True)
def fill_from(masks: Mask, seeds: Mask, reached: Mask) -> None:
    """Mark in `reached` the components of `masks` that contain a pixel of `seeds`; all [V, H, W]."""
    views, height, width = masks.shape
    stack = np.empty((height * width, 2), np.int64)
    for v in range(views):
        for row in range(height):
            for col in range(width):
                if seeds[v, row, col] and not reached[v, row, col]:
                    _spread(masks[v], reached[v], row, col, stack)
