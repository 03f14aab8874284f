"""Fitting any splat into the view of the product cameras, and rendering many frames in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import Color
from vlm3d_gs.render import Backend, render

DISTANCE, FOV_DEG = 3.1, 40.0
"""Product cameras: the unit ball just fills the picture."""
BACKGROUND: Color = (0.75, 0.78, 0.82)
"""Background of the products: a cool light grey on which white, dark and hazy objects are all visible."""
OWN_RADIUS = 1.1
"""Scenes within this radius are shown as they are, at true scale."""
VISIBLE_OPACITY = 0.05
FAR_QUANTILE = 0.99
"""Share of the visible Gaussians that must be in the picture; a few stray ones must not shrink it."""
WIDEST = 1e30
"""A width that float32 holds, and its logarithm too."""
CHUNK_PIXELS = 2_000_000
"""Pixels rendered in one call."""


def framed(gaussians: Gaussians) -> Gaussians:
    """Return the scene moved and scaled into the unit ball, if it is not there already.

    Args:
        gaussians: any scene; splats of other programs may be anywhere and of any size.

    Returns:
        The same Gaussians if nearly all visible ones are within `OWN_RADIUS` of the origin, else
        a copy whose median is the origin and whose 99 % radius is 1.
    """
    center, radius = bounds(gaussians)
    if radius == 1.0 and not bool(center.any()):
        return gaussians
    moved = {
        "means": (gaussians.means - center) / radius,
        "log_scales": gaussians.log_scales - torch.tensor(radius, dtype=center.dtype).log(),
    }
    return Gaussians.from_parameters({**gaussians.parameters(), **moved})


def bounds(gaussians: Gaussians) -> tuple[Tensor, float]:
    """Return the centre [3] and the radius of the ball that product cameras look at, world units.

    The unit ball at the origin for scenes that are there already; else the median and the 99 %
    radius of the visible Gaussians, at least their median standard deviation.
    """
    means = gaussians.means.detach()
    is_visible = gaussians.opacities.detach() > VISIBLE_OPACITY
    visible = means[is_visible]
    if len(visible) == 0 or _radius(visible) <= OWN_RADIUS:
        return means.new_zeros(3), 1.0

    # One Gaussian, or several in one place, have no radius but a width.
    center = visible.median(dim=0).values
    width = float(gaussians.scales.detach()[is_visible].amax(dim=-1).median())
    return center, max(_radius(visible - center), min(width, WIDEST), 1e-9)


def render_frames(
    gaussians: Gaussians, cameras: Cameras, background: Color, backend: Backend
) -> Iterator[Tensor]:
    """Yield the frames of many cameras one by one, [H, W, 3] on the host, rendered in chunks."""
    chunk = max(1, CHUNK_PIXELS // (cameras.width * cameras.height))
    for start in range(0, len(cameras), chunk):
        views = cameras.select(slice(start, start + chunk)).to(gaussians.device)
        with torch.no_grad():
            rendering = render(gaussians, views, backend=backend, background=background)
        yield from rendering.color.cpu()


def _radius(points: Tensor) -> float:
    distances = points.norm(dim=-1).sort().values
    return float(distances[int(FAR_QUANTILE * (len(distances) - 1))])
