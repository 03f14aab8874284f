"""Points with colours on the surface of a mesh of any program, by trimesh, which reads what people have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from vlm3d_gs.core.errors import InputFileError

F32 = NDArray[np.float32]
SUFFIXES = (".obj", ".stl", ".off", ".ply", ".glb", ".gltf")
"""What is read here; trimesh knows more, some of it only with further packages."""


def surface_points(path: Path, count: int, seed: int) -> tuple[F32, F32]:
    """Draw points evenly over the area of a mesh file.

    Args:
        path: the file, of one or several meshes; transforms of its scene are applied.
        count: how many points.
        seed: of the draw.

    Returns:
        Positions [N, 3] in the axes of the file, and sRGB colours [N, 3] of 0..1 from texture, vertices or faces.

    Raises:
        InputFileError: it cannot be read, or has no area.
    """
    try:
        mesh: Any = trimesh.load(path, force="mesh")
        area = float(mesh.area)
    except Exception as error:  # readers of so many formats fail in as many ways
        raise InputFileError(f"{path} is no mesh that can be read: {error}") from error
    if len(mesh.faces) == 0 or not 0.0 < area < float("inf"):
        raise InputFileError(f"{path} holds no surface.")

    points, faces, shares = trimesh.sample.sample_surface(
        mesh, count, return_barycentric=True, seed=seed
    )
    corners = mesh.faces[faces]
    if getattr(mesh.visual, "uv", None) is not None:
        colors = mesh.visual.material.to_color(
            np.einsum("nk,nkc->nc", shares, mesh.visual.uv[corners])
        )
    else:
        colors = np.einsum("nk,nkc->nc", shares, np.asarray(mesh.visual.vertex_colors)[corners])
    colors = np.asarray(colors, np.float32)[:, :3] / np.float32(255.0)
    return points.astype(np.float32), colors
