"""Splats moved by the transforms of scene files: glTF's nodes, USD's prims."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.bands import degree_of
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.frames import sh_rotation
from vlm3d_gs.formats.quats import multiplied, normalized, quats_of, rotmats

TOLERANCE = 1e-4
"""How far a matrix may be from a rotation times a scale to count as one: rounding in the file."""
SMALLEST_AXIS = 1e-12
"""Share of the largest axis that a Gaussian keeps along one that a transform has flattened."""

Matrix = NDArray[np.float64]


def transformed(arrays: SplatArrays, matrix: Matrix, source: Path) -> SplatArrays:
    """Return a splat moved by any affine transform.

    A Gaussian stays one under any such map, so positions and shapes are exact, also for mirrors and
    uneven scales. Colours by direction follow the orthogonal part, which is exact but for shears and
    uneven scales; these are remarked on.

    Args:
        arrays: N Gaussians.
        matrix: [4, 4] finite, acts on columns (x, y, z, 1); its last row is (0, 0, 0, 1).
        source: the file, for the error.

    Raises:
        InputFileError: the matrix is singular.
    """
    if np.array_equal(matrix, np.eye(4)):
        return arrays
    linear, offset = matrix[:3, :3], matrix[:3, 3]
    left, stretch, right = np.linalg.svd(linear)
    if not stretch[-1] > 1e-9 * stretch[0]:
        raise InputFileError(
            f"{source} flattens its splat by a transform; nothing of it would be left."
        )

    orthogonal = left @ right  # the nearest rotation, or mirror
    even = bool(stretch[0] - stretch[-1] <= TOLERANCE * stretch[0])
    moved = (
        _evenly(arrays, orthogonal, float(stretch.mean())) if even else _unevenly(arrays, linear)
    )

    mixing = sh_rotation(orthogonal, degree_of(arrays.sh.shape[1]))
    means = arrays.means.astype(np.float64) @ linear.T + offset
    remarks = (
        ()
        if even or arrays.sh.shape[1] == 1
        else ("an uneven scale or shear, which colours by direction follow only in part",)
    )
    return replace(
        moved,
        means=means.astype(np.float32),
        sh=np.einsum("jk,nkc->njc", mixing, arrays.sh).astype(np.float32),
        remarks=(*arrays.remarks, *remarks),
    )


def _evenly(arrays: SplatArrays, orthogonal: Matrix, scale: float) -> SplatArrays:
    """Return the shapes turned, perhaps mirrored, and grown."""
    # A Gaussian is its own image through its centre, so what mirrors may turn instead.
    turn = -orthogonal if np.linalg.det(orthogonal) < 0 else orthogonal
    turned = multiplied(quats_of(turn), normalized(arrays.quats))
    return replace(
        arrays,
        log_scales=(arrays.log_scales + np.log(scale)).astype(np.float32),
        quats=turned.astype(np.float32),
    )


def _unevenly(arrays: SplatArrays, linear: Matrix) -> SplatArrays:
    """Return the shapes under a map that is no multiple of a rotation: the axes of A C A^T."""
    turns = rotmats(arrays.quats)
    # In units of each Gaussian's largest axis, so that no size is too small or too large to be squared.
    logs = arrays.bounded().log_scales.astype(np.float64)
    unit = logs.max(1, keepdims=True)
    axes = linear @ (turns * np.exp(logs - unit)[:, None, :])
    broken = ~np.isfinite(axes).all((1, 2))
    axes[broken] = np.eye(3)

    directions, sizes, _ = np.linalg.svd(axes)
    directions[..., 2] *= np.sign(np.linalg.det(directions))[:, None]  # no mirror
    new_logs = np.log(np.maximum(sizes, SMALLEST_AXIS * sizes[:, :1])) + unit
    new_logs[broken] = np.nan
    return replace(
        arrays,
        log_scales=new_logs.astype(np.float32),
        quats=quats_of(directions).astype(np.float32),
    )
