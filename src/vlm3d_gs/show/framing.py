"""Fitting any splat into the view of the product cameras, and rendering many frames in bounded memory."""

from __future__ import annotations

import math
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
OWN_REACH = 1.1
"""A scene of a run is in its place when it reaches no farther from the origin."""
VISIBLE_OPACITY = 0.05
CORE = (0.1, 0.9)
"""Quantiles of opacity, on each axis, between which the core of a scene lies, whatever floats around."""
CORE_SIZES = 4.0
"""What is farther from the middle of the core than this many times its half size is a floater."""
WHOLE = (0.002, 0.998)
"""Quantiles of what is left, between which all of the scene is that matters."""
REACH_SIGMAS = 2.0
"""Standard deviations by which a Gaussian reaches beyond its centre, as an eye sees it."""
MOST_SAMPLES = 200_000
"""Gaussians that quantiles are taken of; of more, every k-th."""
SMALLEST = 1e-30
"""Radius of a scene without any extent."""
CHUNK_PIXELS = 2_000_000
"""Pixels rendered in one call."""


def framed(gaussians: Gaussians, *, own: bool = False) -> Gaussians:
    """Return the scene moved and scaled so that it fills the unit ball.

    Args:
        gaussians: any scene; splats of other programs may be anywhere and of any size.
        own: as in `bounds`.

    Returns:
        A copy whose `bounds` are the unit ball at the origin; the same Gaussians where they are it already.
    """
    center, radius = bounds(gaussians, own=own)
    if radius == 1.0 and not bool(center.any()):
        return gaussians
    moved = {
        "means": (gaussians.means - center) / radius,
        "log_scales": gaussians.log_scales - math.log(radius),
    }
    return gaussians.changed(moved)


def bounds(gaussians: Gaussians, *, own: bool = False) -> tuple[Tensor, float]:
    """Return the centre [3] and the radius of the ball that product cameras look at, world units.

    A ball around a robust box: opacity decides what counts, and floaters far from where most of it is do
    not, however many Gaussians they are made of.

    Args:
        gaussians: any scene.
        own: a scene of a run, which is meant for the unit ball at the origin: that ball, so that pictures of
            one run have one scale, unless the scene reaches beyond it.
    """
    points, sizes, weights = _visible(gaussians)
    zero = gaussians.means.new_zeros(3)
    if len(points) == 0:
        return zero, 1.0

    low, high = _quantiles(points, weights, CORE)
    middle, half = (low + high) / 2, (high - low) / 2
    half = half.clamp(min=max(float(half.max()) * 0.1, float(sizes.median())))
    kept = ((points - middle).abs() <= CORE_SIZES * half).all(1)
    points, sizes, weights = points[kept], sizes[kept], weights[kept]

    low, high = _quantiles(points, weights, WHOLE)
    center = (low + high) / 2
    reach = ((points - center).norm(dim=1) + REACH_SIGMAS * sizes)[:, None]
    radius = max(float(_quantiles(reach, weights, WHOLE)[1]), SMALLEST)

    if own and float(center.norm()) + radius <= OWN_REACH:
        return zero, 1.0
    return center.to(gaussians.means), radius


def _visible(gaussians: Gaussians) -> tuple[Tensor, Tensor, Tensor]:
    """Return centres [M, 3], sizes [M] and opacities [M] of a sample of what can be seen, float64 on the CPU."""
    stride = max(1, len(gaussians) // MOST_SAMPLES)
    some = (
        gaussians.detach().select(torch.arange(0, len(gaussians), stride)).to("cpu", torch.float64)
    )
    opacities = some.opacities
    seen = opacities > VISIBLE_OPACITY
    if not bool(seen.any()):
        seen = torch.ones_like(seen)
    return some.means[seen], some.scales[seen].amax(1), opacities[seen].clamp(min=1e-6)


def _quantiles(values: Tensor, weights: Tensor, at: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return two weighted quantiles of each column of [M, C], each [C]."""
    ordered, order = values.sort(dim=0)
    mass = weights[order].cumsum(dim=0)
    found = []
    for share in at:
        index = (mass < share * mass[-1]).sum(dim=0, keepdim=True).clamp(max=len(values) - 1)
        found.append(ordered.gather(0, index)[0])
    return found[0], found[1]


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
