"""Plain sampling from a multi-view prior: the images that it generates without a scene."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras, mvdream_camera_matrices
from vlm3d_gs.prior.denoiser import (
    TextEmbedding,
    decode_latents,
    predict,
    require_multiview,
)
from vlm3d_gs.prior.noise import add_noise
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser


@torch.inference_mode()
def sample_views(
    denoiser: TorchDenoiser,
    texts: TextEmbedding,
    cameras: Cameras,
    generator: torch.Generator,
    *,
    steps: int = 30,
    guidance_scale: float = 5.0,
) -> Tensor:
    """Sample views of several prompts by deterministic DDIM.

    Args:
        denoiser: a multi-view model.
        texts: 1 + P embedded texts: the negative prompt, usually empty, then P prompts.
        cameras: V cameras, the same for each prompt.
        generator: source of the initial noise, on the CPU.
        steps: network evaluations.
        guidance_scale: of classifier-free guidance.

    Returns:
        [P, V, H, W, 3] images, 0 to 1.

    Raises:
        ConfigError: the model knows no cameras.

    Source: Song et al. 2020 (DDIM, arXiv 2010.02502), eq. 12 with sigma = 0.
    """
    require_multiview(denoiser)
    n_prompts, n_views, noise_schedule = len(texts) - 1, len(cameras), denoiser.noise_schedule
    denoiser.join_views(n_views)

    rows = torch.arange(1, n_prompts + 1).repeat_interleave(n_views)
    pair = (texts.rows(0 * rows), texts.rows(rows))
    camera_matrices = mvdream_camera_matrices(cameras).flatten(1).to(denoiser.device)
    camera_matrices = camera_matrices.float().repeat(n_prompts, 1)

    config = denoiser.network.config
    shape = (len(rows), config.in_channels, config.sample_size, config.sample_size)
    latents = torch.randn(shape, generator=generator).to(denoiser.device)

    path = torch.linspace(len(noise_schedule) - 1, 0, steps + 1).round().long().tolist()
    for now, after in pairwise(path):
        timesteps = torch.full((len(rows),), now, device=latents.device)
        prediction = predict(denoiser, latents, timesteps, pair, guidance_scale, camera_matrices)
        latents = prediction.clean_pred
        if after > 0:
            lower = torch.full_like(timesteps, after)
            latents = add_noise(noise_schedule, latents, prediction.noise_pred, lower)

    return decode_latents(denoiser, latents).unflatten(0, (n_prompts, n_views))
