"""Where a glTF node puts its splat: matrices of nodes, and moving arrays by them."""

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

MOST_DEPTH = 64
"""Nodes within nodes."""
TOLERANCE = 1e-4
"""How far a matrix may be from a rotation times one scale."""

Matrix = NDArray[np.float64]


def node_matrix(source: Path, node: dict[str, Any]) -> Matrix:
    """Return a node's own transform, [4, 4], from its matrix or its three parts.

    Raises:
        InputFileError: numbers are missing or not finite.
    """
    try:
        if "matrix" in node:
            matrix = np.array(node["matrix"], np.float64).reshape(4, 4).T  # column-major
        else:
            x, y, z, w = (float(part) for part in node.get("rotation", (0, 0, 0, 1)))
            turn = quat_to_rotmat(torch.tensor([w, x, y, z], dtype=torch.float64)).numpy()
            matrix = np.eye(4)
            matrix[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), np.float64).reshape(3)
            matrix[:3, 3] = np.array(node.get("translation", (0, 0, 0)), np.float64).reshape(3)
    except (ValueError, TypeError) as error:
        raise InputFileError(f"{source} has a damaged node: {error}") from error
    if not np.isfinite(matrix).all():
        raise InputFileError(f"{source} has a damaged node: its transform is not finite.")
    return matrix


def moved(source: Path, arrays: SplatArrays, matrix: Matrix) -> SplatArrays:
    """Return a splat turned, scaled evenly and shifted by a matrix.

    Raises:
        InputFileError: the matrix mirrors, shears, or scales unevenly.
    """
    if np.array_equal(matrix, np.eye(4)):
        return arrays
    linear = matrix[:3, :3]
    scale = float(np.cbrt(np.linalg.det(linear)))
    turn = linear / scale if scale > 0 else linear
    if scale <= 0 or not np.allclose(turn @ turn.T, np.eye(3), atol=TOLERANCE):
        raise InputFileError(
            f"{source} has a node that mirrors, shears or scales unevenly; a splat cannot follow that. "
            "Apply the transform in the program that made it."
        )
    # The nearest true rotation: rounding in the file must not count as a mirror.
    left, _, right = np.linalg.svd(turn)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.columns().items()}
    turned = rotate_gaussians(Gaussians.from_parameters(tensors), torch.from_numpy(left @ right))
    return SplatArrays(
        means=(turned.means.numpy() * scale + matrix[:3, 3]).astype(np.float32),
        log_scales=(turned.log_scales.numpy() + np.log(scale)).astype(np.float32),
        quats=turned.quats.numpy(),
        opacity_logits=turned.opacity_logits.numpy(),
        sh=turned.sh.numpy(),
        frame=arrays.frame,
    )
