"""Multi-view diffusion with a plain `UNet2DConditionModel`: joint self-attention over the views of one object.

MVDream (Shi et al. 2023, arXiv 2308.16512, section 3.1) changes two things in Stable Diffusion's UNet: every
self-attention runs over the tokens of all views of an object together, and an embedding of the camera is added to the
time embedding. The second is the UNet's own `class_embed_type="projection"`; the first is the processor below.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm3d_gs.cameras import mvdream_camera_matrices
from vlm3d_gs.config import PriorConfig
from vlm3d_gs.errors import ConfigError, ShapeError
from vlm3d_gs.guidance.base import GuidanceOutput, Views
from vlm3d_gs.guidance.denoiser import Denoiser, embed_text, encode_pictures, predict
from vlm3d_gs.guidance.distillation import (
    draw_timesteps,
    reconstruction_loss,
    rescale_clean,
    sds_loss,
)


class JointViewAttention:
    """Attention processor: self-attention joins the tokens of `n_views` adjacent batch rows, cross-attention does not.

    Used through `UNet2DConditionModel.set_attn_processor`. Without it the network runs and gives wrong pictures.
    """

    def __init__(self, n_views: int) -> None:
        self.n_views = n_views

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend; shapes [B, L, C], B a multiple of n_views, the views of an object adjacent.

        Raises:
            ShapeError: the batch does not divide into groups of n_views.
        """
        batch, length, _ = hidden_states.shape
        context = encoder_hidden_states
        if context is None:
            if batch % self.n_views:
                raise ShapeError(
                    f"A batch of {batch} does not divide into groups of {self.n_views} views. "
                    "Give all views of each object, adjacent."
                )
            hidden_states = hidden_states.reshape(batch // self.n_views, self.n_views * length, -1)
            context = hidden_states
        heads: int = attn.heads  # type: ignore[assignment]
        query, key, value = (
            project(source).unflatten(-1, (heads, -1)).transpose(1, 2)  # type: ignore[operator]
            for project, source in (
                (attn.to_q, hidden_states),
                (attn.to_k, context),
                (attn.to_v, context),
            )
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        mixed = attn.to_out[0](mixed)  # type: ignore[index, operator]
        return mixed.reshape(batch, length, -1)


def join_views(unet: nn.Module, n_views: int) -> None:
    """Make every self-attention of a diffusers UNet run over groups of `n_views` adjacent rows; in place."""
    unet.set_attn_processor(JointViewAttention(n_views))  # type: ignore[operator]


class MultiViewPrior:
    """Score distillation with a camera-conditioned multi-view prior, as a `Guidance`."""

    name = "prior"
    azimuth_offset_deg = None

    def __init__(
        self, denoiser: Denoiser, prompt: str, config: PriorConfig, generator: torch.Generator
    ) -> None:
        """Embed the prompt once and join the views in the network's attention.

        Args:
            denoiser: a UNet with a 16-dimensional projected class embedding (the camera).
            prompt: what to draw.
            config: loss, guidance scale, noise levels.
            generator: source of noise and timesteps, on the CPU.
        """
        self.denoiser, self.config, self.generator = denoiser, config, generator
        self.embeddings = embed_text(denoiser, [config.negative_prompt, prompt])

    def is_due(self, step: int) -> bool:
        """Every step."""
        return True

    def __call__(self, views: Views, fraction: float) -> GuidanceOutput:
        """Return the distillation loss of the views, weighted by its schedule.

        Raises:
            ShapeError: the number of pictures is no multiple of the group size.
        """
        config, denoiser = self.config, self.denoiser
        n_pictures = len(views.cameras)
        join_views(denoiser.unet, views.n_views)
        latents = encode_pictures(denoiser, views.color)
        timesteps = draw_timesteps(
            config.t_min(fraction),
            config.t_max(fraction),
            n_pictures // views.n_views,
            views.n_views,
            denoiser.n_train_timesteps,
            self.generator,
        ).to(latents.device)
        noise = torch.randn(latents.shape, generator=self.generator).to(latents.device)
        noisy = denoiser.scheduler.add_noise(latents.detach(), noise, timesteps)
        empty, wanted = (text.expand(n_pictures, -1, -1) for text in self.embeddings.split(1))
        cameras = mvdream_camera_matrices(views.cameras).flatten(1).to(latents)
        said = predict(denoiser, noisy, timesteps, (empty, wanted), config.guidance_scale, cameras)
        if config.loss == "recon":
            clean = rescale_clean(said.clean, said.conditional_clean, config.rescale, views.n_views)
            loss = reconstruction_loss(latents, clean)
        elif config.loss == "sds":
            alpha = denoiser.scheduler.alphas_cumprod[timesteps][:, None, None, None]
            loss = sds_loss(latents, said.noise, noise, 1.0 - alpha)
        else:
            raise ConfigError(f"prior.loss must be 'recon' or 'sds', got {config.loss!r}.")
        return GuidanceOutput(
            config.weight(fraction) * loss,
            {"loss": float(loss.detach()), "t": float(timesteps.float().mean())},
        )
