"""A latent diffusion or flow model as three functions: encode pictures, decode latents, say what is clean.

Owns diffusers' networks: what a UNet or an SD3 transformer wants beside the latents, the precision, and classifier-free
guidance are settled here, so that a distillation loss sees only latents and `Prediction`s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vlm3d_gs.core.errors import ConfigError, ShapeError
from vlm3d_gs.core.profiling import count, section
from vlm3d_gs.core.residency import Plan, resident
from vlm3d_gs.prior.noise import NoiseSchedule
from vlm3d_gs.prior.prediction import Prediction, as_prediction, classifier_free_guidance


@dataclass(frozen=True)
class TextEmbedding:
    """Embedded texts, as the networks want them."""

    tokens: Tensor
    """[K, L, W] one embedding a token."""
    pooled: Tensor | None = None
    """[K, P] one embedding a text, for SDXL and SD3; None for models without it."""

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, indices: Tensor | Sequence[int]) -> TextEmbedding:
        """Pick texts, in the order of `indices`; a text may be picked several times."""
        places = torch.as_tensor(indices).to(self.tokens.device, non_blocking=True)
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
    noise_schedule: NoiseSchedule
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


def resized(color: Tensor, side_px: int | None) -> Tensor:
    """Resize square pictures [B, H, W, 3] bilinearly to `side_px`; None or the same side changes nothing.

    Shrinking averages over the pixels that fall together. Differentiable in `color`.
    """
    if side_px is None or color.shape[1] == side_px:
        return color
    shrinks = color.shape[1] > side_px
    out = F.interpolate(
        color.movedim(-1, 1),
        (side_px, side_px),
        mode="bilinear",
        align_corners=False,
        antialias=shrinks,
    )
    return out.movedim(1, -1)


@section("prior encode")
def encode_images(denoiser: Denoiser, color: Tensor) -> Tensor:
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
        output = vae.encode(pixels.to(vae.dtype))
        return output.latents if isinstance(vae, AutoencoderTiny) else output.latent_dist.mean

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
def decode_latents(denoiser: Denoiser, latents: Tensor) -> Tensor:
    """Return pictures [B, H, W, 3] in 0..1 of latents [B, C, h, w]."""
    return _decode(denoiser, latents)


def pull_back(
    denoiser: Denoiser, latents: Tensor, gradient_on: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the gradient on latents [B, C, h, w] that belongs to one on their pictures.

    Args:
        denoiser: whose decoder is differentiated.
        latents: clean ones.
        gradient_on: gets the pictures [B, H, W, 3] without graph, returns a loss' gradient on them.
    """
    leaf = latents.detach().clone().requires_grad_()
    with torch.enable_grad():
        pictures = _decode(denoiser, leaf)
        (gradient,) = torch.autograd.grad(pictures, leaf, gradient_on(pictures.detach()))
    return gradient


def _decode(denoiser: Denoiser, latents: Tensor) -> Tensor:
    vae = denoiser.vae
    unscaled = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
    decoded = vae.decode(unscaled.to(vae.dtype)).sample
    return (decoded.float() / 2.0 + 0.5).clamp(0.0, 1.0).movedim(1, -1)


def run_network(
    denoiser: Denoiser,
    noisy: Tensor,
    timesteps: Tensor,
    text: TextEmbedding,
    camera_matrices: Tensor | None = None,
) -> Tensor:
    """Run the network once.

    Args:
        denoiser: the model.
        noisy: [B, C, h, w] latents.
        timesteps: [B] int64, of the noise schedule.
        text: B embedded texts.
        camera_matrices: [B, 16] of `cameras.mvdream_camera_matrices`, for multi-view networks; None for the others.

    Returns:
        [B, C, h, w] float32 output; `noise.clean_and_noise` says what it means. Differentiable in `noisy` and in
        weights that require gradients.
    """
    count("network evaluations", len(noisy))
    network = denoiser.network
    network_timesteps = denoiser.noise_schedule.network_timesteps[timesteps]
    inputs = noisy.to(network.dtype)
    tokens = text.tokens.to(network.dtype)
    pooled = None if text.pooled is None else text.pooled.to(network.dtype)
    with precision(denoiser):
        if isinstance(network, SD3Transformer2DModel):
            output = network(
                hidden_states=inputs,
                encoder_hidden_states=tokens,
                pooled_projections=pooled,
                timestep=network_timesteps.to(network.dtype),
            )
        else:
            sizes = None if pooled is None else _size_condition(denoiser, inputs, pooled)
            output = network(
                inputs,
                network_timesteps,
                tokens,
                class_labels=None if camera_matrices is None else camera_matrices.to(network.dtype),
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
    timesteps: Tensor,
    texts: tuple[TextEmbedding, TextEmbedding],
    guidance_scale: float,
    camera_matrices: Tensor | None = None,
) -> Prediction:
    """Denoise once with classifier-free guidance.

    Args:
        denoiser: the model.
        noisy: [B, C, h, w] latents at `timesteps`.
        timesteps: [B] int64.
        texts: B unconditional and B conditional embedded texts.
        guidance_scale: 1 is the conditional prediction alone.
        camera_matrices: [B, 16] of `cameras.mvdream_camera_matrices`, for both branches, or None.

    Source: Ho and Salimans 2022 (arXiv 2207.12598), eq. 6 with w = guidance_scale - 1.
    """
    uncond, text = run_branches(denoiser, noisy, timesteps, texts, camera_matrices)
    guided = classifier_free_guidance(uncond, text, guidance_scale)
    return as_prediction(denoiser.noise_schedule, noisy, timesteps, guided, text, uncond)


@torch.no_grad()
@section("prior denoise")
def run_branches(
    denoiser: Denoiser,
    noisy: Tensor,
    timesteps: Tensor,
    texts: Sequence[TextEmbedding],
    camera_matrices: Tensor | None = None,
) -> Tensor:
    """Run the network for K sets of texts on the same latents, in one batch.

    Args:
        denoiser: the model.
        noisy: [B, C, h, w].
        timesteps: [B] int64.
        texts: K times B embedded texts.
        camera_matrices: [B, 16] or None.

    Returns:
        [K, B, C, h, w] float32 outputs.
    """
    if denoiser.plan != "full":
        with resident(denoiser.network, denoiser.device):
            return _run_branches(denoiser, noisy, timesteps, texts, camera_matrices)
    return _run_branches(denoiser, noisy, timesteps, texts, camera_matrices)


def _run_branches(
    denoiser: Denoiser,
    noisy: Tensor,
    timesteps: Tensor,
    texts: Sequence[TextEmbedding],
    camera_matrices: Tensor | None,
) -> Tensor:
    if denoiser.plan == "sequential":
        return torch.stack(
            [run_network(denoiser, noisy, timesteps, text, camera_matrices) for text in texts]
        )
    count = len(texts)
    pooled = [text.pooled for text in texts if text.pooled is not None]
    joined = TextEmbedding(
        torch.cat([text.tokens for text in texts]), torch.cat(pooled) if pooled else None
    )
    output = run_network(
        denoiser,
        noisy.repeat(count, 1, 1, 1),
        timesteps.repeat(count),
        joined,
        None if camera_matrices is None else camera_matrices.repeat(count, 1),
    )
    return output.unflatten(0, (count, -1))


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
