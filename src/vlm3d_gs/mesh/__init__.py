"""Meshes: the outer surface of a scene, closed, decimated and textured, for programs that read no splats.

`grid` lays out the voxels, `density` or `tsdf` fills them, `silhouettes` finds the level of the surface, `shells`
fills cavities, `solid` makes and cleans the triangles, `bake` and `atlas` colour them, `writers` writes files.
"""

from __future__ import annotations

from vlm3d_gs.mesh.extract import METHODS, Mesh, MeshSettings, extract_mesh
from vlm3d_gs.mesh.writers import write_mesh, write_meshes

__all__ = ["METHODS", "Mesh", "MeshSettings", "extract_mesh", "write_mesh", "write_meshes"]
