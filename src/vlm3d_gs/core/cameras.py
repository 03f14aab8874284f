"""Cameras: pinhole views of the object at the origin.

Axes are OpenCV's (x right, y down, z forward), matrices map world to camera, intrinsics are in
pixels with pixel centres at +0.5. A camera at azimuth 0 stands on +x and sees the object's front;
azimuth grows counter-clockwise seen from above, so the camera at 90 degrees stands on +y; elevation
grows upwards. Letters: C cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm3d_gs.core.checks import expect_same_device, expect_shape
from vlm3d_gs.core.errors import ConfigError

Angles = float | Sequence[float] | Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Cameras:
    """C pinhole cameras with one image size."""

    viewmats: Tensor
    """[C, 4, 4] world to camera, OpenCV axes."""
    Ks: Tensor
    """[C, 3, 3] intrinsics, pixels."""
    width: int
    """Image width, pixels."""
    height: int
    """Image height, pixels."""
    azimuths_deg: Tensor
    """[C] azimuth of the position, degrees."""
    elevations_deg: Tensor
    """[C] elevation of the position, degrees."""
    distances: Tensor
    """[C] distance from the origin, world units."""

    def __post_init__(self) -> None:
        count = expect_shape("cameras.viewmats", self.viewmats, ("C", 4, 4))["C"]
        expect_shape("cameras.Ks", self.Ks, (count, 3, 3))
        for name in ("azimuths_deg", "elevations_deg", "distances"):
            expect_shape(f"cameras.{name}", getattr(self, name), (count,))
        expect_same_device({"cameras.viewmats": self.viewmats, "cameras.Ks": self.Ks})
        for name in ("width", "height"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ConfigError(
                    f"cameras.{name} must be an integer of at least 1 px, got {getattr(self, name)!r}."
                )

    def __repr__(self) -> str:
        return f"Cameras({len(self)}, {self.width} x {self.height} px on {self.viewmats.device})"

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the matrices."""
        return self.viewmats.device

    @property
    def positions(self) -> Tensor:
        """[C, 3] camera centres in the world."""
        rotation, translation = self.viewmats[:, :3, :3], self.viewmats[:, :3, 3]
        return -(rotation.mT @ translation[:, :, None])[:, :, 0]

    @property
    def camera_to_world(self) -> Tensor:
        """[C, 4, 4] inverse of `viewmats`."""
        inverse = torch.zeros_like(self.viewmats)
        inverse[:, :3, :3] = self.viewmats[:, :3, :3].mT
        inverse[:, :3, 3] = self.positions
        inverse[:, 3, 3] = 1.0
        return inverse

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Cameras:
        """Return the cameras on another device or in another floating type; copies to a GPU are asynchronous."""
        names = ("viewmats", "Ks", "azimuths_deg", "elevations_deg", "distances")
        # Only towards the GPU: the other way, the host could read before the copy has arrived.
        asynchronous = self.device.type == "cpu"
        return replace(
            self,
            **{
                name: getattr(self, name).to(device, dtype, non_blocking=asynchronous)
                for name in names
            },
        )

    def select(self, index: Tensor | slice | Sequence[int]) -> Cameras:
        """Return some of the cameras, by mask, integer indices or slice."""
        names = ("viewmats", "Ks", "azimuths_deg", "elevations_deg", "distances")
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    def resized(self, width: int, height: int) -> Cameras:
        """Return cameras with the same field of view and another image size."""
        factors = self.Ks.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(self, Ks=self.Ks * factors[None, :, None], width=width, height=height)


def look_at(
    positions: Tensor, targets: Tensor, up: tuple[float, float, float] = (0.0, 0.0, 1.0)
) -> Tensor:
    """Return world-to-camera matrices of cameras that look at points.

    Where the line of sight is parallel to `up`, the image's top points away from +x seen from
    above (the limit of an orbit at azimuth 0).

    Args:
        positions: [C, 3] camera centres.
        targets: [3] or [C, 3] points in the middle of the image, different from the positions.
        up: world direction towards the image's top.

    Returns:
        [C, 4, 4], OpenCV axes.

    Raises:
        ShapeError: a shape does not fit.
    """
    expect_shape("positions", positions, (None, 3))
    forward = torch.nn.functional.normalize(targets - positions, dim=-1)
    up_vector = positions.new_tensor(up).expand_as(forward)

    right = torch.linalg.cross(forward, up_vector)
    degenerate = right.norm(dim=-1, keepdim=True) < 1e-6
    right = torch.where(degenerate, right.new_tensor([0.0, 1.0, 0.0]), right)
    right = torch.nn.functional.normalize(right, dim=-1)
    down = torch.linalg.cross(forward, right)
    rotation = torch.stack([right, down, forward], -2)

    viewmats = torch.zeros(len(positions), 4, 4, dtype=positions.dtype, device=positions.device)
    viewmats[:, :3, :3] = rotation
    viewmats[:, :3, 3] = -(rotation @ positions[:, :, None])[:, :, 0]
    viewmats[:, 3, 3] = 1.0
    return viewmats


