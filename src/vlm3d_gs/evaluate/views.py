"""A scene seen by many cameras: coverage, colour names and surface points of every pixel.

The only source is the exported Gaussians, rendered. Elevations above those of training are
included, so that a torus without its hole, or a missing lid, does not escape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import unpremultiply
from vlm3d_gs.evaluate.palette import classify_colors
from vlm3d_gs.render import Backend, render

F64 = NDArray[np.float64]

SIZE_PX = 96
AZIMUTHS = 12
RINGS_DEG = (0.0, 20.0, 40.0)
"""Elevations of the rings of cameras."""
TOP_DEG = 80.0
"""Elevation of the two views from above."""
DISTANCE, FOV_DEG = 3.2, 40.0
"""The ball of radius 1.09 just fits."""

COVERED_ALPHA = 0.1
"""Least alpha of a pixel that counts as covered: an eye would see something."""
SOLID_ALPHA = 0.5
"""Least alpha of a pixel that counts as part of an object."""


@dataclass(frozen=True)
class ObservedViews:
    """Rendered views and what each pixel shows; V views of H x W pixels."""

    cameras: Cameras
    """V cameras."""
    alpha: Tensor
    """[V, H, W] coverage, 0 to 1."""
    classes: Tensor
    """[V, H, W] int64, index into `palette.CLASS_NAMES`; meaningless where not covered."""
    lengths: Tensor
    """[V, H, W] length of the colour in RGB; 0 where there is nothing."""
    points: Tensor
    """[V, H, W, 3] world position at the expected depth; meaningless where not covered."""
    origins: Tensor
    """[V, 3] camera positions."""
    directions: Tensor
    """[V, H, W, 3] unit rays through the pixels' centres."""

    @property
    def distances(self) -> Tensor:
        """[V, H, W] from the camera to the expected surface; meaningless where not covered."""
        return (self.points - self.origins[:, None, None]).norm(dim=-1)

    @property
    def covered(self) -> Tensor:
        """[V, H, W] bool, pixels that show anything."""
        return self.alpha >= COVERED_ALPHA

    @property
    def solid(self) -> Tensor:
        """[V, H, W] bool, pixels that belong to an object."""
        return self.alpha >= SOLID_ALPHA


def checker_cameras(size_px: int = SIZE_PX) -> Cameras:
    """Return the rings of cameras around the scene, and the two above it."""
    turns = torch.arange(AZIMUTHS) * (360.0 / AZIMUTHS)
    rings = [(turn, ring) for ring in RINGS_DEG for turn in turns.tolist()]
    rings += [(0.0, TOP_DEG), (45.0, TOP_DEG)]
    azimuths, elevations = torch.tensor(rings).unbind(-1)
    return orbit(azimuths, elevations, DISTANCE, FOV_DEG, size_px, size_px)


def search_pixels(views: ObservedViews) -> Tensor:
    """Return the pixels for a first search: every second one, in every third view, [V, H, W] bool.

    The chosen views are staggered from ring to ring.
    """
    pixels = torch.zeros_like(views.alpha, dtype=torch.bool)
    for index in range(len(pixels)):
        if index % 3 == (index // AZIMUTHS) % 3:
            pixels[index, ::2, ::2] = True
    return pixels


def observe(gaussians: Gaussians, cameras: Cameras, backend: Backend = "auto") -> ObservedViews:
    """Render a scene and name what every pixel shows.

    Args:
        gaussians: the scene.
        cameras: V cameras.
        backend: as in `render.render`.

    Returns:
        The views, on the CPU.
    """
    with torch.no_grad():
        rendering = render(gaussians, cameras, backend=backend)

    alpha = rendering.alpha.detach().cpu().float()
    color = unpremultiply(rendering.color.detach().cpu().float(), alpha)
    directions, along = _pixel_rays(cameras)
    origins = cameras.positions.detach().cpu().float()
    reach = rendering.depth.detach().cpu().float() / along

    return ObservedViews(
        cameras=cameras,
        alpha=alpha[..., 0],
        classes=classify_colors(color),
        lengths=color.norm(dim=-1),
        points=origins[:, None, None] + reach * directions,
        origins=origins,
        directions=directions,
    )


def _pixel_rays(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Return unit rays [V, H, W, 3] and the component of each along the camera's axis [V, H, W, 1]."""
    rows = torch.arange(cameras.height, dtype=torch.float64) + 0.5
    columns = torch.arange(cameras.width, dtype=torch.float64) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)

    inverse = torch.linalg.inv(cameras.Ks.detach().cpu().double())
    local = torch.einsum("vij,hwj->vhwi", inverse, pixels)
    local = local / local.norm(dim=-1, keepdim=True)
    rotations = cameras.viewmats.detach().cpu().double()[:, :3, :3]
    world = torch.einsum("vji,vhwj->vhwi", rotations, local)
    return world.float(), local[..., 2:].float()


def flat_rays(views: ObservedViews, pixels: Tensor | None = None) -> tuple[F64, F64]:
    """Return camera positions and directions of pixels, [R, 3] each.

    Args:
        views: V views of H x W pixels.
        pixels: [V, H, W] bool; None is all.
    """
    chosen = torch.ones_like(views.alpha, dtype=torch.bool) if pixels is None else pixels
    directions = views.directions[chosen]
    origins = views.origins[:, None, None].expand_as(views.directions)[chosen]
    return (
        np.ascontiguousarray(origins.reshape(-1, 3).double().numpy()),
        np.ascontiguousarray(directions.reshape(-1, 3).double().numpy()),
    )
