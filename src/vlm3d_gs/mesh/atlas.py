"""A mesh cut open and laid flat, with a texture.

Letters: V corners of the cut mesh (more than the closed one has), F triangles, T side of the texture in
texels. The first row of the picture is at v = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xatlas
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.mesh.bake import bake
from vlm3d_gs.mesh.grid import F32, F64
from vlm3d_gs.mesh.raster import fill_texels
from vlm3d_gs.mesh.solid import I32, Solid
from vlm3d_gs.render import Backend

PADDING_PX = 4
"""Texels between two pieces of the atlas."""


@dataclass(frozen=True, eq=False)
class Flat:
    """A closed mesh cut open and laid flat; corners on a seam occur once for each side of it."""

    sources: I32
    """[V] which corner of the closed mesh each corner is."""
    faces: I32
    """[F, 3], the triangles of the closed mesh in their order."""
    uvs: F64
    """[V, 2] in 0..1, v upwards."""


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture for a closed mesh, and where each triangle lies in it."""

    flat: Flat
    """Where the triangles lie."""
    image: F32
    """[T, T, 3] sRGB as displayed, 0 to 1."""


def unwrap(solid: Solid, texture_px: int) -> Flat:
    """Cut a mesh into pieces that lie flat in a square without overlap."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(solid.vertices.astype(np.float32), solid.faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = texture_px, PADDING_PX, True
    atlas.generate(pack_options=packing)
    sources, faces, uvs = atlas[0]
    return Flat(
        sources.astype(np.int32), faces.astype(np.int32), np.clip(uvs.astype(np.float64), 0.0, 1.0)
    )


def paint(
    gaussians: Gaussians, solid: Solid, texture_px: int, *, backend: Backend = "auto"
) -> Texture:
    """Return a texture for a mesh, baked from the Gaussians.

    Args:
        gaussians: the scene, inside the unit ball.
        solid: its mesh, in the same place.
        texture_px: side of the texture, at least 1.
        backend: as in `render.render`.
    """
    flat = unwrap(solid, texture_px)
    owners = np.full((texture_px, texture_px), -1, np.int32)
    weights = np.zeros((texture_px, texture_px, 3), np.float32)
    corners = np.stack([flat.uvs[:, 0], 1.0 - flat.uvs[:, 1]], axis=-1) * texture_px
    fill_texels(corners, flat.faces, owners, weights)
    covered = owners >= 0
    triangles = flat.sources[flat.faces[owners[covered]]]
    shares = weights[covered][..., None].astype(np.float64)
    points = (solid.vertices[triangles] * shares).sum(axis=1)
    normals = (solid.vertex_normals[triangles] * shares).sum(axis=1)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    image = np.zeros((texture_px, texture_px, 3), np.float32)
    image[covered] = bake(gaussians, solid, points, normals, backend=backend)
    return Texture(flat, dilated(image, covered))


def dilated(image: F32, covered: NDArray[np.bool_]) -> F32:
    """Give every texel outside the pieces the colour of the nearest one inside.

    So neither bilinear filtering nor smaller copies of the texture show a seam.
    """
    rows, columns = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return image[rows, columns]
