"""A latent diffusion model as three functions: encode pictures, add noise, say what is clean.

Owns diffusers: the folder layout, the prediction type and the precision are settled here, so that a distillation loss
sees only latents.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from vlm3d_gs.errors import ConfigError
from vlm3d_gs.guidance.loading import quiet_loading


@dataclass(frozen=True)
class Denoiser:
    """The parts of a latent diffusion pipeline, frozen, in evaluation mode."""

    unet: UNet2DConditionModel
    vae: AutoencoderTiny | AutoencoderKL
    scheduler: DDIMScheduler
    text_encoder: CLIPTextModel
    tokenizer: PreTrainedTokenizerBase
    autocast: torch.dtype | None
    """Precision of the network's matrix products; None is float32."""

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.unet.device

    @property
    def n_train_timesteps(self) -> int:
        """Length of the training noise schedule."""
        return int(self.scheduler.config.num_train_timesteps)


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """Return bfloat16 where the device multiplies it faster than float32, else None."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else None


def load_denoiser(folder: Path, device: torch.device) -> Denoiser:
    """Load a pipeline folder in diffusers' layout (unet, vae, text_encoder, tokenizer, scheduler).

    Raises:
        ConfigError: the folder is not such a pipeline.
    """
    if not (folder / "model_index.json").is_file():
        raise ConfigError(
            f"{folder} is not a diffusion pipeline: it has no model_index.json. Give a folder in diffusers' layout."
        )
    plain: dict[str, Any] = {"local_files_only": True, "torch_dtype": torch.float32}
    vae_class = (
        AutoencoderTiny
        if "AutoencoderTiny" in (folder / "vae/config.json").read_text()
        else AutoencoderKL
    )
    with quiet_loading():
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", **plain)
        vae = vae_class.from_pretrained(folder / "vae", **plain)
        text_encoder = CLIPTextModel.from_pretrained(
            folder / "text_encoder", dtype=torch.float32, local_files_only=True
        )
    for network in (unet, vae, text_encoder):
        network.requires_grad_(False).eval().to(device)
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return Denoiser(unet, vae, scheduler, text_encoder, tokenizer, fast_dtype(device))


def precision(denoiser: Denoiser) -> torch.autocast | nullcontext[None]:
    """Return the context in which the networks run."""
    if denoiser.autocast is None:
        return nullcontext()
    return torch.autocast(denoiser.device.type, denoiser.autocast)


@torch.inference_mode()
def embed_text(denoiser: Denoiser, texts: list[str]) -> Tensor:
    """Return text embeddings [len(texts), L, width]."""
    tokens = denoiser.tokenizer(
        texts, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return denoiser.text_encoder(tokens.to(denoiser.device)).last_hidden_state.clone()


def encode_pictures(denoiser: Denoiser, color: Tensor) -> Tensor:
    """Return clean latents of pictures; differentiable in `color`.

    Args:
        denoiser: the model.
        color: [B, H, W, 3], 0 to 1.

    Returns:
        [B, C, h, w] float32, scaled to the diffusion model's unit.
    """
    pixels = color.movedim(-1, 1) * 2.0 - 1.0
    encoded = denoiser.vae.encode(pixels)
    latents = (
        encoded.latents if isinstance(denoiser.vae, AutoencoderTiny) else encoded.latent_dist.mean
    )
    return latents.float() * denoiser.vae.config.scaling_factor


@torch.inference_mode()
def decode_pictures(denoiser: Denoiser, latents: Tensor) -> Tensor:
    """Return pictures [B, H, W, 3] in 0..1 of latents [B, C, h, w]."""
    decoded = denoiser.vae.decode(latents / denoiser.vae.config.scaling_factor).sample
    return (decoded.float() / 2.0 + 0.5).clamp(0.0, 1.0).movedim(1, -1)


@dataclass(frozen=True)
class Prediction:
    """What the model says about noisy latents, in the scheduler's parametrisation-free terms."""

    clean: Tensor
    """[B, C, h, w] guided prediction of the clean latents."""
    conditional_clean: Tensor
    """[B, C, h, w] prediction of the conditional branch alone."""
    noise: Tensor
    """[B, C, h, w] guided prediction of the noise."""


@torch.no_grad()
def predict(
    denoiser: Denoiser,
    noisy: Tensor,
    timesteps: Tensor,
    embeddings: tuple[Tensor, Tensor],
    guidance_scale: float,
    class_labels: Tensor | None = None,
) -> Prediction:
    """Denoise once with classifier-free guidance.

    Args:
        denoiser: the model.
        noisy: [B, C, h, w] latents at `timesteps`.
        timesteps: [B] int64.
        embeddings: unconditional and conditional text embeddings, [B, L, width] each.
        guidance_scale: 1 is the conditional prediction alone.
        class_labels: [B, 16] camera condition, given to both branches, or None.

    Source: Ho and Salimans 2022 (arXiv 2207.12598), eq. 6 with w = guidance_scale - 1.
    """
    doubled = None if class_labels is None else class_labels.repeat(2, 1)
    with precision(denoiser):
        output = denoiser.unet(
            noisy.repeat(2, 1, 1, 1),
            timesteps.repeat(2),
            torch.cat(embeddings),
            class_labels=doubled,
        ).sample.float()
    unconditional, conditional = output.chunk(2)
    guided = unconditional + guidance_scale * (conditional - unconditional)
    clean, noise = clean_and_noise(denoiser.scheduler, guided, noisy, timesteps)
    return Prediction(
        clean, clean_and_noise(denoiser.scheduler, conditional, noisy, timesteps)[0], noise
    )


def clean_and_noise(
    scheduler: DDIMScheduler, output: Tensor, noisy: Tensor, timesteps: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn a network's output into clean latents and noise.

    With a = alpha_bar(t): epsilon prediction gives z0 = (z_t - sqrt(1 - a) eps) / sqrt(a); v prediction gives
    z0 = sqrt(a) z_t - sqrt(1 - a) v and eps = sqrt(a) v + sqrt(1 - a) z_t.

    Source: Salimans and Ho 2022 (arXiv 2202.00512), appendix D.
    """
    alpha = scheduler.alphas_cumprod[timesteps][:, None, None, None]
    signal, sigma = alpha.sqrt(), (1.0 - alpha).sqrt()
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        return signal * noisy - sigma * output, signal * output + sigma * noisy
    if kind == "epsilon":
        return (noisy - sigma * output) / signal.clamp_min(1e-4), output
    raise ConfigError(
        f"The scheduler predicts {kind!r}; supported are 'epsilon' and 'v_prediction'."
    )