def orbit(
    azimuths_deg: Angles,
    elevations_deg: Angles,
    distance: Angles,
    fov_deg: Angles,
    width: int,
    height: int,
) -> Cameras:
    """Return cameras on spheres around the origin, looking at it.

    The first four arguments are numbers, sequences or tensors that broadcast to C.

    Args:
        azimuths_deg: degrees, any.
        elevations_deg: degrees, -90 to 90.
        distance: from the origin, world units, positive.
        fov_deg: vertical field of view, degrees, above 0 and below 180.
        width: pixels.
        height: pixels.

    Returns:
        C float32 cameras with square pixels and the principal point in the middle.

    Raises:
        ConfigError: a value outside its range.

    Example:
        >>> orbit([0.0, 90.0], 0.0, 2.0, 40.0, 64, 64).positions.round(decimals=3) + 0.0
        tensor([[2., 0., 0.],
                [0., 2., 0.]])
    """
    # In float64 throughout, rounded to float32 once, at the end.
    arguments = (azimuths_deg, elevations_deg, distance, fov_deg)
    tensors = [torch.as_tensor(value, dtype=torch.float64).reshape(-1).cpu() for value in arguments]
    azimuth, elevation, radius, fov = (value.clone() for value in torch.broadcast_tensors(*tensors))
    _expect_range("elevations_deg", elevation, elevation.abs() <= 90, "in -90..90")
    _expect_range("distance", radius, radius > 0, "positive")
    _expect_range("fov_deg", fov, (fov > 0) & (fov < 180), "above 0 and below 180")

    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    positions = radius[:, None] * torch.stack([e.cos() * a.cos(), e.cos() * a.sin(), e.sin()], -1)
    viewmats = look_at(positions, torch.zeros(3, dtype=torch.float64))

    focal_px = 0.5 * height / torch.tan(0.5 * torch.deg2rad(fov))
    intrinsics = torch.zeros(len(a), 3, 3, dtype=torch.float64)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal_px
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = 0.5 * width, 0.5 * height, 1.0

    cameras = Cameras(viewmats, intrinsics, width, height, azimuth, elevation, radius)
    return cameras.to(dtype=torch.float32)


def turntable_cameras(
    n: int, elevation_deg: float, distance: float, fov_deg: float, width: int, height: int
) -> Cameras:
    """Return n cameras evenly spaced around the object, the first in front of it.

    Raises:
        ConfigError: n below 1, or a value outside its range (see `orbit`).
    """
    if n < 1:
        raise ConfigError(f"A turntable needs at least 1 view, got {n}.")
    azimuths = [360.0 * index / n for index in range(n)]
    return orbit(azimuths, elevation_deg, distance, fov_deg, width, height)


