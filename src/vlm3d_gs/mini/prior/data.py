"""Training batches of the mini world: a batch is a function of the seed and the step alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras, mvdream_camera_matrices, orbit
from vlm3d_gs.mini.world.scenes import (
    DISTANCE,
    ELEVATION_DEG,
    FOV_DEG,
    IMAGE_PX,
    N_VIEWS,
    SceneSpec,
    phrase_prompt,
    render_rgba,
    sample_scene,
)


@dataclass(frozen=True)
class Batch:
    """S scenes seen from V views each."""

    scenes: list[SceneSpec]
    """S scenes with their ground truth."""
    prompts: list[str]
    """S prompts in varied phrasings."""
    color: Tensor
    """[S, V, H, W, 3] float32, 0 to 1, on one random flat background per scene."""
    alpha: Tensor
    """[S, V, H, W, 1] float32 coverage."""
    ids: Tensor
    """[S, V, H, W] int8 object index or -1."""
    cameras: Cameras
    """S * V cameras, the views of a scene adjacent."""

    @property
    def camera_matrices(self) -> Tensor:
        """[S * V, 16] float32, MVDream's camera condition."""
        return mvdream_camera_matrices(self.cameras).flatten(1).float()


def step_rng(seed: int, step: int) -> np.random.Generator:
    """Return the random generator of one training step."""
    return np.random.default_rng([seed, step])


def sample_background(rng: np.random.Generator) -> np.ndarray:
    """Draw a flat background colour [3]: middle grey, any grey, or in 6 of 10 any colour."""
    draw = rng.random()
    if draw < 0.4:
        return np.full(3, 0.5 if draw < 0.25 else rng.random(), np.float32)
    return rng.random(3, dtype=np.float32)


def sample_batch(
    rng: np.random.Generator,
    n_scenes: int,
    *,
    azimuth_jitter_deg: float = 180.0,
    held_out: bool | None = False,
    n_views: int = N_VIEWS,
    size_px: int = IMAGE_PX,
) -> Batch:
    """Draw scenes, cameras and backgrounds, and ray-cast them.

    Args:
        rng: source of all randomness.
        n_scenes: S.
        azimuth_jitter_deg: views are at k * 360 / V plus one shared offset within +- this.
        held_out: as in `world.sample_composition`.
        n_views: V.
        size_px: side of the images.
    """
    scenes = [sample_scene(rng, held_out=held_out) for _ in range(n_scenes)]
    prompts = [phrase_prompt(scene.composition, rng) for scene in scenes]

    # One offset, elevation and distance per scene.
    offsets = rng.uniform(-azimuth_jitter_deg, azimuth_jitter_deg, (n_scenes, 1))
    azimuths = offsets + np.arange(n_views) * 360.0 / n_views
    shared = [
        np.repeat(rng.uniform(low, high, (n_scenes, 1)), n_views, 1)
        for low, high in (ELEVATION_DEG, DISTANCE)
    ]
    angles = [torch.from_numpy(values).flatten() for values in (azimuths, *shared)]
    cameras = orbit(angles[0], angles[1], angles[2], FOV_DEG, size_px, size_px)

    rgba, ids = render_rgba(scenes, cameras)
    images = torch.from_numpy(rgba)
    backgrounds = torch.from_numpy(np.stack([sample_background(rng) for _ in scenes])).float()
    color = images[..., :3] + (1.0 - images[..., 3:]) * backgrounds[:, None, None, None]
    return Batch(scenes, prompts, color, images[..., 3:], torch.from_numpy(ids), cameras)
