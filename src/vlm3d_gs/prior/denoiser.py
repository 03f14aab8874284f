"""A latent diffusion or flow model as three functions: encode images, decode latents, predict.

A distillation loss sees only latents and `Prediction`s. Which library computes the networks is behind the protocol:
diffusers on torch (`torch_denoiser`), for every device and with a gradient in the network's weights, or exported graphs
(`graph_denoiser`), which load in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm3d_gs.core.errors import ConfigError, ShapeError
from vlm3d_gs.core.profiling import count, section
from vlm3d_gs.core.residency import Plan
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


def join_texts(texts: Sequence[TextEmbedding]) -> TextEmbedding:
    """Return all texts of several embeddings as one, in order."""
    if len(texts) == 1:
        return texts[0]
    pooled = [text.pooled for text in texts if text.pooled is not None]
    tokens = torch.cat([text.tokens for text in texts])
    return TextEmbedding(tokens, torch.cat(pooled) if pooled else None)


class Denoiser(Protocol):
    """The components of a latent diffusion pipeline that a run needs at every step, frozen."""

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Signal and noise of each timestep, on `device`."""

    @property
    def plan(self) -> Plan:
        """How the networks share the device; `sequential`: one image and one branch at a time."""

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""

    @property
    def runtime(self) -> str:
        """What computes the networks: `torch` or `onnx`."""

    @property
    def is_multiview(self) -> bool:
        """Whether the network is conditioned on cameras, and can denoise the views of an object together."""

    @property
    def latent_factor(self) -> int:
        """Pixels along each side of one latent cell."""

    def join_views(self, n_views: int) -> None:
        """Make a multi-view network attend over groups of `n_views` adjacent images from now on; 1 is each alone."""

    def at_work(self) -> AbstractContextManager[object]:
        """Return a context in which the network is on its device."""

    def encode(self, color: Tensor) -> Tensor:
        """Return the latents [B, C, h, w] float32 of images [B, H, W, 3] in 0..1; differentiable."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, H, W, 3] in 0..1 of latents [B, C, h, w]; differentiable."""

    def evaluate(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextEmbedding,
        camera_matrices: Tensor | None = None,
    ) -> Tensor:
        """Run the network once; see `run_network`."""


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

    return denoiser.encode(color)


@torch.no_grad()
@section("prior decode")
def decode_latents(denoiser: Denoiser, latents: Tensor) -> Tensor:
    """Return images [B, H, W, 3] in 0..1 of latents [B, C, h, w], without gradient."""
    return denoiser.decode(latents)


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
        images = denoiser.decode(leaf)
        (gradient,) = torch.autograd.grad(images, leaf, gradient_on(images.detach()))
    return gradient


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
        [B, C, h, w] float32 raw output; `noise.clean_and_noise` turns it into predictions. On torch differentiable in
        `noisy` and in weights that require gradients.
    """
    count("network evaluations", len(noisy))
    return denoiser.evaluate(noisy, timesteps, text, camera_matrices)


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
    with denoiser.at_work():
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

    joined, n_branches = join_texts(texts), len(texts)
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
