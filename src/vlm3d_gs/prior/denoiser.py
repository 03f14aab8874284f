"""A latent diffusion or flow model as three functions: encode pictures, decode latents, say what is clean.

Owns diffusers' networks: what a UNet or an SD3 transformer wants beside the latents, the precision, and classifier-free
guidance are settled here, so that a distillation loss sees only latents and `Prediction`s.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vlm3d_gs.core.errors import ConfigError, ShapeError
from vlm3d_gs.core.profiling import section
from vlm3d_gs.core.residency import Plan, resident
from vlm3d_gs.prior.noise import NoiseProcess, clean_and_noise


@dataclass(frozen=True)
class TextEmbedding:
    """Embedded texts, as the networks want them."""

    tokens: Tensor
    """[K, L, W] one embedding a token."""
    pooled: Tensor | None = None
    """[K, P] one embedding a text, for SDXL and SD3; None for models without it."""

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, index: Tensor | Sequence[int]) -> TextEmbedding:
        """Pick texts, in the order of `index`; a text may be picked several times."""
        places = torch.as_tensor(index).to(self.tokens.device, non_blocking=True)
        return TextEmbedding(
            self.tokens[places], None if self.pooled is None else self.pooled[places]
        )

    def to(self, device: torch.device) -> TextEmbedding:
        """Move the tensors."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        return TextEmbedding(self.tokens.to(device), pooled)


@dataclass(frozen=True)
class Denoiser:
    """The parts of a latent diffusion pipeline that a run needs at every step, frozen, in evaluation mode."""

    network: UNet2DConditionModel | SD3Transformer2DModel
    """Predicts; a UNet with a 16-dimensional projected class embedding is conditioned on cameras."""
    vae: AutoencoderTiny | AutoencoderKL
    process: NoiseProcess
    autocast: torch.dtype | None
    """Precision of the network's matrix products where its weights are float32; None is float32."""
    plan: Plan = "full"
    """Other than `full`: the network is on the VAE's device only while it works; `sequential`: one picture and one
    branch at a time."""

    @property
    def device(self) -> torch.device:
        """Where the work is done; the VAE is always there."""
        return torch.device(self.vae.device)

    @property
    def is_multiview(self) -> bool:
        """Whether the network is conditioned on cameras, four views of an object at a time."""
        return self.network.config.get("class_embed_type") == "projection"

    @property
    def sample_px(self) -> int:
        """Side of the pictures that the network was trained on."""
        return int(self.network.config.sample_size) * self.latent_factor

    @property
    def latent_factor(self) -> int:
        """Pixels along each side of one latent cell."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """Return bfloat16 where the device multiplies it faster than float32, else None."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else None


def precision(denoiser: Denoiser) -> torch.autocast | nullcontext[None]:
    """Return the context in which the networks run."""
    if denoiser.autocast is None:
        return nullcontext()
    return torch.autocast(denoiser.device.type, denoiser.autocast)


@section("prior encode")
def encode_pictures(denoiser: Denoiser, color: Tensor) -> Tensor:
    """Return clean latents of pictures; differentiable in `color`.

    Args:
        denoiser: the model.
        color: [B, H, W, 3], 0 to 1.

    Returns:
        [B, C, h, w] float32, shifted and scaled to the diffusion model's unit.

    Raises:
        ShapeError: H or W is no multiple of the latent cell.
    """
    factor = denoiser.latent_factor
    if color.shape[1] % factor or color.shape[2] % factor:
        raise ShapeError(
            f"Pictures of {color.shape[2]}x{color.shape[1]} px cannot be encoded: sides must be "
            f"multiples of {factor}. Choose such a camera.resolution_px."
        )
    vae = denoiser.vae

    def encoded(pixels: Tensor) -> Tensor:
        said = vae.encode(pixels.to(vae.dtype))
        return said.latents if isinstance(vae, AutoencoderTiny) else said.latent_dist.mean

    pixels = color.movedim(-1, 1) * 2.0 - 1.0
    if denoiser.plan == "sequential":
        parts = [checkpoint(encoded, one, use_reentrant=False) for one in pixels.split(1)]
        latents = torch.cat(parts)
    else:
        latents = encoded(pixels)
    shift = vae.config.get("shift_factor") or 0.0
    return (latents.float() - shift) * vae.config.scaling_factor


@torch.inference_mode()
@section("prior decode")
def decode_pictures(denoiser: Denoiser, latents: Tensor) -> Tensor:
    """Return pictures [B, H, W, 3] in 0..1 of latents [B, C, h, w]."""
    vae = denoiser.vae
    unscaled = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
    decoded = vae.decode(unscaled.to(vae.dtype)).sample
    return (decoded.float() / 2.0 + 0.5).clamp(0.0, 1.0).movedim(1, -1)


@dataclass(frozen=True)
class Prediction:
    """What the model says about noisy latents; all [B, C, h, w] float32, without graph."""

    clean: Tensor
    """Guided prediction of the clean latents."""
    noise: Tensor
    """Guided prediction of the noise."""
    conditional_clean: Tensor
    """Prediction of the clean latents with the prompt, unguided."""
    conditional_noise: Tensor
    """Prediction of the noise with the prompt, unguided."""
    unconditional_clean: Tensor
    """Prediction of the clean latents with the negative prompt."""
    unconditional_noise: Tensor
    """Prediction of the noise with the negative prompt."""


