"""The outside of a field, found by a flood fill: cavities are filled and only the outer surface is left.

Outside is what can be reached from the border of the grid through empty samples. So that the flood
does not enter a shell through a pinhole, it first passes only samples with a whole empty cube around
them; from there it goes on to the surface and into narrow gaps, but only a few samples deep.
"""

# Numba's decorators carry no types.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vlm3d_gs.mesh.grid import F32
from vlm3d_gs.render.cpu.math import entry_options, kernel_options

U8 = NDArray[np.uint8]

SOLID, EMPTY, WIDE, OUTSIDE, ENTERED = 0, 1, 2, 3, 4
"""States of a sample: at or above the level; below it; below it with a whole cube; reached; just reached."""
PROBE = 0.014
"""Half the side of the cube that must be empty, in the unit ball; at least one sample."""
DEEPER = 2
"""Samples that the flood goes into gaps narrower than the cube."""
FILLED = 0.5
"""Value above the level that filled samples get."""


def outer_field(field: F32, level: float, step: float) -> F32:
    """Return a field with the same outer surface at 0 and without cavities.

    Args:
        field: [X, Y, Z], large inside; the outermost samples always count as outside.
        level: value at the surface.
        step: distance of the samples, the unit ball's radius being 1.

    Returns:
        [X, Y, Z] field - level, positive inside, never 0; samples below the level that are not
        outside are `FILLED`.
    """
    shifted = field - np.float32(level)
    for border in _borders(shifted):
        border[border >= 0] = -FILLED

    states = np.where(shifted >= 0, np.uint8(SOLID), np.uint8(EMPTY))
    flood(states, max(1, round(PROBE / step)))
    shifted[(states != OUTSIDE) & (states != SOLID)] = FILLED

    # A value of exactly 0 would put several vertices of the surface at one point.
    smallest = np.float32(1e-4) * max(float(np.abs(shifted).mean()), 1e-6)
    tiny = np.abs(shifted) < smallest
    shifted[tiny] = np.where(shifted[tiny] < 0, -smallest, smallest)
    return shifted


def _borders(values: F32 | U8) -> list[F32 | U8]:
    """Return the six outermost planes, as views."""
    return [np.moveaxis(values, axis, 0)[end] for axis in range(3) for end in (0, -1)]


@njit(**kernel_options)
def touches(states: U8, i: int, j: int, k: int, state: int) -> bool:
    """Return whether one of a sample's six neighbours has a state."""
    nx, ny, nz = states.shape
    return bool(
        (i > 0 and states[i - 1, j, k] == state)
        or (i < nx - 1 and states[i + 1, j, k] == state)
        or (j > 0 and states[i, j - 1, k] == state)
        or (j < ny - 1 and states[i, j + 1, k] == state)
        or (k > 0 and states[i, j, k - 1] == state)
        or (k < nz - 1 and states[i, j, k + 1] == state)
    )


@njit(**entry_options)
def erode(mask: U8) -> U8:
    """Return 1 where a sample and its 26 neighbours are all 1; samples beyond the border count as 1."""
    nx, ny, nz = mask.shape
    result = np.empty_like(mask)
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                every = 1
                for a in range(max(i - 1, 0), min(i + 2, nx)):
                    for b in range(max(j - 1, 0), min(j + 2, ny)):
                        for c in range(max(k - 1, 0), min(k + 2, nz)):
                            every &= mask[a, b, c]
                result[i, j, k] = every
    return result


@njit(**entry_options)
def sweep(states: U8, direction: int) -> int:
    """Spread `OUTSIDE` through wide samples in one pass, up or down all axes; return the number of changes."""
    nx, ny, nz = states.shape
    changes = 0
    for u in range(nx):
        i = u if direction > 0 else nx - 1 - u
        for v in range(ny):
            j = v if direction > 0 else ny - 1 - v
            for w in range(nz):
                k = w if direction > 0 else nz - 1 - w
                if states[i, j, k] == WIDE and touches(states, i, j, k, OUTSIDE):
                    states[i, j, k] = OUTSIDE
                    changes += 1
    return changes


@njit(**entry_options)
def enter_narrow(states: U8) -> None:
    """Spread `OUTSIDE` by one sample through any empty ones."""
    nx, ny, nz = states.shape
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                state = states[i, j, k]
                passable = state in (EMPTY, WIDE)
                if passable and touches(states, i, j, k, OUTSIDE):
                    states[i, j, k] = ENTERED

    # Only now, so that one call goes no further than one sample.
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                if states[i, j, k] == ENTERED:
                    states[i, j, k] = OUTSIDE


def flood(states: U8, probe: int) -> None:
    """Mark the empty samples that are outside as `OUTSIDE`, in place.

    Args:
        states: [X, Y, Z] of `SOLID` and `EMPTY`; the border is empty.
        probe: samples on each side that must be empty for the flood to pass freely.
    """
    wide = (states != SOLID).astype(np.uint8)
    for _ in range(probe):
        wide = erode(wide)
    states[wide == 1] = WIDE
    for border in _borders(states):
        border[:] = OUTSIDE
    while sweep(states, 1) + sweep(states, -1) > 0:
        pass
    for _ in range(probe + DEEPER):
        enter_narrow(states)
