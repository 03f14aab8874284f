"""Plain sampling from a multi-view prior: what it would draw, without a scene."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras, mvdream_camera_matrices
from vlm3d_gs.prior.denoiser import (
    Denoiser,
    TextEmbedding,
    decode_latents,
    predict,
    require_multiview,
)
from vlm3d_gs.prior.multiview import join_views


@torch.inference_mode()
def sample_views(
    denoiser: Denoiser,
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
        texts: 1 + P embedded texts: the negative one, usually empty, then P prompts.
        cameras: V cameras, the same for each prompt.
        generator: source of the first noise, on the CPU.
        steps: network evaluations.
        guidance_scale: classifier-free guidance.

    Returns:
        [P, V, H, W, 3] pictures, 0 to 1.

    Raises:
        ConfigError: the model knows no cameras.

    Source: Song et al. 2020 (DDIM, arXiv 2010.02502), eq. 12 with sigma = 0.
    """
    require_multiview(denoiser)
    n_prompts, n_views, noise_schedule = len(texts) - 1, len(cameras), denoiser.noise_schedule
    join_views(denoiser.network, n_views)
    config = denoiser.network.config
    shape = (n_prompts * n_views, config.in_channels, config.sample_size, config.sample_size)
    latents = torch.randn(shape, generator=generator).to(denoiser.device)
    wanted = torch.arange(1, n_prompts + 1).repeat_interleave(n_views)
    pairs = (texts.rows(0 * wanted), texts.rows(wanted))
    camera_matrices = mvdream_camera_matrices(cameras).flatten(1).to(latents).repeat(n_prompts, 1)
    times = torch.linspace(len(noise_schedule) - 1, 0, steps + 1).round().long().tolist()
    for now, after in pairwise(times):
        timesteps = torch.full((shape[0],), now, device=latents.device)
        prediction = predict(denoiser, latents, timesteps, pairs, guidance_scale, camera_matrices)
        if after == 0:
            latents = prediction.clean_pred
        else:
            latents = (
                noise_schedule.signal[after] * prediction.clean_pred
                + noise_schedule.sigma[after] * prediction.noise_pred
            )
    return decode_latents(denoiser, latents).unflatten(0, (n_prompts, n_views))