def run_network(
    denoiser: Denoiser,
    noisy: Tensor,
    index: Tensor,
    text: TextEmbedding,
    cameras: Tensor | None = None,
) -> Tensor:
    """Run the network once.

    Args:
        denoiser: the model.
        noisy: [B, C, h, w] latents.
        index: [B] int64 timestep indices into the noise process.
        text: B embedded texts.
        cameras: [B, 16] camera condition, for multi-view networks.

    Returns:
        [B, C, h, w] float32 output; `noise.clean_and_noise` says what it means. Differentiable in `noisy` and in
        weights that require gradients.
    """
    network = denoiser.network
    timesteps = denoiser.process.timesteps[index]
    inputs = noisy.to(network.dtype)
    tokens = text.tokens.to(network.dtype)
    pooled = None if text.pooled is None else text.pooled.to(network.dtype)
    with precision(denoiser):
        if isinstance(network, SD3Transformer2DModel):
            output = network(
                hidden_states=inputs,
                encoder_hidden_states=tokens,
                pooled_projections=pooled,
                timestep=timesteps.to(network.dtype),
            )
        else:
            sizes = None if pooled is None else _size_condition(denoiser, inputs, pooled)
            output = network(
                inputs,
                timesteps,
                tokens,
                class_labels=None if cameras is None else cameras.to(network.dtype),
                added_cond_kwargs=sizes,
            )
    return output.sample.float()


def _size_condition(denoiser: Denoiser, noisy: Tensor, pooled: Tensor) -> dict[str, Tensor]:
    """Return SDXL's added conditions: pooled text, and original size, crop and target size, all uncropped.

    Source: Podell et al. 2023 (SDXL, arXiv 2307.01952), section 2.2.
    """
    factor = denoiser.latent_factor
    height, width = noisy.shape[-2] * factor, noisy.shape[-1] * factor
    sizes = [height, width, 0, 0, height, width]
    return {
        "text_embeds": pooled,
        "time_ids": pooled.new_tensor(sizes).expand(len(noisy), -1),
    }


@torch.no_grad()
def predict(
    denoiser: Denoiser,
    noisy: Tensor,
    index: Tensor,
    texts: tuple[TextEmbedding, TextEmbedding],
    guidance_scale: float,
    cameras: Tensor | None = None,
) -> Prediction:
    """Denoise once with classifier-free guidance.

    Args:
        denoiser: the model.
        noisy: [B, C, h, w] latents at `index`.
        index: [B] int64 timestep indices.
        texts: B unconditional and B conditional embedded texts.
        guidance_scale: 1 is the conditional prediction alone.
        cameras: [B, 16] camera condition, given to both branches, or None.

    Source: Ho and Salimans 2022 (arXiv 2207.12598), eq. 6 with w = guidance_scale - 1.
    """
    unconditional, conditional = branches(denoiser, noisy, index, texts, cameras)
    guided = unconditional + guidance_scale * (conditional - unconditional)
    return as_prediction(denoiser.process, noisy, index, guided, conditional, unconditional)


@torch.no_grad()
@section("prior denoise")
def branches(
    denoiser: Denoiser,
    noisy: Tensor,
    index: Tensor,
    texts: Sequence[TextEmbedding],
    cameras: Tensor | None = None,
) -> Tensor:
    """Run the network for K sets of texts on the same latents, in one batch.

    Args:
        denoiser: the model.
        noisy: [B, C, h, w].
        index: [B] int64.
        texts: K times B embedded texts.
        cameras: [B, 16] or None.

    Returns:
        [K, B, C, h, w] float32 outputs.
    """
    if denoiser.plan != "full":
        with resident(denoiser.network, denoiser.device):
            return _branches(denoiser, noisy, index, texts, cameras)
    return _branches(denoiser, noisy, index, texts, cameras)


def _branches(
    denoiser: Denoiser,
    noisy: Tensor,
    index: Tensor,
    texts: Sequence[TextEmbedding],
    cameras: Tensor | None,
) -> Tensor:
    if denoiser.plan == "sequential":
        return torch.stack([run_network(denoiser, noisy, index, text, cameras) for text in texts])
    count = len(texts)
    pooled = [text.pooled for text in texts if text.pooled is not None]
    joined = TextEmbedding(
        torch.cat([text.tokens for text in texts]), torch.cat(pooled) if pooled else None
    )
    output = run_network(
        denoiser,
        noisy.repeat(count, 1, 1, 1),
        index.repeat(count),
        joined,
        None if cameras is None else cameras.repeat(count, 1),
    )
    return output.unflatten(0, (count, -1))


def as_prediction(
    process: NoiseProcess,
    noisy: Tensor,
    index: Tensor,
    guided: Tensor,
    conditional: Tensor,
    unconditional: Tensor,
) -> Prediction:
    """Turn three raw outputs [B, C, h, w] for the same latents into a `Prediction`."""
    clean, noise = clean_and_noise(process, guided, noisy, index)
    with_clean, with_noise = clean_and_noise(process, conditional, noisy, index)
    without_clean, without_noise = clean_and_noise(process, unconditional, noisy, index)
    return Prediction(clean, noise, with_clean, with_noise, without_clean, without_noise)


def require_multiview(denoiser: Denoiser) -> None:
    """Refuse a network that knows no cameras.

    Raises:
        ConfigError: it does not.
    """
    if not denoiser.is_multiview:
        raise ConfigError(
            "This prior's network has no camera embedding (class_embed_type 'projection'); "
            "use it as a single-image prior, or give multi-view weights such as mvdream."
        )