@dataclass(frozen=True)
class CameraRanges:
    """Intervals from which groups of views are drawn, uniformly."""

    azimuth_offset_deg: tuple[float, float] = (0.0, 360.0)
    """Azimuth of a group's first view, degrees."""
    elevation_deg: tuple[float, float] = (0.0, 30.0)
    """Elevation shared by a group, degrees."""
    distance: tuple[float, float] = (2.9, 3.2)
    """Distance shared by a group, world units."""
    fov_deg: tuple[float, float] = (40.0, 40.0)
    """Vertical field of view shared by a group, degrees."""
    width: int = 64
    """Image width, pixels."""
    height: int = 64
    """Image height, pixels."""
    half_extent: tuple[float, float] | None = None
    """Half the height of what a view shows at the origin, world units; decides the distance, where it is given."""
    mixed_elevations: bool = False
    """Draw elevations by `mixed_elevation`, not uniformly in degrees."""

    def __post_init__(self) -> None:
        for name in ("azimuth_offset_deg", "elevation_deg", "distance", "fov_deg"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ConfigError(
                    f"CameraRanges.{name} must be (low, high) with low <= high, got ({low}, {high})."
                )


def sample_view_groups(
    n_groups: int, n_views: int, generator: torch.Generator, ranges: CameraRanges
) -> Cameras:
    """Draw groups of views that share elevation, distance and field of view, evenly spaced in azimuth.

    Args:
        n_groups: at least 1.
        n_views: views per group, at least 1; neighbours are 360 / n_views degrees apart.
        generator: source of the random numbers (a CPU generator); it advances by four numbers per
            group.
        ranges: the intervals.

    Returns:
        n_groups * n_views cameras, the views of a group adjacent, azimuths increasing within it.

    Raises:
        ConfigError: a count below 1, or a range outside what `orbit` allows.
    """
    if n_groups < 1 or n_views < 1:
        raise ConfigError(
            f"View groups need n_groups and n_views of at least 1, got {n_groups} and {n_views}."
        )

    draws = torch.rand(n_groups, 4, generator=generator, dtype=torch.float64)
    bounds = torch.tensor(
        [ranges.azimuth_offset_deg, ranges.elevation_deg, ranges.distance, ranges.fov_deg],
        dtype=torch.float64,
    )
    values = bounds[:, 0] + draws * (bounds[:, 1] - bounds[:, 0])

    offset, elevation, distance, fov = (
        column.repeat_interleave(n_views) for column in values.unbind(-1)
    )
    if ranges.half_extent is not None:
        low, high = ranges.half_extent
        extents = (low + draws[:, 2] * (high - low)).repeat_interleave(n_views)
        distance = extents / torch.tan(0.5 * torch.deg2rad(fov))
    if ranges.mixed_elevations:
        coins = torch.rand(n_groups, generator=generator, dtype=torch.float64) < 0.5
        drawn = mixed_elevation(draws[:, 1], coins, ranges.elevation_deg)
        elevation = drawn.repeat_interleave(n_views)

    steps = torch.arange(n_views, dtype=torch.float64).repeat(n_groups) * (360.0 / n_views)
    return orbit((offset + steps) % 360.0, elevation, distance, fov, ranges.width, ranges.height)


def mixed_elevation(draws: Tensor, in_degrees: Tensor, range_deg: tuple[float, float]) -> Tensor:
    """Return elevations in degrees, drawn in one of two ways.

    Uniform in degrees, or asin(2 u - 1) with u uniform between (low + 90) / 180 and (high + 90) / 180: a range from 0
    to 30 degrees becomes one from 0 to 19.5.

    Args:
        draws: [G] uniform in 0..1.
        in_degrees: [G] bool, True for the first way.
        range_deg: low and high.

    Source: threestudio-mvdream, data/uncond_multiview.py, the cameras with which MVDream is distilled.
    """
    low, high = range_deg
    uniform = low + draws * (high - low)
    share = (uniform + 90.0) / 180.0
    return torch.where(in_degrees, uniform, torch.rad2deg(torch.asin(2.0 * share - 1.0)))


def mvdream_camera_matrices(cameras: Cameras) -> Tensor:
    """Return camera matrices as MVDream's camera embedding expects them.

    Camera to world, OpenGL axes (x right, y up, z backward), translation normalised to length 1.
    MVDream's world is ours.

    Args:
        cameras: C cameras, none at the origin.

    Returns:
        [C, 4, 4].

    Source: Shi et al. 2023 (MVDream), section 3.2.
    """
    camera_matrices = cameras.camera_to_world
    camera_matrices[:, :3, 1:3] *= -1.0  # y and z axes, from OpenCV to OpenGL
    camera_matrices[:, :3, 3] = torch.nn.functional.normalize(camera_matrices[:, :3, 3], dim=-1)
    return camera_matrices


def _expect_range(name: str, values: Tensor, allowed: Tensor, text: str) -> None:
    """Raise a ConfigError that names the first value outside its range."""
    if not bool(allowed.all()):
        raise ConfigError(f"cameras: {name} must be {text}, got {values[~allowed][0].item():g}.")
