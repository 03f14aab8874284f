"""Distillation along DDIM inversion: residuals of ISM and SDI, for diffusion and flow models alike.

A DDIM step between any two noise levels is z_t' = signal(t') z0_hat + sigma(t') eps_hat. Run towards more noise it
inverts sampling: it finds the noise from which the model would have started. With signal = 1 - sigma it is the Euler
step of a flow model, so nothing here depends on the kind of model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.prior.noise import NoiseSchedule, add_noise
from vlm3d_gs.prior.prediction import Predictor, with_guidance_scale

SDI_INVERSION_SCALE = -6.5
"""SDI's published -7.5 is a factor on top of the conditional prediction; ours counts from the unconditional one."""
SDI_STEPS = 10
"""Inversion steps of SDI's published configuration, for the whole range of timesteps."""


@torch.no_grad()
def invert(
    noise_schedule: NoiseSchedule,
    predictor: Predictor,
    start: Tensor,
    path: Sequence[Tensor],
    guidance_scale: float = 0.0,
) -> Tensor:
    """Carry latents to higher noise levels by deterministic DDIM steps.

    Args:
        noise_schedule: of the model.
        predictor: called once a step, at the step's lower level.
        start: [B, C, h, w] latents at `path[0]`.
        path: timesteps [B] of each stop, never falling; a step that does not rise changes nothing.
        guidance_scale: 0 reads only the unconditional prediction.

    Returns:
        [B, C, h, w] latents at `path[-1]`, without graph.

    Source: Song et al. 2020 (DDIM, arXiv 2010.02502), eq. 12 with sigma = 0, run upwards (section 4.3).
    """
    noisy = start
    for now, after in pairwise(path):
        clean, noise = with_guidance_scale(predictor(noisy, now), guidance_scale)
        noisy = add_noise(noise_schedule, clean, noise, after)
    return noisy


def strided_path(timesteps: Tensor, stride: int) -> list[Tensor]:
    """Return the stops 0, stride, 2 stride, ... up to each entry of `timesteps` [B]; the last stop is `timesteps`.

    Raises:
        ConfigError: a stride below 1.
    """
    if stride < 1:
        raise ConfigError(f"An inversion stride must be 1 timestep or more, not {stride}.")
    highest = int(timesteps.max())
    return [timesteps.clamp_max(stop) for stop in range(0, highest + stride, stride)]


@torch.no_grad()
def ism_residual(
    noise_schedule: NoiseSchedule,
    predictor: Predictor,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    *,
    interval: int = 50,
    stride: int | None = 200,
    inverter: Predictor | None = None,
) -> Tensor:
    """Interval score matching: eps_hat(x_t, t, y), guided, - eps(x_s, s, empty), with s = t - interval.

    x_s is reached from the latents by DDIM inversion with the unconditional prediction, x_t from x_s by one more such
    step. Where s would fall below 0 it is 0. Published weight: `timestep_weight("ism", ...)`.

    Args:
        noise_schedule: of the model.
        predictor: called for the guided prediction at t, and for the inversion when there is no `inverter`.
        latents: [B, C, h, w] clean latents; their graph is not followed.
        noise: [B, C, h, w] standard normal; brings the latents to the lowest level, or directly to s.
        timesteps: [B] int64, t.
        interval: timesteps between s and t.
        stride: timesteps of an inversion step on the way to s; at least s is a single step; None adds `noise` at s,
            so that the network is run twice in all.
        inverter: only its unconditional fields are read, so that one branch of the network can do; None is
            `predictor`.

    Returns:
        [B, C, h, w] without graph.

    Raises:
        ConfigError: an interval or a stride below 1.

    Source: Liang et al. 2023 (LucidDreamer, arXiv 2311.11284), section 3.2; defaults of its published code.
    """
    if interval < 1:
        raise ConfigError(f"ISM's interval must be 1 timestep or more, not {interval}.")
    inverter = inverter or predictor

    # To x_s.
    lower = (timesteps - interval).clamp_min(0)
    if stride is None:
        noisy = add_noise(noise_schedule, latents, noise, lower)
    else:
        path = strided_path(lower, stride)
        start = add_noise(noise_schedule, latents, noise, path[0])
        noisy = invert(noise_schedule, inverter, start, path)

    # From x_s to x_t, and the difference of the two predictions.
    prediction = inverter(noisy, lower)
    clean_at_lower, noise_at_lower = with_guidance_scale(prediction, 0.0)
    upper = add_noise(noise_schedule, clean_at_lower, noise_at_lower, timesteps)
    return predictor(upper, timesteps).noise_pred - noise_at_lower


@torch.no_grad()
def sdi_noisy(
    noise_schedule: NoiseSchedule,
    predictor: Predictor,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    *,
    n_steps: int = SDI_STEPS,
    inversion_scale: float = SDI_INVERSION_SCALE,
) -> Tensor:
    """Return the z_t that score distillation via inversion denoises: DDIM inversion of the latents, away from y.

    Args:
        noise_schedule: of the model.
        predictor: called once a step for both branches.
        latents: [B, C, h, w] clean latents; their graph is not followed.
        noise: [B, C, h, w] brings the latents to the lowest level; zeros start from the latents themselves, as
            published.
        timesteps: [B] int64, t.
        n_steps: steps for the whole range of timesteps; a lower t takes its share of them.
        inversion_scale: guidance scale of the inversion.

    Returns:
        [B, C, h, w] without graph.

    Raises:
        ConfigError: fewer than one step.

    Source: Lukoianov et al. 2024 (arXiv 2405.15891), algorithm of SDI. Its published code also adds fresh noise in each
    step (eta 0.3) and inverts a random part of a step beyond t; both are left out.
    """
    if n_steps < 1:
        raise ConfigError(f"SDI needs 1 inversion step or more, not {n_steps}.")
    path = strided_path(timesteps, -(-len(noise_schedule) // n_steps))
    start = add_noise(noise_schedule, latents, noise, path[0])
    return invert(noise_schedule, predictor, start, path, inversion_scale)


@torch.no_grad()
def sdi_residual(
    noise_schedule: NoiseSchedule,
    predictor: Predictor,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    *,
    n_steps: int = SDI_STEPS,
    inversion_scale: float = SDI_INVERSION_SCALE,
) -> Tensor:
    """Score distillation via inversion, in its published form: z - z0_hat(z_t, t, y), z_t from `sdi_noisy`.

    In noise it is sigma / signal times eps_hat(z_t, t, y) - kappa, with kappa = (z_t - signal z) / sigma: SDS with
    inferred noise in place of drawn noise.

    Args:
        noise_schedule: of the model.
        predictor: its guided prediction is used at t, both branches during the inversion.
        latents: [B, C, h, w] clean latents; their graph is not followed.
        noise: as for `sdi_noisy`.
        timesteps: [B] int64, t.
        n_steps: as for `sdi_noisy`.
        inversion_scale: as for `sdi_noisy`.

    Returns:
        [B, C, h, w] without graph, in units of the latents: use it with the weight `uniform`.

    Raises:
        ConfigError: fewer than one step.

    Source: Lukoianov et al. 2024 (arXiv 2405.15891), and its published code for the clean-latent form.
    """
    noisy = sdi_noisy(
        noise_schedule,
        predictor,
        latents,
        noise,
        timesteps,
        n_steps=n_steps,
        inversion_scale=inversion_scale,
    )
    return latents - predictor(noisy, timesteps).clean_pred
