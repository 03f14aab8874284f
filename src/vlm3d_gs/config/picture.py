"""Settings of the scene and of how it is seen: first cloud, training cameras, renderer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from vlm3d_gs.config.bounds import Range, check, check_ranges
from vlm3d_gs.config.schedules import Schedule, constant
from vlm3d_gs.core.errors import ConfigError

Background = Literal["random", "white", "grey", "black"]
Backend = Literal["auto", "cpu", "gsplat", "reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneConfig:
    """The first cloud of Gaussians and the limits of the scene."""

    n_init: Annotated[int, Range(1, 10_000_000)] = 4000
    """Gaussians at the start."""
    init: str = "ball"
    """Where they start: throughout a `ball`, on its surface (`shell`), or as a file says: a splat of any format, a
    point cloud as PLY, or a mesh as OBJ, STL, OFF, PLY or glTF, moved into the unit ball. Its looks last if the first
    pictures are drawn from little noise (`reconstruct.noise_level`), as `vlm3d-gs refine` draws them."""
    radius: Annotated[float, Range(1e-6, 1.0)] = 0.6
    """Radius of that ball, world units; the object fits into the unit ball."""
    opacity: Annotated[float, Range(1e-4, 0.9999)] = 0.1
    """Opacity of each Gaussian at the start."""
    sh_degree: Annotated[int, Range(0, 3)] = 0
    """Degree of the spherical harmonics; at 0 a Gaussian has the same colour from every side."""
    max_gaussians: Annotated[int, Range(1, 50_000_000)] = 10_000
    """Densification never grows the scene beyond this; at least n_init."""

    def __post_init__(self) -> None:
        check_ranges(self, "scene")
        if not self.init.strip():
            raise ConfigError("scene.init is empty. Use 'ball', 'shell' or the name of a file.")
        check("scene.max_gaussians", self.max_gaussians, Range(self.n_init))


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraConfig:
    """The cameras of one step: groups of views evenly spaced in azimuth around the object."""

    n_groups: Annotated[Schedule, Range(1, 256)] = constant(1)
    """Groups per step, rounded; each draws its own azimuth offset, elevation, distance and field of view."""
    n_views: Annotated[int, Range(1, 256)] = 4
    """Views per group, 360 / n_views degrees apart."""
    azimuth_offset_deg: Annotated[tuple[float, float], Range(-360.0, 360.0)] = (0.0, 360.0)
    """Range of the random rotation of a group, degrees; 0 puts its first view in front (+x)."""
    elevation_deg: Annotated[tuple[float, float], Range(-90.0, 90.0)] = (0.0, 30.0)
    """Range of the elevation, degrees."""
    distance: Annotated[tuple[float, float], Range(1.0, 100.0)] = (2.9, 3.2)
    """Range of the distance from the origin, world units; 1 is the surface of the unit ball."""
    fov_deg: Annotated[tuple[float, float], Range(5.0, 120.0)] = (40.0, 40.0)
    """Range of the vertical field of view, degrees."""
    half_extent: Annotated[tuple[float, float] | None, Range(0.1, 10.0)] = None
    """Range of half the height of what a view shows at the origin, world units; it then decides the distance from the
    field of view, and `distance` is not used. MVDream has 0.8 to 1."""
    elevation_draw: Literal["uniform", "mixed"] = "uniform"
    """uniform: in degrees; mixed: in half of all groups in degrees, in the others even over the sphere between the pole
    and the lower end, mapped to the range as threestudio does, which leaves four of five below two thirds of it."""
    resolution_px: Annotated[Schedule, Range(8, 4096)] = constant(64)
    """Side of the square renders, pixels; rounded to a whole number at each step."""
    background: Background = "random"
    """Colour behind the object, one per group; `random` is any flat colour."""
    random_from: Annotated[float, Range(0.0, 1.0)] = 0.0
    """Fraction of the run before which random backgrounds are middle grey: at high noise a prior cannot see the
    background and expects the mean of all it knows."""

    def __post_init__(self) -> None:
        if isinstance(self.n_groups, int | float):
            object.__setattr__(self, "n_groups", constant(self.n_groups))
        check_ranges(self, "camera")

    def distance_at(self, share: float, fov_deg: float) -> float:
        """Return the distance at a position in its range, 0 to 1, for a field of view in degrees."""
        if self.half_extent is None:
            low, high = self.distance
            return low + share * (high - low)
        low, high = self.half_extent
        return (low + share * (high - low)) / math.tan(math.radians(fov_deg) / 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderConfig:
    """How images are rendered."""

    backend: Backend = "auto"
    """Renderer; `auto` is gsplat for Gaussians on a CUDA device and the Numba renderer otherwise."""
    rasterize_mode: Literal["classic", "antialiased"] = "classic"
    """Whether opacities make up for the dilation of 0.3 square pixels: `antialiased` is Mip-Splatting's 2D filter, with
    which a splat keeps its look when it is drawn smaller or larger. PLY, SPZ, SOG, glTF and USD files keep the flag;
    viewers that do not know it draw such a splat too opaque from afar."""
