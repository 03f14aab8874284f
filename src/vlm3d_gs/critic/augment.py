"""Small random changes of pictures before a critic sees them, differentiable, alike for all views of a group.

A network can be pleased by patterns that no eye sees. Such a pattern seldom survives another framing, another exposure
or another resolution, or before another background; what the picture shows does. The background matters most: a
patch of the very colour that a vision tower subtracts is a vector of length nearly 0, which the tower's first
normalisation enlarges a thousandfold, and its gradient with it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm3d_gs.config import AugmentConfig
from vlm3d_gs.critic.qwen.preprocess import resize


def augment(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Change the framing, the exposure and the resolution of a view group.

    Args:
        images: [V, H, W, 3], 0 to 1.
        config: how much; all off returns `images` itself.
        generator: on the CPU; five numbers are drawn whatever is on.

    Returns:
        [V, H, W, 3]. Differentiable in `images`.
    """
    framing, across, down, exposure, scale = torch.rand(5, generator=generator).tolist()
    out = images
    if config.crop > 0.0:
        zoom = 1.0 + config.crop * (2.0 * framing - 1.0)
        reach = config.crop / 2.0
        out = reframe(out, zoom, reach * (2.0 * across - 1.0), reach * (2.0 * down - 1.0))
    if config.color > 0.0:
        change = 1.0 + config.color * (2.0 * exposure - 1.0)
        out = (0.5 + (out - 0.5) * change).clamp(0.0, 1.0)
    if config.resolution < 1.0:
        height, width = images.shape[1:3]
        share = config.resolution + (1.0 - config.resolution) * scale
        small = (max(1, round(height * share)), max(1, round(width * share)))
        out = resize(resize(out, small), (height, width))
    return out


def replace_background(color: Tensor, alpha: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Return renders as they would be before another background.

    Args:
        color: [V, H, W, 3] with the background composited.
        alpha: [V, H, W, 1] opacity of the renders.
        old: [V, 3] the background's colours.
        new: [V, 3] other colours.

    Differentiable in `color` and `alpha`, though not clamped.
    """
    return color + (1.0 - alpha) * (new - old)[:, None, None]


def reframe(images: Tensor, zoom: float, across: float, down: float) -> Tensor:
    """Show a window of pictures [V, H, W, 3], bilinearly; outside, the border's colour goes on.

    Args:
        images: the views.
        zoom: side of the window over the side of the picture; below 1 cuts away, above 1 shows more.
        across: shift of the window's centre to the right, in sides of the picture.
        down: the same downwards.

    Differentiable in `images`.
    """
    window = images.new_tensor([[zoom, 0.0, 2.0 * across], [0.0, zoom, 2.0 * down]])
    pixels = images.movedim(-1, 1)
    places = F.affine_grid(
        window.expand(len(images), 2, 3), list(pixels.shape), align_corners=False
    )
    seen = F.grid_sample(
        pixels, places, mode="bilinear", padding_mode="border", align_corners=False
    )
    return seen.movedim(1, -1)
