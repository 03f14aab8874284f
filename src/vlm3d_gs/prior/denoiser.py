"""A latent diffusion or flow model as three functions: encode images, decode latents, predict.

Owns the networks of diffusers: the inputs of a UNet or an SD3 transformer beside the latents, the precision, and where
a network resides are settled here, so that a distillation loss sees only latents and `Prediction`s.
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
from vlm3d_gs.core.precision import fast_dtype as fast_dtype  # noqa: PLC0414
from vlm3d_gs.core.profiling import count, section
from vlm3d_gs.core.residency import Plan, resident
from vlm3d_gs.prior.noise import NoiseSchedule
from vlm3d_gs.prior.prediction import Prediction, as_prediction, classifier_free_guidance


@dataclass(frozen=True)
class TextEmbedding:
    """Embedded texts, in the form that the networks take."""

    tokens: Tensor
    """[K, L, W] one embedding per token."""
    pooled: Tensor | None = None
    """[K, P] one embedding per text, for SDXL and SD3; None for the other models."""

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, indices: Tensor | Sequence[int]) -> TextEmbedding:
        """Select texts, in the order of `indices`; a text may be selected several times."""
        rows = torch.as_tensor(indices).to(self.tokens.device, non_blocking=True)
        return TextEmbedding(self.tokens[rows], None if self.pooled is None else self.pooled[rows])

    def to(self, device: torch.device) -> TextEmbedding:
        """Return the embeddings on a device."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        return TextEmbedding(self.tokens.to(device), pooled)


@dataclass(frozen=True)
class Denoiser:
    """The components of a latent diffusion pipeline that a run needs at every step, frozen, in evaluation mode."""

    network: UNet2DConditionModel | SD3Transformer2DModel
    """A UNet with a 16-dimensional projected class embedding is conditioned on cameras."""
    vae: AutoencoderTiny | AutoencoderKL
    noise_schedule: NoiseSchedule
    autocast: torch.dtype | None
    """Precision of the network's matrix products where its weights are float32; None is float32."""
    plan: Plan = "full"
    """Other than `full`: the network is on the VAE's device only while it runs; `sequential`: one image and one branch
    at a time."""

    @property
    def device(self) -> torch.device:
        """Where everything is computed; the VAE always resides there."""
        return torch.device(self.vae.device)

    @property
    def is_multiview(self) -> bool:
        """Whether the network is conditioned on cameras, four views of an object at a time."""
        return self.network.config.get("class_embed_type") == "projection"

    @property
    def latent_factor(self) -> int:
        """Pixels along each side of one latent cell."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


def precision(denoiser: Denoiser) -> torch.autocast | nullcontext[None]:
    """Return the context manager under which the network runs."""
    if denoiser.autocast is None:
        return nullcontext()
    return torch.autocast(denoiser.device.type, denoiser.autocast)


def resized(color: Tensor, side_px: int | None) -> Tensor:
    """Resize square images [B, H, W, 3] bilinearly to `side_px`; None or the same side changes nothing.

    Downsampling is antialiased. Differentiable in `color`.
    """
    if side_px is None or color.shape[1] == side_px:
        return color

    out = F.interpolate(
        color.movedim(-1, 1),
        (side_px, side_px),
        mode="bilinear",
        align_corners=False,
        antialias=color.shape[1] > side_px,
    )
    return out.movedim(1, -1)


@section("prior encode")
def encode_images(denoiser: Denoiser, color: Tensor) -> Tensor:
    """Return the latents of images; differentiable in `color`.

    Args:
        denoiser: the model.
        color: [B, H, W, 3], 0 to 1.

    Returns:
        [B, C, h, w] float32, shifted and scaled as the diffusion model expects.

    Raises:
        ShapeError: H or W is no multiple of `latent_factor`.
    """
    factor = denoiser.latent_factor
    if color.shape[1] % factor or color.shape[2] % factor:
        raise ShapeError(
            f"Images of {color.shape[2]}x{color.shape[1]} px cannot be encoded: sides must be "
            f"multiples of {factor}. Choose such a camera.resolution_px."
        )

    vae = denoiser.vae

    def encode(pixels: Tensor) -> Tensor:
        output = vae.encode(pixels.to(vae.dtype))
        return output.latents if isinstance(vae, AutoencoderTiny) else output.latent_dist.mean

    pixels = color.movedim(-1, 1) * 2.0 - 1.0
    if denoiser.plan == "sequential":
        # The graph of one image at a time: each is encoded again on the way back.
        latents = torch.cat(
            [checkpoint(encode, image, use_reentrant=False) for image in pixels.split(1)]
        )
    else:
        latents = encode(pixels)

    shift = vae.config.get("shift_factor") or 0.0
    return (latents.float() - shift) * vae.config.scaling_factor


@torch.inference_mode()
@section("prior decode")
def decode_latents(denoiser: Denoiser, latents: Tensor) -> Tensor:
    """Return images [B, H, W, 3] in 0..1 of latents [B, C, h, w]."""
    return _decode(denoiser, latents)


def pull_back(
    denoiser: Denoiser, latents: Tensor, gradient_on: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the gradient on latents [B, C, h, w] that belongs to one on their images.

    Args:
        denoiser: whose decoder is differentiated.
        latents: clean.
        gradient_on: takes the images [B, H, W, 3] without graph, returns the gradient of a loss on them.
    """
    leaf = latents.detach().clone().requires_grad_()
    with torch.enable_grad():
        images = _decode(denoiser, leaf)
        (gradient,) = torch.autograd.grad(images, leaf, gradient_on(images.detach()))
    return gradient


