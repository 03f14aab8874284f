"""A denoiser that is known in closed form.

The data of each prompt is Gaussian, N(mean, SPREAD^2). At the level (a, s) of a noise schedule its noisy latents have
the variance S^2 = a^2 SPREAD^2 + s^2, and the ideal denoiser is linear.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from vlm3d_gs.config import PriorConfig
from vlm3d_gs.config.prior import DistillationLoss
from vlm3d_gs.prior.losses import DistillationStep, loss_named, target_loss
from vlm3d_gs.prior.noise import NoiseSchedule, PredictionType, diffusion_schedule, flow_schedule
from vlm3d_gs.prior.prediction import Prediction, as_prediction

SPREAD = 0.7
SHAPE = (3, 2, 2, 2)


def stable_diffusion(kind: PredictionType = "epsilon") -> NoiseSchedule:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return in_float64(diffusion_schedule((1.0 - betas).cumprod(0), kind))


def in_float64(noise_schedule: NoiseSchedule) -> NoiseSchedule:
    """The schedule with tables that fulfil its own law to float64."""
    sigma = noise_schedule.sigma.double()
    is_flow = noise_schedule.prediction_type == "flow_prediction"
    signal = 1.0 - sigma if is_flow else (1.0 - sigma**2).sqrt()
    return NoiseSchedule(
        signal, sigma, noise_schedule.network_timesteps, noise_schedule.prediction_type
    )


NOISE_SCHEDULES = {"diffusion": stable_diffusion(), "flow": in_float64(flow_schedule(1000, 3.0))}


@dataclass
class GaussianModel:
    """The ideal network for two Gaussians, as a `Predictor`."""

    noise_schedule: NoiseSchedule
    unconditional: Tensor
    conditional: Tensor
    guidance_scale: float = 1.0
    calls: list[list[int]] = field(default_factory=list)

    def __call__(self, noisy: Tensor, timesteps: Tensor) -> Prediction:
        self.calls.append(timesteps.tolist())
        outputs = [self.output(noisy, timesteps, mean) for mean in self.means]
        return as_prediction(self.noise_schedule, noisy, timesteps, *outputs)

    @property
    def guided_mean(self) -> Tensor:
        return self.mean_at(self.guidance_scale)

    @property
    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.guided_mean, self.conditional, self.unconditional

    def mean_at(self, scale: float) -> Tensor:
        return self.unconditional + scale * (self.conditional - self.unconditional)

    def output(self, noisy: Tensor, timesteps: Tensor, mean: Tensor) -> Tensor:
        signal, sigma = self.noise_schedule.levels(timesteps)
        apart = (noisy - signal * mean) / (signal**2 * SPREAD**2 + sigma**2)
        noise, clean = sigma * apart, mean + signal * SPREAD**2 * apart
        return {
            "epsilon": noise,
            "v_prediction": signal * noise - sigma * clean,
            "sample": clean,
            "flow_prediction": noise - clean,
        }[self.noise_schedule.prediction_type]


def model_of(
    noise_schedule: NoiseSchedule, generator: torch.Generator, scale: float
) -> GaussianModel:
    means = torch.randn(2, *SHAPE[1:], generator=generator, dtype=torch.float64)
    return GaussianModel(noise_schedule, means[0], means[1], scale)


def step_of(
    model: GaussianModel, latents: Tensor, noise: Tensor, timesteps: Tensor, **settings: object
) -> DistillationStep:
    """A step of one view a group; weight 1 unless the settings say otherwise."""
    config = PriorConfig(**({"weighting": "uniform", "rescale": 0.0} | settings))  # type: ignore[arg-type]
    return DistillationStep(
        config, 0.0, model.noise_schedule, latents.detach(), noise, timesteps, 1, model, model
    )


def distilled(loss: DistillationLoss, latents: Tensor, step: DistillationStep) -> Tensor:
    """The loss of latents on a graph."""
    return target_loss(latents, loss_named(loss).target(step))


def draws(generator: torch.Generator, n: int) -> list[Tensor]:
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(n)]


def levels(noise_schedule: NoiseSchedule, timestep: int) -> tuple[float, float]:
    return float(noise_schedule.signal[timestep]), float(noise_schedule.sigma[timestep])


def spread_at(noise_schedule: NoiseSchedule, timestep: int) -> float:
    signal, sigma = levels(noise_schedule, timestep)
    return float(np.hypot(signal * SPREAD, sigma))


def noise_by_hand(
    noise_schedule: NoiseSchedule, noisy: Tensor, timestep: int, mean: Tensor
) -> Tensor:
    """The ideal noise prediction, from the score: -s * grad log p."""
    signal, sigma = levels(noise_schedule, timestep)
    return sigma * (noisy - signal * mean) / spread_at(noise_schedule, timestep) ** 2


def carried(noise_schedule: NoiseSchedule, start: Tensor, stops: list[int], mean: Tensor) -> Tensor:
    """DDIM steps in the frame that moves with the mean: each multiplies by the cosine between two levels."""
    apart = start - levels(noise_schedule, stops[0])[0] * mean
    for now, after in pairwise(stops):
        (a, s), (a2, s2) = levels(noise_schedule, now), levels(noise_schedule, after)
        apart = apart * (a * a2 * SPREAD**2 + s * s2) / spread_at(noise_schedule, now) ** 2
    return apart + levels(noise_schedule, stops[-1])[0] * mean


def at(*values: int) -> Tensor:
    return torch.tensor(values)
