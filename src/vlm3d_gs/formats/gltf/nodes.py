"""Transforms of glTF nodes as matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.quats import rotmats
from vlm3d_gs.formats.transforms import Matrix

MAX_DEPTH = 64
"""Levels of nodes within nodes."""


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
            rotation = rotmats(np.array([w, x, y, z]))
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
