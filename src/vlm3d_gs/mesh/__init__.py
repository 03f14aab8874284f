"""Meshes: the outer surface of a scene, closed, thinned out and textured, for programs that know no splats.

`grid` places the voxels, `density` or `tsdf` fills them, `silhouettes` finds the level of the surface, `shells`
fills hollows, `solid` makes and cleans the triangles, `bake` and `atlas` colour them, `writers` writes files.
"""

from __future__ import annotations

from vlm3d_gs.mesh.extract import METHODS, Mesh, MeshSettings, extract_mesh
from vlm3d_gs.mesh.writers import SUFFIXES, write_mesh

__all__ = ["METHODS", "SUFFIXES", "Mesh", "MeshSettings", "extract_mesh", "write_mesh"]
