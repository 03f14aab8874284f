"""Score distillation losses: small functions of latents and of what a denoiser says about their noisy copies."""

from __future__ import annotations

import torch
from torch import Tensor


def sds_loss(
    latents: Tensor, predicted_noise: Tensor, noise: Tensor, weight: float | Tensor = 1.0
) -> Tensor:
    """Score distillation sampling.

    The gradient with respect to `latents` is w(t) (eps_hat - eps) / G, G the number of leading entries; the value is
    half the squared length of that residual, which has the same gradient and no other meaning.

    Args:
        latents: [B, C, h, w] clean latents of the renders, on the graph.
        predicted_noise: [B, C, h, w] guided prediction, not on the graph.
        noise: [B, C, h, w] the noise that was added.
        weight: w(t), a number or [B, 1, 1, 1].

    Differentiable in `latents` only.

    Source: Poole et al. 2022 (DreamFusion, arXiv 2209.14988), eq. 3.
    """
    residual = weight * (predicted_noise - noise)
    target = (latents - residual).detach()
    return 0.5 * (latents - target).square().sum() / latents.shape[0]


def reconstruction_loss(latents: Tensor, predicted_clean: Tensor) -> Tensor:
    """SDS as a pull towards the predicted clean latents: 0.5 |z - sg(z0_hat)|^2, summed, by views.

    Args:
        latents: [B, C, h, w], on the graph.
        predicted_clean: [B, C, h, w] guided and rescaled prediction.

    Differentiable in `latents` only.

    Source: Shi et al. 2023 (MVDream, arXiv 2308.16512), section 3.4 and appendix, x0-reconstruction loss.
    """
    return 0.5 * (latents - predicted_clean.detach()).square().sum() / latents.shape[0]


def rescale_clean(guided: Tensor, conditional: Tensor, share: float, n_views: int) -> Tensor:
    """Pull the spread of guided clean latents back to that of the unguided ones.

    z0 = share * z0_guided * std(z0_conditional) / std(z0_guided) + (1 - share) * z0_guided, with the standard deviation
    over all values of a view group: guidance at a high scale oversaturates, and this undoes part of it.

    Args:
        guided: [G * V, C, h, w] prediction with classifier-free guidance.
        conditional: [G * V, C, h, w] prediction of the conditional branch alone.
        share: 0 leaves `guided` as it is, 1 rescales wholly.
        n_views: V.

    Source: Lin et al. 2023 (arXiv 2305.08891), section 3.4, on groups as in MVDream.
    """
    groups = guided.unflatten(0, (-1, n_views))
    spread = groups.std(dim=(1, 2, 3, 4), keepdim=True)
    wanted = conditional.unflatten(0, (-1, n_views)).std(dim=(1, 2, 3, 4), keepdim=True)
    rescaled = groups * (wanted / spread.clamp_min(1e-8))
    return (share * rescaled + (1.0 - share) * groups).flatten(0, 1)


def draw_timesteps(
    low: float, high: float, n_groups: int, n_views: int, n_train: int, generator: torch.Generator
) -> Tensor:
    """Draw one timestep a view group, uniform in [low, high] of the training range.

    Args:
        low: smallest noise level, as part of the training timesteps.
        high: largest, at least `low`.
        n_groups: groups.
        n_views: views a group; they share the timestep, as the prior was trained.
        n_train: training timesteps of the scheduler.
        generator: source of randomness, on the CPU.

    Returns:
        [n_groups * n_views] int64 on the CPU, in 0 .. n_train - 1.
    """
    fractions = low + (high - low) * torch.rand(n_groups, generator=generator)
    return (fractions * n_train).long().clamp(0, n_train - 1).repeat_interleave(n_views)
