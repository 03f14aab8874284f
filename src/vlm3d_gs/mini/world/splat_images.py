"""Images of mini-world scenes by our own renderer, as the critic gets them during a run, clean or damaged."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.mini.world.scenes import SceneSpec
from vlm3d_gs.mini.world.splats import damage, scene_to_gaussians
from vlm3d_gs.render import render

GAUSSIANS = (500, 2500)
"""Range of their number."""
CLEAN_OPACITY = (0.85, 0.98)
STRENGTH = (0.35, 1.0)
"""Range of the damage; none is weaker, since even the last flaws of a run are this strong."""
PLAIN_CHANGE = 0.1
"""Change of a colour channel or of coverage above which a pixel counts as damaged."""
CHANGED_PX = 24
"""Damaged pixels over all views that make a damage visible; a view has 4,096 pixels."""
MAX_ATTEMPTS = 5


def splat_views(
    scene: SceneSpec, kind: str, cameras: Cameras, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a scene as Gaussians, damaged and clean.

    Args:
        scene: one or two objects.
        kind: `none`, or one of `damage_images.DAMAGES`.
        cameras: V cameras.
        rng: source of randomness.

    A damage that is hardly visible in these views, such as a hole in the far side, is drawn again: a question about it
    would have no right answer.

    Returns:
        Two tensors [V, H, W, 4] of premultiplied colour and coverage: damaged, and clean.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    gaussians = scene_to_gaussians(
        scene,
        int(rng.integers(*GAUSSIANS)),
        generator,
        opacity=float(rng.uniform(*CLEAN_OPACITY)),
    )
    clean = _draw(gaussians, cameras)
    if kind == "none":
        return clean, clean

    # Splats cannot be mixed between views; the same damage to them is a scene with inconsistent sides.
    name = "inconsistent" if kind == "mismatch" else kind
    for _ in range(MAX_ATTEMPTS):
        spoiled = _draw(damage(gaussians, name, float(rng.uniform(*STRENGTH)), generator), cameras)
        if int(changed_pixels(spoiled, clean).sum()) >= CHANGED_PX:
            break

    return spoiled, clean


def changed_pixels(views: Tensor, clean: Tensor) -> Tensor:
    """Return [V, H, W] bool: where views [V, H, W, 4] differ visibly from the clean ones."""
    return (views - clean).abs().amax(-1) > PLAIN_CHANGE


def _draw(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    drawn = render(gaussians, cameras, backend="cpu")
    return torch.cat([drawn.color, drawn.alpha], dim=-1).clamp(0.0, 1.0)
