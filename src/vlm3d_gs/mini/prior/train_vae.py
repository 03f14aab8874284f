"""Training of the decoder of the embedded codec."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from vlm3d_gs.mini.prior.codec import new_codec, set_patch_components
from vlm3d_gs.mini.prior.data import sample_batch, step_rng
from vlm3d_gs.mini.training import Scalars, TrainingPlan, fit

PLAN = TrainingPlan(steps=2500, lr=2e-3, ema_decay=0.99, weight_decay=0.0, scenes_per_step=4)
LATENT_NOISE = 0.02
"""Standard deviation of the noise added to raw latents, since the decoder will get the output of a diffusion model."""


def channels_first(color: Tensor) -> Tensor:
    """[S, V, H, W, 3] in 0..1 -> [S * V, 3, H, W] in -1..1."""
    return color.flatten(0, 1).movedim(-1, 1) * 2.0 - 1.0


def prepared_codec(seed: int) -> AutoencoderTiny:
    """Return the codec with an encoder from 512 images and an untrained decoder."""
    torch.manual_seed(seed)
    codec = new_codec()
    batch = sample_batch(
        step_rng(seed, 2**31), 128, held_out=None
    )  # a step that training never reaches
    set_patch_components(codec, batch.color.flatten(0, 1).movedim(-1, 1))
    return codec


def train_vae(
    folder: Path,
    device: str,
    seed: int,
    log: Callable[[str], None],
    codec: AutoencoderTiny,
    plan: TrainingPlan = PLAN,
) -> AutoencoderTiny:
    """Train the decoder of a prepared codec by mean squared error; return it with averaged weights."""
    codec = codec.to(device)

    def loss(images: Tensor, step: int) -> tuple[Tensor, Scalars]:
        images = images.to(device)
        with torch.no_grad():
            latents = codec.encode(images).latents

        noise = torch.randn(latents.shape, generator=_generator(seed, step)).to(device)
        with torch.autocast(device, torch.bfloat16):
            decoded = codec.decode(latents + LATENT_NOISE * noise).sample

        error = (decoded.float() - images).div(2.0).square().mean()
        return error, {"psnr_db": -10.0 * torch.log10(error.detach())}

    fit({"vae": codec}, partial(draw_images, seed, plan.scenes_per_step), loss, plan, folder, log)
    return codec


def draw_images(seed: int, n_scenes: int, step: int) -> Tensor:
    """Return the images [4 * S, 3, H, W] of one step, in -1..1."""
    return channels_first(sample_batch(step_rng(seed, step), n_scenes).color)


def _generator(seed: int, step: int) -> torch.Generator:
    """Return the source of the noise of one step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)
