"""Images of a scene's shape: depth as brightness, and normals as colours.

Both come from the expected depth that every renderer returns. Letters: C views, H rows, W columns.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.images import Color, composite
from vlm3d_gs.render import Rendering

Beside = Literal["depth", "normal"]
BESIDE: tuple[Beside, ...] = ("depth", "normal")
NEAR_SHADE, FAR_SHADE = 1.0, 0.15
"""Brightness of the nearest and the farthest depth of the range."""
SOLID_ALPHA = 0.5
"""Opacity from which the depth of a pixel is meaningful."""


def surface_pictures(
    rendering: Rendering,
    cameras: Cameras,
    kind: Beside,
    background: Color,
    depths: tuple[float, float],
) -> Tensor:
    """Return depth or normal images with the soft edges of the renders, over a background.

    Args:
        rendering: C views of a scene.
        cameras: the same C views.
        kind: what the images show.
        background: colour behind the object.
        depths: nearest and farthest depth, world units; only for `depth`.

    Returns:
        [C, H, W, 3], 0 to 1.

    Raises:
        ConfigError: unknown kind.

    Not differentiable where coverage or depth is clamped.
    """
    if kind == "depth":
        near, far = depths
        share = ((rendering.depth - near) / max(far - near, 1e-9)).clamp(0.0, 1.0)
        shades = (NEAR_SHADE + (FAR_SHADE - NEAR_SHADE) * share).expand_as(rendering.color)
    elif kind == "normal":
        shades = 0.5 + 0.5 * normals(rendering.depth, rendering.alpha, cameras)
    else:
        raise ConfigError(f"Beside the picture can be {' or '.join(BESIDE)}, got {kind!r}.")
    alpha = rendering.alpha.clamp(0.0, 1.0)
    return composite(shades * alpha, alpha, background)


def normals(depth: Tensor, alpha: Tensor, cameras: Cameras) -> Tensor:
    """Return unit normals that face the camera, in axes x right, y up, z towards the viewer.

    Points are unprojected from depth; the normal is the cross product of their differences along
    rows and columns, one-sided at the border and where a neighbour is not solid.

    Args:
        depth: [C, H, W, 1] expected depth along camera z, world units.
        alpha: [C, H, W, 1] coverage.
        cameras: C views.

    Returns:
        [C, H, W, 3]; (0, 0, 1) where there is no surface.
    """
    focal, principal = cameras.Ks[:, [0, 1], [0, 1]].to(depth), cameras.Ks[:, :2, 2].to(depth)
    rows = torch.arange(cameras.height, device=depth.device) + 0.5
    columns = torch.arange(cameras.width, device=depth.device) + 0.5
    y, x = torch.meshgrid(rows.to(depth), columns.to(depth), indexing="ij")
    pixels = torch.stack([x, y], -1)
    rays = (pixels - principal[:, None, None]) / focal[:, None, None]
    points = torch.cat([rays * depth, depth], -1)

    solid = alpha >= SOLID_ALPHA
    across, down = _differences(points, solid, 2), _differences(points, solid, 1)
    normal = torch.linalg.cross(down, across)
    facing = torch.where((normal * points).sum(-1, keepdim=True) > 0, -normal, normal)
    unit = torch.nn.functional.normalize(facing, dim=-1) * depth.new_tensor([1.0, -1.0, -1.0])

    towards_viewer = depth.new_tensor([0.0, 0.0, 1.0])
    return torch.where(solid & (unit.norm(dim=-1, keepdim=True) > 0.5), unit, towards_viewer)


def _differences(points: Tensor, solid: Tensor, axis: int) -> Tensor:
    """Return the sum of the differences to both neighbours along an axis, where both ends are solid."""
    after, before = torch.zeros_like(points), torch.zeros_like(points)
    length = points.shape[axis]
    steps = points.narrow(axis, 1, length - 1) - points.narrow(axis, 0, length - 1)
    both = solid.narrow(axis, 1, length - 1) & solid.narrow(axis, 0, length - 1)
    steps = steps * both
    after.narrow(axis, 0, length - 1).copy_(steps)
    before.narrow(axis, 1, length - 1).copy_(steps)
    return after + before
