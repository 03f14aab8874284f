"""Naming the colour of a pixel, whatever its shading.

In the mini world a surface's colour is its albedo times a shade between 0.44 and 1, so the
direction of the colour in RGB gives the albedo and its length the light. A pixel gets the name of
the palette colour whose direction is nearest. Grey therefore counts as white: haze that imitates a
grey background is foreign to every prompt that does not name white.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlm3d_gs.core.prompts import COLORS
from vlm3d_gs.mini.world.scenes import PALETTE

DARK, OTHER = len(COLORS), len(COLORS) + 1
CLASS_NAMES = (*COLORS, "dark", "other")
"""Names by index; `dark` is too dark to have a hue, `other` is far from every colour."""

DARK_LENGTH = 0.16
"""Below this length in RGB a colour is `dark`; the darkest shade of blue has length 0.40."""
MAX_ANGLE_DEG = 22.0
"""Largest angle at which a colour still gets the name; red and orange are 20 degrees apart."""


def classify_colors(colors: Tensor) -> Tensor:
    """Return the index into `CLASS_NAMES` of each colour.

    Args:
        colors: [..., 3] straight (not premultiplied) colours, any range.

    Returns:
        [...] int64.
    """
    albedo = torch.tensor([PALETTE[name] for name in COLORS], dtype=colors.dtype)
    directions = torch.nn.functional.normalize(albedo, dim=-1).to(colors.device)
    length = colors.norm(dim=-1)
    cosines = colors @ directions.T / length.clamp_min(1e-9)[..., None]
    best, index = cosines.max(dim=-1)
    index = torch.where(best < math.cos(math.radians(MAX_ANGLE_DEG)), OTHER, index)
    return torch.where(length < DARK_LENGTH, DARK, index)
