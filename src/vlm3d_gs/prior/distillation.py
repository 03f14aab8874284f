"""Score distillation: residuals of noise predictions, and the loss whose gradient is such a residual.

One scaling for all of them: the gradient with respect to the latents is w(t) times the residual, divided by B, the
number of views; nothing is averaged over the values of a latent. A residual is computed without graph, may be clipped,
and becomes a loss by `residual_loss`. Residuals that need more than one evaluation of the network are in `inversion`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.prior.noise import SMALLEST_SIGNAL, NoiseSchedule

WEIGHTINGS: tuple[str, ...] = ("uniform", "sds", "fantasia3d", "ism")
"""Names that `timestep_weight` knows."""


def residual_loss(latents: Tensor, residual: Tensor, weight: float | Tensor = 1.0) -> Tensor:
    """Return the loss with the gradient w(t) residual / B: 0.5 |z - sg(z - w(t) residual)|^2 / B.

    Args:
        latents: [B, C, h, w] clean latents of the renders, on the graph.
        residual: [B, C, h, w]; its graph is not followed.
        weight: w(t), a number or [B, 1, 1, 1].

    Differentiable in `latents` only.
    """
    target = (latents - weight * residual).detach()
    return 0.5 * (latents - target).square().sum() / latents.shape[0]


def sds_loss(
    latents: Tensor, noise_pred: Tensor, noise: Tensor, weight: float | Tensor = 1.0
) -> Tensor:
    """Score distillation sampling: gradient w(t) (eps_hat - eps) / B.

    Args:
        latents: [B, C, h, w] clean latents of the renders, on the graph.
        noise_pred: [B, C, h, w] guided prediction, not on the graph.
        noise: [B, C, h, w] the noise that was added.
        weight: w(t), a number or [B, 1, 1, 1].

    Differentiable in `latents` only.

    Source: Poole et al. 2022 (DreamFusion, arXiv 2209.14988), eq. 3.
    """
    return residual_loss(latents, noise_pred - noise, weight)


def reconstruction_loss(latents: Tensor, clean_pred: Tensor) -> Tensor:
    """SDS as a pull towards the predicted clean latents: 0.5 |z - sg(z0_hat)|^2, summed, by views.

    Args:
        latents: [B, C, h, w], on the graph.
        clean_pred: [B, C, h, w] guided and rescaled prediction.

    Differentiable in `latents` only.

    Source: Shi et al. 2023 (MVDream, arXiv 2308.16512), section 3.4 and appendix, x0-reconstruction loss.
    """
    return 0.5 * (latents - clean_pred.detach()).square().sum() / latents.shape[0]


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


def csd_residual(
    noise_pred_text: Tensor,
    noise_pred_uncond: Tensor,
    negative_noise: Tensor | None = None,
    positive_weight: float = 1.0,
    negative_weight: float = 0.0,
) -> Tensor:
    """Classifier score distillation: w1 (eps(y) - eps(empty)) - w2 (eps(y_neg) - eps(empty)).

    The first bracket alone is the part of SDS that the guidance scale multiplies. With w1 = w2 the empty prompt
    cancels: that is a negative prompt in the place of the empty one. The paper lowers w2 over the run.

    Args:
        noise_pred_text: [B, C, h, w] eps(z_t, t, y), unguided.
        noise_pred_uncond: [B, C, h, w] eps(z_t, t) with the empty prompt.
        negative_noise: [B, C, h, w] eps(z_t, t, y_neg), or None.
        positive_weight: w1.
        negative_weight: w2, 0 or more.

    Returns:
        [B, C, h, w] without graph.

    Raises:
        ConfigError: a negative weight other than 0 without a negative prediction.

    Source: Yu et al. 2023 (arXiv 2310.19415), section 4 and its paragraph on annealed negative prompts.
    """
    residual = positive_weight * (noise_pred_text - noise_pred_uncond)
    if negative_noise is not None:
        residual = residual - negative_weight * (negative_noise - noise_pred_uncond)
    elif negative_weight != 0.0:
        raise ConfigError(
            f"CSD's negative weight is {negative_weight}, but there is no prediction for a negative "
            "prompt. Give a negative prompt, or set the weight to 0."
        )
    return residual.detach()


def vsd_residual(noise_pred: Tensor, noise_pred_lora: Tensor) -> Tensor:
    """Variational score distillation: eps_hat(z_t, t, y) - eps_lora(z_t, t, y, camera).

    SDS with the noise replaced by what a network says that was fitted to the scene's own noisy renders.

    Args:
        noise_pred: [B, C, h, w] guided prediction of the frozen network.
        noise_pred_lora: [B, C, h, w] prediction of the fitted network for the same z_t, as noise.

    Returns:
        [B, C, h, w] without graph; the fitted network learns from its own loss, not from this one.

    Source: Wang et al. 2023 (ProlificDreamer, arXiv 2305.16213), eq. 9.
    """
    return (noise_pred - noise_pred_lora).detach()


def clip_residual(
    residual: Tensor, threshold: float, kind: Literal["value", "norm"] = "value"
) -> Tensor:
    """Limit a weighted residual; the caller raises the threshold over the run.

    Args:
        residual: [B, C, h, w], already multiplied with w(t): the threshold bounds what reaches the latents.
        threshold: more than 0.
        kind: `value` clamps each value to [-threshold, threshold], as published; `norm` keeps each view's direction
            and limits its root mean square, which means the same at every latent size.

    Returns:
        [B, C, h, w], differentiable in `residual`.

    Raises:
        ConfigError: a threshold that is not positive, or another kind.

    Source: Hong et al. 2023 (arXiv 2303.15413), score debiasing by dynamic clipping, for `value`.
    """
    if not threshold > 0.0:
        raise ConfigError(f"A clipping threshold must be more than 0, not {threshold}.")
    if kind == "value":
        return residual.clamp(-threshold, threshold)
    if kind == "norm":
        size = residual.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return residual * (threshold / size.clamp_min(threshold))
    raise ConfigError(f"Unknown kind of clipping {kind!r}. Known: value, norm.")


def timestep_weight(kind: str, noise_schedule: NoiseSchedule, timesteps: Tensor) -> Tensor:
    """Return w(t) of one of `WEIGHTINGS`.

    With alpha_bar = signal^2 / (signal^2 + sigma^2), which is signal^2 for diffusion models and gives flow models the
    weight of the diffusion timestep with the same signal-to-noise ratio:

    - `uniform`: 1.
    - `sds`: 1 - alpha_bar. DreamFusion's sigma^2.
    - `fantasia3d`: sqrt(alpha_bar) (1 - alpha_bar).
    - `ism`: sqrt((1 - alpha_bar) / alpha_bar) = sigma / signal; turns a residual of noise into one of clean latents.

    Args:
        kind: name.
        noise_schedule: the model's.
        timesteps: [B] int64.

    Returns:
        [B, 1, 1, 1] float32.

    Raises:
        ConfigError: an unknown name.

    Source: Poole et al. 2022 (arXiv 2209.14988), eq. 3; the published codes of Chen et al. 2023 (Fantasia3D, arXiv
    2303.13873) and Liang et al. 2023 (LucidDreamer, arXiv 2311.11284).
    """
    signal, sigma = noise_schedule.levels(timesteps)
    noise_share = sigma.square() / (signal.square() + sigma.square())
    if kind == "uniform":
        return torch.ones_like(sigma)
    if kind == "sds":
        return noise_share
    if kind == "fantasia3d":
        return (1.0 - noise_share).sqrt() * noise_share
    if kind == "ism":
        return sigma / signal.clamp_min(SMALLEST_SIGNAL)
    raise ConfigError(f"Unknown weighting {kind!r}. Known: {', '.join(WEIGHTINGS)}.")


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


def descend_timesteps(
    low: float, high: float, fraction: float, n_entries: int, n_train: int
) -> Tensor:
    """Return one timestep for all views, from `high` at the run's start straight down to `low` at its end.

    t = high + (low - high) * fraction: large shapes are settled first, then details.

    Args:
        low: last noise level, as part of the training timesteps.
        high: first.
        fraction: part of the run that is done, 0 to 1.
        n_entries: length of the result.
        n_train: training timesteps of the scheduler.

    Returns:
        [n_entries] int64 on the CPU, in 0 .. n_train - 1, all equal.

    Source: Tang et al. 2023 (DreamGaussian, arXiv 2309.16653), section 3.1, linearly decreasing timestep; its code
    walks from 1 to 0 and clamps to the range instead.
    """
    level = high + (low - high) * fraction
    return torch.full((n_entries,), min(max(int(level * n_train), 0), n_train - 1))
