"""Fewer Gaussians with nearly the same pictures: those that contribute least to them are dropped."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render import render
from vlm3d_gs.show.framing import DISTANCE, FOV_DEG, framed

VIEWS, SIZE_PX = 24, 256
"""Pictures that contributions are summed over, from all around and their side."""
UNSEEN = 1e-6
"""Weight of opacity times area beside that: it orders what no picture shows."""


def contributions(gaussians: Gaussians) -> Tensor:
    """Return [N], what each Gaussian contributes to pictures from all around, in pixels.

    That is its blending weight (alpha times transmittance) summed over all pixels of all views, which
    is the derivative of the summed picture with respect to its colour.

    Args:
        gaussians: N >= 1 finite Gaussians of any place and size.
    """
    scene = framed(gaussians.detach())
    # With all colours 0.5, no colour is clamped, and none is needed.
    colors = torch.zeros(len(scene), 1, 3, dtype=scene.dtype, device=scene.device)
    weights = torch.zeros(len(scene), dtype=scene.dtype, device=scene.device)

    golden = math.degrees(math.pi * (3.0 - math.sqrt(5.0)))
    for view in range(VIEWS):
        height = 1.0 - (2.0 * view + 1.0) / VIEWS
        elevation = math.degrees(math.asin(height))
        camera = orbit([view * golden], elevation, DISTANCE, FOV_DEG, SIZE_PX, SIZE_PX)
        paint = colors.clone().requires_grad_()
        picture = render(scene.changed({"sh": paint}), camera.to(scene.device))
        (gradient,) = torch.autograd.grad(picture.color[..., 0].sum(), paint)
        weights += gradient[:, 0, 0] / SH_C0

    area = scene.log_scales.sort(-1).values[:, 1:].sum(-1).exp()
    return weights + UNSEEN * scene.opacities * area


def most_contributing(gaussians: Gaussians, count: int) -> Tensor:
    """Return [N] bool, True for the `count` Gaussians that contribute most.

    Args:
        gaussians: N >= 1 finite Gaussians; their colours do not matter.
        count: 1 to N.
    """
    keep = torch.zeros(len(gaussians), dtype=torch.bool, device=gaussians.device)
    keep[contributions(gaussians).topk(count).indices] = True
    return keep
