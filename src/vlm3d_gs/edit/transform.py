"""Scenes scaled, turned and moved, with their harmonics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.world import rotate_gaussians


def euler_rotation(degrees: tuple[float, float, float]) -> Tensor:
    """Return the rotation about the x, then the y, then the z axis, which stay where they are.

    Args:
        degrees: about x, y and z, counter-clockwise seen from the axis' tip.

    Returns:
        [3, 3] float64, Rz Ry Rx.
    """
    rotation = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(degrees):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = torch.eye(3, dtype=torch.float64)
        turn[first, first] = turn[second, second] = cosine
        turn[first, second], turn[second, first] = -sine, sine
        rotation = turn @ rotation
    return rotation


def transformed(
    gaussians: Gaussians, *, scale: float, rotation: Tensor, translation: Tensor
) -> Gaussians:
    """Return a scene scaled about the origin, then turned about it, then moved.

    Args:
        gaussians: N Gaussians.
        scale: above 0.
        rotation: [3, 3] proper rotation; it turns what the harmonics show too.
        translation: [3] world units.

    Differentiable in the Gaussians.
    """
    turned = rotate_gaussians(gaussians, rotation)
    moved = {
        "means": turned.means * scale + translation.to(turned.means),
        "log_scales": turned.log_scales + math.log(scale),
    }
    return turned.changed(moved)


def shifted(gaussians: Gaussians, translation: Tensor, scale: float) -> Gaussians:
    """Return a scene scaled about the origin, then moved; nothing is turned, and nothing changes where neither does.

    Args:
        gaussians: N Gaussians.
        translation: [3] world units.
        scale: above 0.
    """
    if scale == 1.0 and not bool(translation.any()):
        return gaussians
    return gaussians.changed(
        {
            "means": gaussians.means * scale + translation.to(gaussians.means),
            "log_scales": gaussians.log_scales + math.log(scale),
        }
    )
