"""From Gaussians to a closed mesh with colours, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.mesh.atlas import Texture, paint
from vlm3d_gs.mesh.bake import bake
from vlm3d_gs.mesh.density import density_field
from vlm3d_gs.mesh.grid import F32, Grid, bounds_of, grid_over, normalize
from vlm3d_gs.mesh.shells import outer_field
from vlm3d_gs.mesh.silhouettes import LevelFit, fit_cameras, fit_level, image_size, silhouettes
from vlm3d_gs.mesh.solid import MIN_FACES, Solid, decimate, keep_parts, separate_vertices, surface
from vlm3d_gs.mesh.tsdf import distance_field
from vlm3d_gs.render import Backend

Method = Literal["density", "tsdf"]
METHODS: tuple[Method, ...] = get_args(Method)
MeshColor = Literal["texture", "vertices", "none"]
"""A texture with atlas, a colour for each vertex, or the shape alone."""

RESOLUTIONS = (16, 512)
"""Fewest and most voxels along the longest side; 512 needs about 2 GiB."""
TEXTURES_PX = (64, 4096)
"""Smallest and largest side of a texture; 4096 needs about 3 GiB."""
COARSE_RESOLUTION = 48
"""Voxels of the coarse pass that finds the bounding box of the object."""
MIN_DENSITY = 0.05
"""Density from which a sample of the coarse pass belongs to the object."""


@dataclass(frozen=True)
class MeshSettings:
    """How a mesh is made."""

    method: Method = "density"
    """`density`: from the density of the Gaussians. `tsdf`: from rendered depth."""
    resolution: int = 128
    """Voxels along the longest side, within `RESOLUTIONS`."""
    faces: int = 20_000
    """Maximum number of triangles, at least 4."""
    texture_px: int = 1024
    """Side of the texture, within `TEXTURES_PX`."""
    min_part: float = 0.02
    """Smallest part kept, as a share of the largest part's volume, 0 to 1."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(
                f"Unknown mesh method {self.method!r}. Available: {', '.join(METHODS)}."
            )
        _expect_within("resolution", self.resolution, RESOLUTIONS, "voxels")
        _expect_within("texture_px", self.texture_px, TEXTURES_PX, "px")
        if self.faces < MIN_FACES:
            raise ConfigError(f"mesh: faces must be at least {MIN_FACES}, got {self.faces}.")
        if not 0.0 <= self.min_part <= 1.0:
            raise ConfigError(
                f"mesh: min_part must be 0 to 1, a share of the largest part, got {self.min_part}."
            )


@dataclass(frozen=True, eq=False)
class Mesh:
    """A closed mesh in the scene's own coordinates, with its colours."""

    solid: Solid
    """The surface."""
    vertex_colors: F32 | None
    """[V, 3] sRGB, 0 to 1; None unless extracted with `vertices`."""
    texture: Texture | None
    """None unless extracted with `texture`."""
    fit: LevelFit
    """The level of the surface, and how well its silhouettes match the renders before decimation."""


def extract_mesh(
    gaussians: Gaussians,
    settings: MeshSettings | None = None,
    *,
    color: MeshColor = "texture",
    backend: Backend = "auto",
) -> Mesh:
    """Return the outer surface of a scene as a closed mesh.

    The level of the surface is the one whose silhouettes match those of the renders best. Cavities
    are filled, small parts dropped, triangles decimated, and colours baked from renders all around.

    Args:
        gaussians: the scene, at any position and scale, on any device.
        settings: None for the defaults.
        color: what the mesh is coloured with.
        backend: as in `render.render`.

    Returns:
        A watertight, manifold mesh with outward normals, in the coordinates of the Gaussians.

    Raises:
        ExportError: nothing of the scene is solid.
        ConfigError: the surface needs more faces than allowed.
    """
    chosen = settings or MeshSettings()
    scene, normalization = normalize(gaussians)
    grid = _tight_grid(scene, chosen.resolution)
    if chosen.method == "density":
        field = density_field(scene, grid)
    else:
        field = distance_field(scene, grid, backend)

    cameras = fit_cameras(image_size(chosen.resolution))
    fit = fit_level(field, grid, cameras, silhouettes(scene, cameras, backend))
    solid = surface(outer_field(field, fit.level, grid.step), grid)
    del field

    solid = decimate(keep_parts(solid, chosen.min_part), chosen.faces)
    # Collapsing edges can pinch off slivers of a few triangles, inverted or empty.
    solid = separate_vertices(keep_parts(solid, chosen.min_part))

    colors, texture = None, None
    if color == "texture":
        texture = paint(scene, solid, chosen.texture_px, backend=backend)
    elif color == "vertices":
        colors = bake(scene, solid, solid.vertices, solid.vertex_normals, backend=backend)
    return Mesh(Solid(normalization.denormalize(solid.vertices), solid.faces), colors, texture, fit)


def _tight_grid(scene: Gaussians, resolution: int) -> Grid:
    """Return a grid over the part of the unit ball that the scene fills."""
    corner = np.ones(3)
    coarse = grid_over(-corner, corner, COARSE_RESOLUTION)
    low, high = bounds_of(density_field(scene, coarse), coarse, MIN_DENSITY)
    return grid_over(low, high, resolution)


def _expect_within(name: str, value: int, limits: tuple[int, int], unit: str) -> None:
    if not limits[0] <= value <= limits[1]:
        raise ConfigError(f"mesh: {name} must be {limits[0]} to {limits[1]} {unit}, got {value}.")
