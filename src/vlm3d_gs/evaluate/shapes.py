"""Which primitive an object is: its silhouettes against those of all five, each fitted first.

A candidate has a centre, a horizontal and a vertical scale (their ratio kept near the primitive's
own proportions) and, for the cube, a rotation about z. It is fitted by a pattern search that
maximises the intersection over union of its ray-cast silhouettes with the observed masks over many
views. Where the other object is in front, a candidate may continue behind it, but not stick out.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.prompts import SHAPES
from vlm3d_gs.evaluate.kernels import MAX_STRETCH, cast_reach, search, silhouette_iou
from vlm3d_gs.layout.shapes import HALF_HEIGHT, HALF_WIDTH
from vlm3d_gs.mini.world.raycast import FAR

F64 = NDArray[np.float64]

COARSE_STEPS, FINE_STEPS = (0.16, 0.04), (0.08, 0.01)
"""First and last step of the search on few rays, then on more; in units of the half extent."""
HIDDEN = 0.1
"""Share of a silhouette behind other things from which on the visible surface decides, too."""
SETTLED = 0.03
"""What that may cost in overlap."""
SKIP = 3
"""The search starts on every third ray."""
THREADS = 2


class Rays(NamedTuple):
    """Rays through pixels of many views, and whether the pixels show the object."""

    origins: F64
    """[R, 3] camera positions, world units."""
    directions: F64
    """[R, 3] unit vectors."""
    inside: NDArray[np.bool_]
    """[R] the pixel shows the object."""
    limits: F64
    """[R] distance of what would hide the object there, `FAR` if nothing does."""


@dataclass(frozen=True, slots=True)
class ShapeFit:
    """One primitive fitted to an object's masks."""

    shape: str
    """One of `prompts.SHAPES`."""
    iou: float
    """Intersection over union of silhouettes, summed over all views, 0 to 1."""
    center: tuple[float, float, float]
    """World units."""
    half_width: float
    """Half extent along x and y (before the rotation), world units."""
    half_height: float
    """Half extent along z, world units."""
    turn_rad: float
    """Rotation about z; 0 for all but the cube."""


def fit_shapes(rough: Rays, fine: Rays, low: F64, high: F64) -> tuple[ShapeFit, ...]:
    """Fit all five primitives; best first.

    Args:
        rough: fewer rays, for the search.
        fine: all rays, for the scores.
        low: [3] lower corner of the object's box, world units: where the search starts.
        high: [3] upper corner.

    Returns:
        One fit per shape, by descending intersection over union.
    """
    coarse = Rays._make(column[::SKIP].copy() for column in rough)

    def fit(index: int) -> ShapeFit:
        return _fit(index, (coarse, rough, fine), low, high)

    with ThreadPoolExecutor(THREADS) as pool:
        fits = list(pool.map(fit, range(len(SHAPES))))
    return tuple(sorted(fits, key=lambda item: -item.iou))


def distances(fit: ShapeFit, rays: Rays) -> F64:
    """Return the distance of a fitted primitive along each ray, [R] world units, `FAR` for a miss."""
    reach = np.empty(len(rays.inside))
    cast_reach(SHAPES.index(fit.shape), _to_params(fit), rays.origins, rays.directions, reach)
    return reach


def settle(fit: ShapeFit, rays: Rays, measured: F64) -> ShapeFit:
    """Return a shape that explains the visible surface, too, where most of it is hidden.

    What little shows of a cone in a ring is explained by flatter and by taller cones alike. Of those whose silhouettes
    are nearly as good, the one whose surface is nearest to what is seen is taken, by a pattern search.

    Args:
        fit: by silhouettes.
        rays: those near the object, R of them.
        measured: [R] distances that the views show, world units.

    Returns:
        `fit` itself where less than `HIDDEN` of its silhouette is hidden.
    """
    reach = distances(fit, rays)
    silhouette = reach < FAR
    if (silhouette & (rays.limits <= reach)).sum() < HIDDEN * silhouette.sum():
        return fit

    index, few = SHAPES.index(fit.shape), Rays._make(column[::SKIP].copy() for column in rays)
    shown = Rays._make(column[few.inside] for column in few)
    seen, cap = measured[::SKIP][few.inside], 0.5 * fit.half_width
    least = silhouette_iou(index, _to_params(fit), *few) - SETTLED

    def gap(params: F64) -> float:
        if silhouette_iou(index, params, *few) < least:
            return math.inf
        reach = np.empty(len(seen))
        cast_reach(index, params, shown.origins, shown.directions, reach)
        return float(np.minimum(np.abs(reach - seen), cap).mean())

    params, step = _to_params(fit), COARSE_STEPS[0]
    best = gap(params)
    sizes = np.array([fit.half_width, fit.half_width, fit.half_width, 1.0, 1.0])
    while step >= FINE_STEPS[1]:
        moves = [(axis, sign * step) for axis in range(len(sizes)) for sign in (-1.0, 1.0)]
        trials = [params + _move(axis, move * sizes[axis]) for axis, move in moves]
        # A thing grows with its top or its floor in place, too.
        trials += [
            params + _move(4, sign * step) + _move(2, side * sign * step * fit.half_height)
            for sign in (-1.0, 1.0)
            for side in (-1.0, 1.0)
        ]
        gaps = [gap(trial) for trial in trials]
        if min(gaps) < best:
            best, params = min(gaps), trials[int(np.argmin(gaps))]
        else:
            step /= 2.0
    return replace(
        fit,
        center=(float(params[0]), float(params[1]), float(params[2])),
        half_width=math.exp(params[3]) * HALF_WIDTH[fit.shape],
        half_height=math.exp(params[4]) * HALF_HEIGHT[fit.shape],
    )


def _move(axis: int, length: float) -> F64:
    move = np.zeros(6)
    move[axis] = length
    return move


def _fit(index: int, rays: tuple[Rays, Rays, Rays], low: F64, high: F64) -> ShapeFit:
    """Fit one shape on few rays, then on more; its score is from all."""
    name = SHAPES[index]

    # Start from the box, with proportions within bounds.
    half = np.maximum((high - low) / 2.0, 1e-3)
    wide, tall = HALF_WIDTH[name], HALF_HEIGHT[name]
    across, up = math.log((half[0] + half[1]) / 2.0 / wide), math.log(half[2] / tall)
    limit = math.log(MAX_STRETCH)
    up = min(max(up, across - limit), across + limit)
    params = np.array([*((low + high) / 2.0), across, up, 0.0])

    reach = float(half.mean())
    free = 6 if name == "cube" else 5
    sizes = np.array([reach, reach, reach, 1.0, 1.0, 2.0])
    for subset, steps in zip(rays[:2], (COARSE_STEPS, FINE_STEPS), strict=True):
        params = search(index, params, sizes, free, steps, *subset)
    score = silhouette_iou(index, params, *rays[2])

    return ShapeFit(
        shape=name,
        iou=float(score),
        center=(float(params[0]), float(params[1]), float(params[2])),
        half_width=math.exp(params[3]) * wide,
        half_height=math.exp(params[4]) * tall,
        turn_rad=float(params[5]),
    )


def _to_params(fit: ShapeFit) -> F64:
    across = math.log(fit.half_width / HALF_WIDTH[fit.shape])
    up = math.log(fit.half_height / HALF_HEIGHT[fit.shape])
    return np.array([*fit.center, across, up, fit.turn_rad])
