"""Transforms of glTF nodes: their matrices, and splats transformed by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.rotations import quat_to_rotmat
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.frames import rotate_gaussians

MAX_DEPTH = 64
"""Levels of nodes within nodes."""
TOLERANCE = 1e-4
"""How far a matrix may be from a rotation times a uniform scale."""

Matrix = NDArray[np.float64]


def node_matrix(source: Path, node: dict[str, Any]) -> Matrix:
    """Return a node's own transform, [4, 4], from its matrix or its rotation, scale and translation.

    Raises:
        InputFileError: numbers are missing or not finite.
    """
    try:
        if "matrix" in node:
            matrix = np.array(node["matrix"], np.float64).reshape(4, 4).T  # column-major
        else:
            x, y, z, w = (float(value) for value in node.get("rotation", (0, 0, 0, 1)))
            rotation = quat_to_rotmat(torch.tensor([w, x, y, z], dtype=torch.float64)).numpy()
            scale = np.array(node.get("scale", (1, 1, 1)), np.float64).reshape(3)
            translation = np.array(node.get("translation", (0, 0, 0)), np.float64).reshape(3)

            matrix = np.eye(4)
            matrix[:3, :3] = rotation * scale  # columns: the scale acts first
            matrix[:3, 3] = translation
    except (ValueError, TypeError) as error:
        raise InputFileError(f"{source} has a damaged node: {error}") from error

    if not np.isfinite(matrix).all():
        raise InputFileError(f"{source} has a damaged node: its transform is not finite.")
    return matrix


def transform(source: Path, arrays: SplatArrays, matrix: Matrix) -> SplatArrays:
    """Return a splat rotated, scaled uniformly and translated by a matrix.

    Raises:
        InputFileError: the matrix mirrors, shears, or scales unevenly.
    """
    if np.array_equal(matrix, np.eye(4)):
        return arrays

    linear = matrix[:3, :3]
    scale = float(np.cbrt(np.linalg.det(linear)))
    rotation = linear / scale if scale > 0 else linear
    if scale <= 0 or not np.allclose(rotation @ rotation.T, np.eye(3), atol=TOLERANCE):
        raise InputFileError(
            f"{source} has a node that mirrors, shears or scales unevenly; a splat cannot follow that. "
            "Apply the transform in the program that made it."
        )

    # The nearest exact rotation: rounding in the file must not count as a mirror.
    left, _, right = np.linalg.svd(rotation)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.columns().items()}
    rotated = rotate_gaussians(Gaussians.from_parameters(tensors), torch.from_numpy(left @ right))

    return SplatArrays(
        means=(rotated.means.numpy() * scale + matrix[:3, 3]).astype(np.float32),
        log_scales=(rotated.log_scales.numpy() + np.log(scale)).astype(np.float32),
        quats=rotated.quats.numpy(),
        opacity_logits=rotated.opacity_logits.numpy(),
        sh=rotated.sh.numpy(),
        frame=arrays.frame,
    )
