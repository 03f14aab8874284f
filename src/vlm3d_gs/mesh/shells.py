"""What of a field is outside: so that hollows are filled and only the outer surface is left.

Outside is what can be reached from the border of the grid through empty samples. So that a pinhole in
a shell does not count as a way in, the first flood goes only where a whole cube around a sample is empty;
from there it creeps on to the surface and into narrow places, but only a little deeper.
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
"""States of a sample: filled; below the level; below with all around; reached from the border; just reached."""
PROBE = 0.014
"""Half the side of the cube that must be empty, in the unit ball; at least one sample."""
DEEPER = 2
"""How many samples deep a flood enters places narrower than the cube."""
FILLED = 0.5
"""Value over the level that filled samples get."""


def outer_field(field: F32, level: float, step: float) -> F32:
    """Return a field with the same outer surface at 0 and without hollows.

    Args:
        field: [X, Y, Z], large inside; the outermost samples count as outside whatever they are.
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
    # A value of exactly 0 would put several corners of the surface into one place.
    smallest = np.float32(1e-4) * max(float(np.abs(shifted).mean()), 1e-6)
    tiny = np.abs(shifted) < smallest
    shifted[tiny] = np.where(shifted[tiny] < 0, -smallest, smallest)
    return shifted


def _borders(values: F32 | U8) -> list[F32 | U8]:
    """Return the six outermost planes, as views."""
    return [np.moveaxis(values, axis, 0)[end] for axis in range(3) for end in (0, -1)]


@njit(**kernel_options)
def touches(states: U8, i: int, j: int, k: int, wanted: int) -> bool:
    """Tell whether one of a sample's six neighbours has the wanted state."""
    nx, ny, nz = states.shape
    return bool(
        (i > 0 and states[i - 1, j, k] == wanted)
        or (i < nx - 1 and states[i + 1, j, k] == wanted)
        or (j > 0 and states[i, j - 1, k] == wanted)
        or (j < ny - 1 and states[i, j + 1, k] == wanted)
        or (k > 0 and states[i, j, k - 1] == wanted)
        or (k < nz - 1 and states[i, j, k + 1] == wanted)
    )


@njit(**entry_options)
def eroded(mask: U8) -> U8:
    """Return 1 where a sample and its 26 neighbours are all not 0; beyond the border counts as 1."""
    nx, ny, nz = mask.shape
    left = np.empty_like(mask)
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                every = 1
                for a in range(max(i - 1, 0), min(i + 2, nx)):
                    for b in range(max(j - 1, 0), min(j + 2, ny)):
                        for c in range(max(k - 1, 0), min(k + 2, nz)):
                            every &= mask[a, b, c]
                left[i, j, k] = every
    return left


@njit(**entry_options)
def sweep(states: U8, direction: int) -> int:
    """Carry `OUTSIDE` through wide samples in one pass, up or down all axes; return the number of changes."""
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
    """Carry `OUTSIDE` on by one step through any empty sample."""
    nx, ny, nz = states.shape
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                state = states[i, j, k]
                open_here = state in (EMPTY, WIDE)
                if open_here and touches(states, i, j, k, OUTSIDE):
                    states[i, j, k] = ENTERED
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                if states[i, j, k] == ENTERED:
                    states[i, j, k] = OUTSIDE


def flood(states: U8, probe: int) -> None:
    """Turn the empty samples that are outside into `OUTSIDE`, in place.

    Args:
        states: [X, Y, Z] of `SOLID` and `EMPTY`; the border is empty.
        probe: samples on each side of one that must be empty for the flood to pass freely.
    """
    wide = (states != SOLID).astype(np.uint8)
    for _ in range(probe):
        wide = eroded(wide)
    states[wide == 1] = WIDE
    for border in _borders(states):
        border[:] = OUTSIDE
    while sweep(states, 1) + sweep(states, -1) > 0:
        pass
    for _ in range(probe + DEEPER):
        enter_narrow(states)
