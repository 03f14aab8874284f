"""Small random changes of images before a critic reads them, differentiable, the same for all views of a group.

A network can be satisfied by adversarial patterns. Such a pattern seldom survives another framing, exposure, resolution
or background; the content of the image does. The background matters most: a patch of exactly the colour that a vision
tower subtracts becomes a vector of length nearly 0, which the tower's first normalisation enlarges a thousandfold, and
its gradient with it.
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
        config: ranges of the changes; with all off, `images` itself is returned.
        generator: on the CPU; five numbers are drawn whichever changes are on.

    Returns:
        [V, H, W, 3]. Differentiable in `images`.
    """
    # Drawn in one go, so that switching one change on or off leaves the others as they were.
    framing, across, down, exposure, scale = torch.rand(5, generator=generator).tolist()
    out = images

    if config.crop > 0.0:
        zoom = 1.0 + config.crop * (2.0 * framing - 1.0)
        reach = config.crop / 2.0
        out = reframe(out, zoom, reach * (2.0 * across - 1.0), reach * (2.0 * down - 1.0))

    if config.color > 0.0:
        contrast = 1.0 + config.color * (2.0 * exposure - 1.0)
        out = (0.5 + (out - 0.5) * contrast).clamp(0.0, 1.0)

    if config.resolution < 1.0:
        height, width = images.shape[1:3]
        ratio = config.resolution + (1.0 - config.resolution) * scale
        small = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        out = resize(resize(out, small), (height, width))

    return out


def replace_background(color: Tensor, alpha: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Return renders as they would look in front of another background.

    Args:
        color: [V, H, W, 3] with the background composited.
        alpha: [V, H, W, 1] opacity of the renders.
        old: [V, 3] colours of the background in `color`.
        new: [V, 3] colours of the background to put there.

    Differentiable in `color` and `alpha`; not clamped.
    """
    return color + (1.0 - alpha) * (new - old)[:, None, None]


def reframe(images: Tensor, zoom: float, across: float, down: float) -> Tensor:
    """Resample images [V, H, W, 3] in a shifted, scaled window, bilinearly; outside, the border is repeated.

    Args:
        images: the views.
        zoom: side of the window relative to that of the image; below 1 crops, above 1 adds a margin.
        across: shift of the window's centre to the right, relative to the side of the image.
        down: the same downwards.

    Differentiable in `images`.
    """
    window = images.new_tensor([[zoom, 0.0, 2.0 * across], [0.0, zoom, 2.0 * down]])
    pixels = images.movedim(-1, 1)
    grid = F.affine_grid(window.expand(len(images), 2, 3), list(pixels.shape), align_corners=False)
    out = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)

    return out.movedim(1, -1)
