"""Mini-world scenes as our own renderer draws them: what the critic sees during a run, whole or damaged."""

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
CLEAN_OPACITY = (0.85, 0.98)
STRENGTH = (0.35, 1.0)
"""How plainly a damaged scene is damaged; weaker is left to nobody, since a run's last dents are as strong."""
PLAIN_CHANGE = 0.1
"""Change of a colour channel or of coverage by which a pixel counts as damaged."""
CHANGED_PX = 24
"""Damaged pixels, of all views together, that make a damage visible; a view has 4,096."""
MAX_ATTEMPTS = 5


def splat_views(
    scene: SceneSpec, kind: str, cameras: Cameras, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a scene as Gaussians, damaged and whole.

    Args:
        scene: one or two objects.
        kind: `none`, or one of `damage_images.DAMAGES`.
        cameras: V cameras.
        rng: source of randomness.

    A damage that these views hardly show, such as a bite out of the far side, is drawn again: nobody could answer a
    question about it.

    Returns:
        Two of [V, H, W, 4] premultiplied colour and coverage: as asked for, and undamaged.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    gaussians = scene_to_gaussians(
        scene,
        int(rng.integers(*GAUSSIANS)),
        generator,
        opacity=float(rng.uniform(*CLEAN_OPACITY)),
    )
    whole = _draw(gaussians, cameras)
    if kind == "none":
        return whole, whole
    name = "inconsistent" if kind == "mismatch" else kind
    for _ in range(MAX_ATTEMPTS):
        spoiled = _draw(damage(gaussians, name, float(rng.uniform(*STRENGTH)), generator), cameras)
        if int(changed_pixels(spoiled, whole).sum()) >= CHANGED_PX:
            break
    return spoiled, whole


def changed_pixels(views: Tensor, whole: Tensor) -> Tensor:
    """Return [V, H, W] bool: where views [V, H, W, 4] plainly differ from the undamaged ones."""
    return (views - whole).abs().amax(-1) > PLAIN_CHANGE


def _draw(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    drawn = render(gaussians, cameras, backend="cpu")
    return torch.cat([drawn.color, drawn.alpha], dim=-1).clamp(0.0, 1.0)