def _decode(denoiser: Denoiser, latents: Tensor) -> Tensor:
    vae = denoiser.vae
    shift = vae.config.get("shift_factor") or 0.0
    unscaled = latents / vae.config.scaling_factor + shift
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
        timesteps: [B] int64.
        text: B embedded texts.
        camera_matrices: [B, 16] of `cameras.mvdream_camera_matrices`, for multi-view networks; None for the others.

    Returns:
        [B, C, h, w] float32 raw output; `noise.clean_and_noise` turns it into predictions. Differentiable in `noisy`
        and in weights that require gradients.
    """
    count("network evaluations", len(noisy))
    network_timesteps = denoiser.noise_schedule.network_timesteps[timesteps]

    network = denoiser.network
    inputs = noisy.to(network.dtype)
    tokens = text.tokens.to(network.dtype)
    pooled = None if text.pooled is None else text.pooled.to(network.dtype)
    if camera_matrices is not None:
        camera_matrices = camera_matrices.to(network.dtype)

    with precision(denoiser):
        if isinstance(network, SD3Transformer2DModel):
            output = network(
                hidden_states=inputs,
                encoder_hidden_states=tokens,
                pooled_projections=pooled,
                timestep=network_timesteps.to(network.dtype),
            )
        else:
            conditions = None if pooled is None else _sdxl_conditions(denoiser, inputs, pooled)
            output = network(
                inputs,
                network_timesteps,
                tokens,
                class_labels=camera_matrices,
                added_cond_kwargs=conditions,
            )
    return output.sample.float()


def _sdxl_conditions(denoiser: Denoiser, noisy: Tensor, pooled: Tensor) -> dict[str, Tensor]:
    """Return SDXL's added conditions: pooled text, and original size, crop and target size, all uncropped.

    Source: Podell et al. 2023 (SDXL, arXiv 2307.01952), section 2.2.
    """
    height_px, width_px = (cells * denoiser.latent_factor for cells in noisy.shape[-2:])
    sizes = pooled.new_tensor([height_px, width_px, 0, 0, height_px, width_px])
    return {"text_embeds": pooled, "time_ids": sizes.expand(len(noisy), -1)}


@torch.no_grad()
def predict(
    denoiser: Denoiser,
    noisy: Tensor,
    timesteps: Tensor,
    texts: tuple[TextEmbedding, TextEmbedding],
    guidance_scale: float,
    camera_matrices: Tensor | None = None,
) -> Prediction:
    """Predict with classifier-free guidance.

    Args:
        denoiser: the model.
        noisy: [B, C, h, w] latents.
        timesteps: [B] int64.
        texts: B unconditional and B conditional embedded texts.
        guidance_scale: as in `classifier_free_guidance`.
        camera_matrices: [B, 16], for both branches, or None, as in `run_network`.
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
        camera_matrices: [B, 16] or None, as in `run_network`.

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

    pooled = [text.pooled for text in texts if text.pooled is not None]
    joined = TextEmbedding(
        torch.cat([text.tokens for text in texts]), torch.cat(pooled) if pooled else None
    )

    n_branches = len(texts)
    output = run_network(
        denoiser,
        noisy.repeat(n_branches, 1, 1, 1),
        timesteps.repeat(n_branches),
        joined,
        None if camera_matrices is None else camera_matrices.repeat(n_branches, 1),
    )
    return output.unflatten(0, (n_branches, -1))


def require_multiview(denoiser: Denoiser) -> None:
    """Refuse a network without a camera embedding.

    Raises:
        ConfigError: the network has none.
    """
    if not denoiser.is_multiview:
        raise ConfigError(
            "This prior's network has no camera embedding (class_embed_type 'projection'); "
            "use it as a single-image prior, or give multi-view weights such as mvdream."
        )
