"""The frames of files, and the rotations between them.

Our world: the front camera stands on +x, its right is +y, up is +z. A frame is defined by the
rotation matrix whose rows are its axes in world coordinates. Rotating a scene rotates positions,
quaternions and every band of the spherical harmonics; without the last, highlights would move.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.bands import SH_C0, higher_terms
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.formats.options import Frame
from vlm3d_gs.formats.quats import multiplied, normalized, quats_of

Matrix = NDArray[np.float64]
FloatArray = NDArray[np.float32]
SplatTurn = Callable[
    [FloatArray, FloatArray, FloatArray], tuple[FloatArray, FloatArray, FloatArray]
]
"""Turns positions, quaternions and harmonics; the quaternions become unit ones, all float32."""

WORLD_TO_RDF = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0))
"""x right, y down, z away, as the front camera sees the object: PLY, .splat, SOG."""
WORLD_TO_RUB = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
"""x right, y up, z towards the viewer: glTF, SPZ and meshes."""
WORLD_TO_LUF = ((0.0, -1.0, 0.0), (0.0, 0.0, 1.0), (-1.0, 0.0, 0.0))
"""x left, y up, z away: glTF's axes as the object itself would name them."""
WORLD_TO_LDB = ((0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (1.0, 0.0, 0.0))
"""x left, y down, z towards the viewer."""
ROTATIONS: dict[Frame, tuple[tuple[float, ...], ...]] = {
    "rdf": WORLD_TO_RDF,
    "rub": WORLD_TO_RUB,
    "luf": WORLD_TO_LUF,
    "ldb": WORLD_TO_LDB,
    "world": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}
"""Rotation from our world into each frame."""

FIT_DIRECTIONS = 64
"""Directions on which the harmonics' rotation is solved; the largest system has 16 unknowns."""


def rotation_to(frame: Frame) -> Matrix:
    """Return the rotation from our world into a frame, [3, 3].

    Raises:
        ConfigError: unknown frame; the known ones are listed.
    """
    if frame not in ROTATIONS:
        raise ConfigError(
            f"The frame of a file must be one of {', '.join(ROTATIONS)}, got {frame!r}."
        )
    return np.array(ROTATIONS[frame])


def sh_rotation(rotation: Matrix, degree: int) -> Matrix:
    """Return the matrix that rotates the coefficients of real spherical harmonics.

    The rotated function is f'(d) = f(R^T d). Bands do not mix, so each block is the exact solution
    of Y_l(d) M_l = Y_l(R^T d) over fixed directions d.

    Args:
        rotation: [3, 3] proper rotation.
        degree: 0 to 3.

    Returns:
        [K, K] with K = (degree + 1)^2; new coefficients = M @ old.
    """
    directions = _fibonacci_directions(FIT_DIRECTIONS)
    before = _basis(directions, degree)
    after = _basis(directions @ rotation, degree)  # rows: R^T d
    mixing = np.zeros((before.shape[-1], before.shape[-1]))

    for band in range(degree + 1):
        block = slice(band * band, (band + 1) * (band + 1))
        solved, *_ = np.linalg.lstsq(before[:, block], after[:, block], rcond=None)
        # Entries of axis permutations are 0, 1, 1/2, sqrt(3)/2 ...: without rounding noise the
        # written bytes do not depend on the linear algebra library.
        mixing[block, block] = np.round(solved, 12)
    return mixing


def half_turn(rotation: Matrix, degree: int) -> SplatTurn:
    """Return what turns splats half around an axis of coordinates, which only changes signs.

    So turn the axes of files into each other, all but `world`.

    Args:
        rotation: [3, 3] diagonal.
        degree: of the harmonics.
    """
    signs = np.diag(rotation).astype(np.float32)
    mixing = np.diag(sh_rotation(rotation, degree)).astype(np.float32)[:, None]
    quat = quats_of(rotation)

    def turn(
        means: FloatArray, quats: FloatArray, sh: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        turned = multiplied(np.broadcast_to(quat, quats.shape), normalized(quats))
        return (
            (means * signs).astype(np.float32, copy=False),
            turned.astype(np.float32),
            (sh * mixing).astype(np.float32, copy=False),
        )

    return turn


def _basis(directions: Matrix, degree: int) -> Matrix:
    """Return [D, K], the basis functions in directions [D, 3]."""
    x, y, z = directions.T
    return np.stack([np.full_like(x, SH_C0), *higher_terms(x, y, z, degree)], -1)


def _fibonacci_directions(count: int) -> Matrix:
    index = np.arange(count, dtype=np.float64)
    height = 1.0 - (2.0 * index + 1.0) / count
    radius = np.sqrt(1.0 - height * height)
    angle = index * math.pi * (3.0 - math.sqrt(5.0))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1)
