"""Plain sampling from a multi-view prior: what it would draw, without a scene."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from vlm3d_gs.cameras import Cameras, mvdream_camera_matrices
from vlm3d_gs.guidance.denoiser import (
    Denoiser,
    clean_and_noise,
    decode_pictures,
    embed_text,
    precision,
)
from vlm3d_gs.guidance.multiview import join_views


@torch.inference_mode()
def sample_views(
    denoiser: Denoiser,
    prompts: list[str],
    cameras: Cameras,
    generator: torch.Generator,
    *,
    steps: int = 30,
    guidance_scale: float = 5.0,
) -> Tensor:
    """Sample views of several prompts by deterministic DDIM.

    Args:
        denoiser: a multi-view model.
        prompts: P prompts.
        cameras: V cameras, the same for each prompt.
        generator: source of the first noise, on the CPU.
        steps: network evaluations.
        guidance_scale: classifier-free guidance.

    Returns:
        [P, V, H, W, 3] pictures, 0 to 1.

    Source: Song et al. 2020 (DDIM, arXiv 2010.02502), eq. 12 with sigma = 0.
    """
    n_views, scheduler = len(cameras), denoiser.scheduler
    join_views(denoiser.unet, n_views)
    config = denoiser.unet.config
    shape = (len(prompts) * n_views, config.in_channels, config.sample_size, config.sample_size)
    latents = torch.randn(shape, generator=generator).to(denoiser.device)
    embeddings = embed_text(denoiser, ["", *prompts])
    empty = embeddings[:1].expand(shape[0], -1, -1)
    wanted = embeddings[1:].repeat_interleave(n_views, 0)
    labels = mvdream_camera_matrices(cameras).flatten(1).to(latents).repeat(len(prompts), 1)
    times = torch.linspace(denoiser.n_train_timesteps - 1, 0, steps + 1).round().long().tolist()
    for now, after in pairwise(times):
        timesteps = torch.full((shape[0],), now, device=latents.device)
        with precision(denoiser):
            output = denoiser.unet(
                latents.repeat(2, 1, 1, 1),
                timesteps.repeat(2),
                torch.cat([empty, wanted]),
                class_labels=labels.repeat(2, 1),
            ).sample.float()
        unconditional, conditional = output.chunk(2)
        guided = unconditional + guidance_scale * (conditional - unconditional)
        clean, noise = clean_and_noise(scheduler, guided, latents, timesteps)
        alpha = scheduler.alphas_cumprod[after] if after > 0 else torch.tensor(1.0)
        latents = alpha.sqrt() * clean + (1.0 - alpha).sqrt() * noise
    pictures = decode_pictures(denoiser, latents)
    return pictures.unflatten(0, (len(prompts), n_views))
