"""Closed triangle meshes: made of a field, cleaned of small parts, thinned out, and checked.

Letters: V corners, F triangles. Triangles are counter-clockwise seen from outside, so normals point
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

FEWEST_FACES = 4
"""A tetrahedron is the smallest closed surface."""
NUDGES = (0.0, 1e-3, -1e-3, 5e-3)
"""Levels tried, in units of the field's mean size: an unlucky one can touch itself in an edge."""
LARGEST_TOLERANCE, HALVINGS = 0.5, 12
"""Search of the second way of thinning out: lengths in the unit ball, and steps."""


APART = 1e-4
"""Distance in the unit ball that corners in one place are moved apart."""


@dataclass(frozen=True, eq=False)
class Solid:
    """The closed surface of one or more parts; every edge has two triangles."""

    vertices: F64
    """[V, 3] places; triangles share them."""
    faces: I32
    """[F, 3] corners of each triangle."""

    @property
    def face_normals(self) -> F64:
        """[F, 3] normals, of the length of twice the area."""
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        return np.cross(b - a, c - a)

    @property
    def vertex_normals(self) -> F64:
        """[V, 3] unit normals, the mean over the triangles around by area."""
        normals = np.zeros_like(self.vertices)
        areas = self.face_normals
        for k in range(3):
            np.add.at(normals, self.faces[:, k], areas)
        lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
        outward = np.broadcast_to([0.0, 0.0, 1.0], normals.shape)
        return np.where(lengths > 1e-30, normals / np.maximum(lengths, 1e-30), outward)


def surface(field: F32, grid: Grid) -> Solid:
    """Return the surface where a field is 0, by marching cubes.

    Args:
        field: [X, Y, Z], positive inside, negative on the whole border, nowhere 0.
        grid: where its samples are.

    Raises:
        ExportError: nothing is inside, or the surface touches itself whatever the level.
    """
    if not (field > 0).any():
        raise ExportError("There is no mesh to make: nothing of the scene is dense enough.")
    unit = float(np.abs(field).mean())
    for nudge in NUDGES:
        vertices, faces, _, _ = marching_cubes(
            field, nudge * unit, gradient_direction="ascent", allow_degenerate=False
        )
        made = _manifold(vertices, faces)
        if made is not None:
            voxels = _solid(made)
            return Solid(voxels.vertices * grid.step + np.asarray(grid.origin), voxels.faces)
    raise ExportError(
        "The scene's surface touches itself and gives no proper mesh; try another resolution or method."
    )


def keep_parts(solid: Solid, min_part: float) -> Solid:
    """Return only the large parts.

    Args:
        solid: any number of parts.
        min_part: smallest volume that is kept, as a share of the largest part's, 0 to 1; 1 keeps
            the largest part alone. Hollows (parts turned inside out) always go.

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


def thin_out(solid: Solid, faces: int) -> Solid:
    """Return the mesh with at most so many triangles.

    Edges are collapsed where that moves the surface least. Where the result is not manifold, a
    second way that always is takes over: edges shorter than a tolerance, which is searched.

    Args:
        solid: the mesh.
        faces: most triangles, at least `FEWEST_FACES`.

    Raises:
        ConfigError: fewer than this surface needs.
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


def moved_apart(solid: Solid) -> Solid:
    """Return the mesh with no two corners in one place.

    Where a surface touches itself, the corners of either side coincide. Readers that join corners by place,
    as all of STL must, would get edges of four triangles; so all but one go a little way inwards.
    """
    _, which, counts = np.unique(
        solid.vertices.astype(np.float32), axis=0, return_inverse=True, return_counts=True
    )
    if len(counts) == len(solid.vertices):
        return solid
    which = which.reshape(-1)
    order = np.argsort(which, kind="stable")
    rank = np.empty(len(order))  # among those in the same place
    rank[order] = np.arange(len(order)) - (np.cumsum(counts) - counts)[which[order]]
    return Solid(solid.vertices - APART * rank[:, None] * solid.vertex_normals, solid.faces)


def volume(solid: Solid) -> float:
    """Return the enclosed volume, negative if the triangles look inwards."""
    a, b, c = (solid.vertices[solid.faces[:, k]] for k in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6.0)


def _collapsed(made: manifold3d.Manifold, faces: int) -> manifold3d.Manifold:
    """Return the result of the smallest tolerance that leaves at most so many triangles."""
    low, high, best = 0.0, LARGEST_TOLERANCE, made.simplify(LARGEST_TOLERANCE)
    fewest = best.num_tri()
    if fewest > faces or fewest < FEWEST_FACES:
        raise ConfigError(
            f"This surface cannot be drawn with {faces} faces; give more ({max(fewest, 100)} for "
            "example), or a lower resolution."
        )
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        tried = made.simplify(middle)
        if tried.num_tri() <= faces:
            high, best = middle, tried
        else:
            low = middle
    return best


def _checked(solid: Solid) -> manifold3d.Manifold:
    made = _manifold(solid.vertices, solid.faces)
    if made is None:
        raise ExportError("The mesh is not closed: some edge does not have exactly two triangles.")
    return made


def _manifold(
    vertices: NDArray[np.floating], faces: NDArray[np.integer]
) -> manifold3d.Manifold | None:
    """Return the library's mesh, or None if the triangles are not a closed, oriented surface."""
    made = manifold3d.Manifold(
        manifold3d.Mesh(
            np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.uint32)
        )
    )
    sound = made.status() == manifold3d.Error.NoError and not made.is_empty()
    return made if sound else None


def _solid(made: manifold3d.Manifold) -> Solid:
    mesh = made.to_mesh()
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
