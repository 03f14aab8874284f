"""A mesh unwrapped into an atlas, with a texture.

Letters: V vertices of the unwrapped mesh (more than the closed one has), F triangles, T side of the texture in
texels. The first row of the image is at v = 1.
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
from vlm3d_gs.mesh.raster import rasterize_texels
from vlm3d_gs.mesh.solid import I32, Solid
from vlm3d_gs.render import Backend

PADDING_PX = 4
"""Texels between two charts of the atlas."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """A closed mesh cut along seams into flat charts; a vertex on a seam occurs once for each side."""

    sources: I32
    """[V] the vertex of the closed mesh that each vertex is a copy of."""
    faces: I32
    """[F, 3] the triangles of the closed mesh, in the same order."""
    uvs: F64
    """[V, 2] in 0..1, v upwards."""


@dataclass(frozen=True, eq=False)
class Texture:
    """An image for a closed mesh, and the place of each triangle in it."""

    atlas: Atlas
    """Where the triangles are."""
    image: F32
    """[T, T, 3] sRGB as displayed, 0 to 1."""


def unwrap(solid: Solid, texture_px: int) -> Atlas:
    """Cut a mesh into charts that fit a square without overlap."""
    packer = xatlas.Atlas()
    packer.add_mesh(solid.vertices.astype(np.float32), solid.faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = texture_px, PADDING_PX, True
    packer.generate(pack_options=packing)
    sources, faces, uvs = packer[0]
    return Atlas(
        sources.astype(np.int32), faces.astype(np.int32), np.clip(uvs.astype(np.float64), 0.0, 1.0)
    )


def paint(
    gaussians: Gaussians, solid: Solid, texture_px: int, *, backend: Backend = "auto"
) -> Texture:
    """Return a texture for a mesh, baked from the Gaussians.

    Args:
        gaussians: the scene, inside the unit ball.
        solid: its mesh, in the same coordinates.
        texture_px: side of the texture, at least 1.
        backend: as in `render.render`.
    """
    atlas = unwrap(solid, texture_px)

    # The triangle and the barycentric coordinates of every texel.
    owners = np.full((texture_px, texture_px), -1, np.int32)
    weights = np.zeros((texture_px, texture_px, 3), np.float32)
    pixels = np.stack([atlas.uvs[:, 0], 1.0 - atlas.uvs[:, 1]], axis=-1) * texture_px
    rasterize_texels(pixels, atlas.faces, owners, weights)
    covered = owners >= 0

    triangles = atlas.sources[atlas.faces[owners[covered]]]
    barycentric = weights[covered][..., None].astype(np.float64)
    points = (solid.vertices[triangles] * barycentric).sum(axis=1)
    normals = (solid.vertex_normals[triangles] * barycentric).sum(axis=1)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)

    image = np.zeros((texture_px, texture_px, 3), np.float32)
    image[covered] = bake(gaussians, solid, points, normals, backend=backend)
    return Texture(atlas, dilate(image, covered))


def dilate(image: F32, covered: NDArray[np.bool_]) -> F32:
    """Give every texel outside the charts the colour of the nearest one inside.

    So neither bilinear filtering nor mipmaps show a seam.
    """
    rows, columns = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return image[rows, columns]
