"""Settings of the scene and of how it is seen: first cloud, training cameras, renderer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlm3d_gs.config.bounds import check_at_least, check_range, check_schedule, check_within
from vlm3d_gs.config.schedules import Schedule, constant

Background = Literal["random", "white", "grey", "black"]
Backend = Literal["auto", "cpu", "gsplat", "reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneConfig:
    """The first cloud of Gaussians and the bounds of the scene."""

    n_init: int = 4000
    """Gaussians at the start; 1 or more."""
    init: Literal["ball", "shell"] = "ball"
    """Where they start: throughout a ball, or on its surface."""
    radius: float = 0.6
    """Radius of that ball, world units, in (0, 1]; the object fits the unit ball."""
    opacity: float = 0.1
    """Opacity of each at the start, in (0, 1)."""
    sh_degree: int = 0
    """Degree of the spherical harmonics, 0 (one colour from everywhere) to 3."""
    max_gaussians: int = 20_000
    """Densification stops adding here; at least n_init."""

    def __post_init__(self) -> None:
        check_at_least("scene.n_init", self.n_init, 1)
        check_within("scene.radius", self.radius, 1e-6, 1.0)
        check_within("scene.opacity", self.opacity, 1e-4, 0.9999)
        check_within("scene.sh_degree", self.sh_degree, 0, 3)
        check_at_least("scene.max_gaussians", self.max_gaussians, self.n_init)


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraConfig:
    """The cameras of one step: groups of views evenly spaced in azimuth around the object."""

    n_groups: int = 1
    """Groups a step; each draws its own azimuth offset, elevation, distance and field of view."""
    n_views: int = 4
    """Views in a group, 360 / n_views degrees apart."""
    azimuth_offset_deg: tuple[float, float] = (0.0, 360.0)
    """Range of the random turn shared by a group; 0 puts the first view in front (+x)."""
    elevation_deg: tuple[float, float] = (0.0, 30.0)
    """Range of the elevation, within [-90, 90]."""
    distance: tuple[float, float] = (2.9, 3.2)
    """Range of the distance from the origin, world units, above 1 (outside the unit ball)."""
    fov_deg: tuple[float, float] = (40.0, 40.0)
    """Range of the vertical field of view, within [5, 120]."""
    resolution_px: Schedule = constant(64)
    """Side of the square renders, pixels; rounded to a whole number at each step."""
    background: Background = "random"
    """Colour behind the object, one per group; `random` is any flat colour."""
    random_from: float = 0.25
    """Random backgrounds are middle grey before this fraction of the run: at high noise a prior
    cannot see the background and expects the mean of all it knows."""

    def __post_init__(self) -> None:
        check_at_least("camera.n_groups", self.n_groups, 1)
        check_at_least("camera.n_views", self.n_views, 1)
        check_range("camera.azimuth_offset_deg", self.azimuth_offset_deg, -360.0, 360.0)
        check_range("camera.elevation_deg", self.elevation_deg, -90.0, 90.0)
        check_range("camera.distance", self.distance, 1.0, 100.0)
        check_range("camera.fov_deg", self.fov_deg, 5.0, 120.0)
        check_within("camera.random_from", self.random_from, 0.0, 1.0)
        check_schedule("camera.resolution_px", self.resolution_px, 8, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderConfig:
    """How images are made."""

    backend: Backend = "auto"
    """`auto` is gsplat where the Gaussians are on CUDA and the Numba renderer elsewhere."""
