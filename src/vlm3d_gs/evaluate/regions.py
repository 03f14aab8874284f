"""Regions of masks: connected components, dilation and erosion. Masks are [V, H, W] bool."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vlm3d_gs.evaluate.kernels import fill_from, fill_sizes


def grow(masks: Tensor, radius_px: int) -> Tensor:
    """Return the masks dilated by a square of this radius."""
    side = 2 * radius_px + 1
    # Rows, then columns: the work grows with the square's side, not with its area.
    rows = functional.max_pool2d(
        masks[:, None].float(), (1, side), stride=1, padding=(0, radius_px)
    )
    grown = functional.max_pool2d(rows, (side, 1), stride=1, padding=(radius_px, 0))
    return grown[:, 0] > 0.5


def shrink(masks: Tensor, radius_px: int) -> Tensor:
    """Return the masks eroded by a square of this radius, but not at the picture's edge."""
    return ~grow(~masks, radius_px)


def shrink_disc(masks: Tensor, radius_px: float) -> Tensor:
    """Return the masks eroded by a disc, but not at the picture's edge."""
    reach = int(radius_px)
    steps = torch.arange(-reach, reach + 1.0)
    disc = (steps[:, None] ** 2 + steps**2 <= radius_px**2).float()
    missing = functional.conv2d((~masks[:, None]).float(), disc[None, None], padding=reach)
    return missing[:, 0] < 0.5


def component_sizes(masks: Tensor) -> Tensor:
    """Return, for every pixel of a mask, the number of pixels in its connected component.

    Args:
        masks: [V, H, W] bool; neighbours touch by edge or corner, each view by itself.

    Returns:
        [V, H, W] int64, 0 outside the masks.
    """
    host = np.ascontiguousarray(masks.cpu().numpy())
    sizes = np.zeros(host.shape, np.int64)
    fill_sizes(host, sizes)
    return torch.from_numpy(sizes).to(masks.device)


def touching(masks: Tensor, seeds: Tensor) -> Tensor:
    """Return the components of `masks` that contain at least one pixel of `seeds`; both [V, H, W]."""
    host = np.ascontiguousarray(masks.cpu().numpy())
    reached = np.zeros(host.shape, np.bool_)
    fill_from(host, np.ascontiguousarray((seeds & masks).cpu().numpy()), reached)
    return torch.from_numpy(reached).to(masks.device)
