"""Denoising chains: from noisy latents to clean ones in a few deterministic steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from vlm3d_gs.config.reconstruct import Solver
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.prior.noise import SMALLEST_SIGNAL, NoiseSchedule, add_noise
from vlm3d_gs.prior.prediction import Prediction, Predictor

Correction = Callable[[Tensor], Tensor]
"""Changes predicted clean latents [B, C, h, w] before the chain goes on, as guidance at test time does."""


@torch.no_grad()
def denoise(
    predictor: Predictor,
    noise_schedule: NoiseSchedule,
    noisy: Tensor,
    start: int,
    steps: int,
    *,
    solver: Solver = "ddim",
    correct: Correction | None = None,
) -> Prediction:
    """Follow noisy latents to clean ones.

    The network is asked at `steps` timesteps, evenly from `start` down to start / steps; the clean latents of the last
    answer are the result.

    Args:
        predictor: the guided prediction of noisy latents at timesteps [B].
        noise_schedule: the model's.
        noisy: [B, C, h, w] at `start`.
        start: timestep index.
        steps: network evaluations, 1 or more.
        solver: `ddim` takes first-order steps; `dpm++` second-order ones as soon as it knows two predictions.
        correct: applied to each prediction of the clean latents; None is none.

    Returns:
        The last prediction, corrected.

    Sources: Song et al. 2020 (DDIM, arXiv 2010.02502), eq. 12 with sigma = 0; Lu et al. 2022 (DPM-Solver++, arXiv
    2211.01095), algorithm 2 (2M).
    """
    if steps < 1:
        raise ConfigError(f"A denoising chain needs at least 1 step, got {steps}.")
    timesteps = [start * left // steps for left in range(steps, 0, -1)]

    earlier: tuple[Tensor, float] | None = None  # clean latents and span of the step before
    for now, after in pairwise(timesteps):
        prediction = _ask(predictor, noise_schedule, noisy, now, correct)

        if solver == "ddim":
            level = torch.full((len(noisy),), after, device=noisy.device)
            noisy = add_noise(noise_schedule, prediction.clean_pred, prediction.noise_pred, level)
        else:
            clean = prediction.clean_pred
            span = log_snr(noise_schedule, after) - log_snr(noise_schedule, now)
            if earlier is not None:
                clean = clean + (clean - earlier[0]) * span / (2.0 * earlier[1])
            earlier = (prediction.clean_pred, span)
            noisy = _toward(noise_schedule, noisy, clean, now, after)

    return _ask(predictor, noise_schedule, noisy, timesteps[-1], correct)


def _ask(
    predictor: Predictor,
    noise_schedule: NoiseSchedule,
    noisy: Tensor,
    timestep: int,
    correct: Correction | None,
) -> Prediction:
    """Return the prediction at a timestep; a correction changes the clean latents, and the noise along with them."""
    index = torch.full((len(noisy),), timestep, device=noisy.device)
    prediction = predictor(noisy, index)
    if correct is None:
        return prediction

    clean = correct(prediction.clean_pred)
    signal, sigma = noise_schedule.levels(index)
    noise = (noisy - signal * clean) / sigma.clamp_min(SMALLEST_SIGNAL)
    return replace(prediction, clean_pred=clean, noise_pred=noise)


def log_snr(noise_schedule: NoiseSchedule, index: int) -> float:
    """Return lambda(t) = log(signal / sigma) of a timestep."""
    signal = noise_schedule.signal[index].clamp_min(SMALLEST_SIGNAL)
    return float((signal / noise_schedule.sigma[index].clamp_min(SMALLEST_SIGNAL)).log())


def _toward(
    noise_schedule: NoiseSchedule, noisy: Tensor, clean: Tensor, now: int, after: int
) -> Tensor:
    """Return the latents at `after`: (sigma' / sigma) z + (signal' - signal sigma' / sigma) z_0."""
    share = noise_schedule.sigma[after] / noise_schedule.sigma[now]
    return (
        share * noisy + (noise_schedule.signal[after] - noise_schedule.signal[now] * share) * clean
    )
