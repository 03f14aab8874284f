"""Closed triangle meshes: extracted from a field, cleaned of small parts, decimated, and checked.

Letters: V vertices, F triangles. Triangles are counter-clockwise seen from outside, so normals point
outwards and the enclosed volume is positive.
"""

from __future__ import annotations

from dataclasses import dataclass

import fast_simplification
import manifold3d
import numpy as np
from numpy.typing import NDArray
from skimage.measure import marching_cubes

from vlm3d_gs.core.errors import ConfigError, ExportError
from vlm3d_gs.mesh.grid import F32, F64, Grid

I32 = NDArray[np.int32]

MIN_FACES = 4
"""A tetrahedron is the smallest closed surface."""
NUDGES = (0.0, 1e-3, -1e-3, 5e-3)
"""Candidate levels, in units of the field's mean magnitude: at some, the surface touches itself in an edge."""
MAX_TOLERANCE, HALVINGS = 0.5, 12
"""Search for a tolerance in the second way of decimation: length in the unit ball, and steps."""
SEPARATION = 1e-4
"""Distance in the unit ball by which coincident vertices are separated."""


@dataclass(frozen=True, eq=False)
class Solid:
    """The closed surface of one or more parts; every edge has two triangles."""

    vertices: F64
    """[V, 3] positions; triangles share them."""
    faces: I32
    """[F, 3] vertices of each triangle."""

    @property
    def face_normals(self) -> F64:
        """[F, 3] normals, as long as twice the area."""
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        return np.cross(b - a, c - a)

    @property
    def vertex_normals(self) -> F64:
        """[V, 3] unit normals, area-weighted over the adjacent triangles."""
        normals = np.zeros_like(self.vertices)
        areas = self.face_normals
        for k in range(3):
            np.add.at(normals, self.faces[:, k], areas)

        lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
        fallback = np.broadcast_to([0.0, 0.0, 1.0], normals.shape)
        return np.where(lengths > 1e-30, normals / np.maximum(lengths, 1e-30), fallback)


def surface(field: F32, grid: Grid) -> Solid:
    """Return the surface where a field is 0, by marching cubes.

    Args:
        field: [X, Y, Z], positive inside, negative on the whole border, nowhere 0.
        grid: where its samples are.

    Raises:
        ExportError: nothing is inside, or the surface touches itself at all candidate levels.
    """
    if not (field > 0).any():
        raise ExportError("There is no mesh to make: nothing of the scene is dense enough.")

    unit = float(np.abs(field).mean())
    for nudge in NUDGES:
        vertices, faces, _, _ = marching_cubes(
            field, nudge * unit, gradient_direction="ascent", allow_degenerate=False
        )
        manifold = _manifold(vertices, faces)
        if manifold is not None:
            voxels = _solid(manifold)
            return Solid(voxels.vertices * grid.step + np.asarray(grid.origin), voxels.faces)

    raise ExportError(
        "The scene's surface touches itself and gives no proper mesh; try another resolution or method."
    )


def keep_parts(solid: Solid, min_part: float) -> Solid:
    """Return only the large parts.

    Args:
        solid: any number of parts.
        min_part: smallest volume that is kept, as a share of the largest part's, 0 to 1; 1 keeps
            the largest part alone. Cavities (parts that are inside out) are always dropped.

    Raises:
        ExportError: no part encloses anything.
    """
    parts = [(part.volume(), part) for part in _checked(solid).decompose()]
    largest = max(size for size, _ in parts)
    if largest <= 0.0:
        raise ExportError("There is no mesh to make: the surface encloses nothing.")
    kept = [part for size, part in parts if size > 0.0 and size >= min_part * largest]
    return _joined([_solid(part) for part in kept])


def count_parts(solid: Solid) -> int:
    """Return the number of separate surfaces."""
    return len(_checked(solid).decompose())


def decimate(solid: Solid, faces: int) -> Solid:
    """Return the mesh with at most `faces` triangles.

    Edges are collapsed in the order of the error this causes. Where the result is not manifold, a
    second method is used that always is: edges shorter than a tolerance, which is searched.

    Args:
        solid: the mesh.
        faces: maximum number of triangles, at least `MIN_FACES`.

    Raises:
        ConfigError: the surface needs more.
    """
    if len(solid.faces) <= faces:
        return solid
    vertices, triangles = fast_simplification.simplify(
        solid.vertices.astype(np.float32), solid.faces, target_count=faces
    )
    thin = _manifold(vertices, triangles)
    if thin is None or thin.num_tri() > faces or thin.volume() <= 0.0:
        thin = _collapsed(_checked(solid), faces)
    return _solid(thin)


def separate_vertices(solid: Solid) -> Solid:
    """Return the mesh with no two vertices at the same position.

    Where a surface touches itself, the vertices of both sides coincide. Readers that merge vertices
    by position, as all of STL must, would get edges with four triangles; so all vertices but one are
    moved inwards a little.
    """
    _, which, counts = np.unique(
        solid.vertices.astype(np.float32), axis=0, return_inverse=True, return_counts=True
    )
    if len(counts) == len(solid.vertices):
        return solid

    which = which.reshape(-1)
    order = np.argsort(which, kind="stable")
    rank = np.empty(len(order))  # among those at the same position
    rank[order] = np.arange(len(order)) - (np.cumsum(counts) - counts)[which[order]]
    return Solid(solid.vertices - SEPARATION * rank[:, None] * solid.vertex_normals, solid.faces)


def _collapsed(manifold: manifold3d.Manifold, faces: int) -> manifold3d.Manifold:
    """Return the manifold simplified with the smallest tolerance that leaves at most `faces` triangles."""
    # The number of triangles falls as the tolerance grows, so bisection finds the smallest that fits.
    low, high, best = 0.0, MAX_TOLERANCE, manifold.simplify(MAX_TOLERANCE)
    fewest = best.num_tri()
    if fewest > faces or fewest < MIN_FACES:
        raise ConfigError(
            f"This surface cannot be drawn with {faces} faces; give more ({max(fewest, 100)} for "
            "example), or a lower resolution."
        )

    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        candidate = manifold.simplify(middle)
        if candidate.num_tri() <= faces:
            high, best = middle, candidate
        else:
            low = middle
    return best


def _checked(solid: Solid) -> manifold3d.Manifold:
    """Return the library's mesh; raise if it is not a closed surface."""
    manifold = _manifold(solid.vertices, solid.faces)
    if manifold is None:
        raise ExportError("The mesh is not closed: some edge does not have exactly two triangles.")
    return manifold


def _manifold(
    vertices: NDArray[np.floating], faces: NDArray[np.integer]
) -> manifold3d.Manifold | None:
    """Return the library's mesh, or None if the triangles are not a closed, oriented surface."""
    manifold = manifold3d.Manifold(
        manifold3d.Mesh(
            np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.uint32)
        )
    )
    valid = manifold.status() == manifold3d.Error.NoError and not manifold.is_empty()
    return manifold if valid else None


def _solid(manifold: manifold3d.Manifold) -> Solid:
    mesh = manifold.to_mesh()
    vertices = np.asarray(mesh.vert_properties, np.float64)[:, :3]
    return Solid(vertices, np.asarray(mesh.tri_verts).astype(np.int32))


def _joined(parts: list[Solid]) -> Solid:
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])[:-1]
    return Solid(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate(
            [part.faces + start for part, start in zip(parts, starts, strict=True)]
        ).astype(np.int32),
    )
