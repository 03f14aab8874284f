"""From Gaussians to a closed mesh with colours: the steps in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.mesh.atlas import Texture, paint
from vlm3d_gs.mesh.bake import bake
from vlm3d_gs.mesh.density import density_field
from vlm3d_gs.mesh.grid import F32, Grid, bounds_of, grid_over, place
from vlm3d_gs.mesh.shells import outer_field
from vlm3d_gs.mesh.silhouettes import LevelFit, fit_cameras, fit_level, outlines, picture_size
from vlm3d_gs.mesh.solid import FEWEST_FACES, Solid, keep_parts, moved_apart, surface, thin_out
from vlm3d_gs.mesh.tsdf import distance_field
from vlm3d_gs.render import Backend

Method = Literal["density", "tsdf"]
METHODS: tuple[Method, ...] = ("density", "tsdf")
Paint = Literal["texture", "corners", "none"]

RESOLUTIONS = (16, 512)
"""Fewest and most voxels along the longest side; 512 needs about 2 GiB."""
TEXTURES_PX = (64, 4096)
"""Smallest and largest side of a texture; 4096 needs about 3 GiB."""
COARSE = 48
"""Voxels of the first look, which finds the box that the object fills."""
LEAST_DENSITY = 0.05
"""Density from which the first look counts a place as part of the object."""


@dataclass(frozen=True)
class MeshSettings:
    """How a mesh is made."""

    method: Method = "density"
    """`density`: where the Gaussians are dense. `tsdf`: what rendered depth says."""
    resolution: int = 128
    """Voxels along the longest side, within `RESOLUTIONS`."""
    faces: int = 20_000
    """Most triangles, at least 4."""
    texture_px: int = 1024
    """Side of the texture, within `TEXTURES_PX`."""
    min_part: float = 0.02
    """Smallest part kept, as a share of the largest part's volume, 0 to 1."""

    def __post_init__(self) -> None:
        choose_method(self.method)
        _expect_within("resolution", self.resolution, RESOLUTIONS, "voxels")
        _expect_within("texture_px", self.texture_px, TEXTURES_PX, "px")
        if self.faces < FEWEST_FACES:
            raise ConfigError(f"mesh: faces must be at least {FEWEST_FACES}, got {self.faces}.")
        if not 0.0 <= self.min_part <= 1.0:
            raise ConfigError(
                f"mesh: min_part must be 0 to 1, a share of the largest part, got {self.min_part}."
            )


@dataclass(frozen=True, eq=False)
class Mesh:
    """A closed mesh in the scene's own world, with its colours."""

    solid: Solid
    """The surface."""
    colors: F32 | None
    """[V, 3] sRGB of each corner, 0 to 1, if asked for."""
    texture: Texture | None
    """A texture, if asked for."""
    fit: LevelFit
    """The level at which the surface was drawn, and how well its outlines fit the renders before thinning out."""


def extract_mesh(
    gaussians: Gaussians,
    settings: MeshSettings | None = None,
    *,
    paint_as: Paint = "texture",
    backend: Backend = "auto",
) -> Mesh:
    """Return the outer surface of a scene as a closed mesh.

    The level of the surface is the one whose outlines fit those of the renders best. Hollows are
    filled, small parts dropped, triangles thinned out, colours baked from renders all around.

    Args:
        gaussians: the scene, of any place and size, on any device.
        settings: how; the defaults if not given.
        paint_as: `texture`: a texture with atlas; `corners`: a colour a corner; `none`: shape only.
        backend: as in `render.render`.

    Returns:
        A watertight, manifold mesh with outward normals, in the world of the Gaussians.

    Raises:
        ExportError: nothing of the scene is solid.
        ConfigError: the surface needs more faces than allowed.
    """
    chosen = settings or MeshSettings()
    scene, placement = place(gaussians)
    grid = _tight_grid(scene, chosen.resolution)
    if chosen.method == "density":
        field = density_field(scene, grid)
    else:
        field = distance_field(scene, grid, backend)
    cameras = fit_cameras(picture_size(chosen.resolution))
    fit = fit_level(field, grid, cameras, outlines(scene, cameras, backend))
    solid = surface(outer_field(field, fit.level, grid.step), grid)
    del field
    solid = thin_out(keep_parts(solid, chosen.min_part), chosen.faces)
    # Collapsing edges can pinch off slivers of a few triangles, turned inside out or empty.
    solid = moved_apart(keep_parts(solid, chosen.min_part))
    colors, texture = None, None
    if paint_as == "texture":
        texture = paint(scene, solid, chosen.texture_px, backend=backend)
    elif paint_as == "corners":
        colors = bake(scene, solid, solid.vertices, solid.vertex_normals, backend=backend)
    return Mesh(Solid(placement.back(solid.vertices), solid.faces), colors, texture, fit)


def choose_method(name: str) -> Method:
    """Return the method of that name.

    Raises:
        ConfigError: unknown name; the message lists the known ones.
    """
    if name == "density":
        return "density"
    if name == "tsdf":
        return "tsdf"
    raise ConfigError(f"Unknown mesh method {name!r}. Available: {', '.join(METHODS)}.")


def _tight_grid(scene: Gaussians, resolution: int) -> Grid:
    """Return a grid over the part of the unit ball that the scene fills."""
    corner = np.ones(3)
    coarse = grid_over(-corner, corner, COARSE)
    low, high = bounds_of(density_field(scene, coarse), coarse, LEAST_DENSITY)
    return grid_over(low, high, resolution)


def _expect_within(name: str, value: int, limits: tuple[int, int], unit: str) -> None:
    if not limits[0] <= value <= limits[1]:
        raise ConfigError(f"mesh: {name} must be {limits[0]} to {limits[1]} {unit}, got {value}.")
