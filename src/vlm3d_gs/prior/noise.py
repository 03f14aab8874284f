"""The noise schedule of a diffusion or flow model, and what the output of its network means.

Every model here noises a clean latent linearly: z_t = signal(t) z_0 + sigma(t) eps. Diffusion models have signal^2 +
sigma^2 = 1, flow models signal + sigma = 1. A network predicts one linear combination of z_0 and eps, which together
with z_t determines both. A distillation loss sees only z_0 and eps, so it works for every model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlm3d_gs.core.errors import ConfigError

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
PREDICTION_TYPES: tuple[PredictionType, ...] = (
    "epsilon",
    "v_prediction",
    "sample",
    "flow_prediction",
)
SMALLEST_SIGNAL = 1e-4
"""Epsilon prediction divides by the signal, which some schedules let vanish at the last timestep."""


@dataclass(frozen=True)
class NoiseSchedule:
    """Signal and noise levels of the T training timesteps; timestep 0 is the cleanest."""

    signal: Tensor
    """[T] float32, factor of the clean latent."""
    sigma: Tensor
    """[T] float32, factor of the noise."""
    network_timesteps: Tensor
    """[T] the value that the network receives for each timestep: the timestep itself for diffusion models,
    1000 sigma for flow models."""
    prediction_type: PredictionType
    """What the network predicts."""

    def __len__(self) -> int:
        return len(self.signal)

    def to(self, device: torch.device) -> NoiseSchedule:
        """Return the schedule with its tables on a device."""
        return NoiseSchedule(
            self.signal.to(device),
            self.sigma.to(device),
            self.network_timesteps.to(device),
            self.prediction_type,
        )

    def levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return signal and sigma at `timesteps` [B], each [B, 1, 1, 1]."""
        signal, sigma = self.signal[timesteps], self.sigma[timesteps]
        return signal[:, None, None, None], sigma[:, None, None, None]


def diffusion_schedule(alphas_cumprod: Tensor, prediction_type: str) -> NoiseSchedule:
    """Return the schedule of a diffusion model: signal sqrt(alpha_bar), sigma sqrt(1 - alpha_bar).

    Args:
        alphas_cumprod: [T] alpha_bar, falling.
        prediction_type: as in a diffusers scheduler's config.

    Raises:
        ConfigError: the prediction type is unknown, or that of a flow model.
    """
    kind = _known(prediction_type)
    if kind == "flow_prediction":
        raise ConfigError("prediction_type 'flow_prediction' belongs to a flow model's schedule.")

    # In float64: 1 - alpha_bar cancels where alpha_bar is close to 1.
    alphas = alphas_cumprod.detach().double()
    return NoiseSchedule(
        alphas.sqrt().float(), (1.0 - alphas).sqrt().float(), torch.arange(len(alphas)), kind
    )


def flow_schedule(n_timesteps: int = 1000, shift: float = 1.0) -> NoiseSchedule:
    """Return the schedule of a rectified-flow model: z_t = (1 - s) z_0 + s eps, the network predicts eps - z_0.

    Args:
        n_timesteps: T.
        shift: s = shift u / (1 + (shift - 1) u) for u = 1/T .. 1; above 1, more timesteps lie at high noise.

    Source: Liu et al. 2022 (arXiv 2209.03003); Esser et al. 2024 (SD3, arXiv 2403.03206), eq. 23 for the shift.
    """
    even = torch.arange(1, n_timesteps + 1, dtype=torch.float64) / n_timesteps
    sigma = shift * even / (1.0 + (shift - 1.0) * even)
    return NoiseSchedule(
        (1.0 - sigma).float(), sigma.float(), (sigma * n_timesteps).float(), "flow_prediction"
    )


def add_noise(
    noise_schedule: NoiseSchedule, clean: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Return z_t = signal(t) z_0 + sigma(t) eps.

    With predictions of both instead of true values, this is a deterministic DDIM step to `timesteps`, and the Euler
    step of a flow model.

    Args:
        noise_schedule: of the model.
        clean: [B, C, h, w].
        noise: [B, C, h, w] standard normal.
        timesteps: [B] int64, 0 to T - 1.

    Differentiable in `clean` and `noise`.

    Source: Song et al. 2020 (DDIM, arXiv 2010.02502), eq. 12 with sigma = 0, for the step.
    """
    signal, sigma = noise_schedule.levels(timesteps)
    return signal * clean + sigma * noise


def clean_and_noise(
    noise_schedule: NoiseSchedule, model_output: Tensor, noisy: Tensor, timesteps: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn a network's output into its predictions of the clean latent and of the noise.

    With a = signal, s = sigma: epsilon gives z_0 = (z_t - s eps) / a; v gives z_0 = a z_t - s v and
    eps = s z_t + a v; sample gives eps = (z_t - a z_0) / s; flow gives z_0 = z_t - s v and eps = z_t + a v.

    Args:
        noise_schedule: of the model.
        model_output: [B, C, h, w] of the network.
        noisy: [B, C, h, w] its input.
        timesteps: [B] int64.

    Returns:
        z_0 and eps, both [B, C, h, w]. Differentiable in `model_output` and `noisy`.

    Source: Salimans and Ho 2022 (arXiv 2202.00512), appendix D, for v; `flow_schedule` for flow.
    """
    signal, sigma = noise_schedule.levels(timesteps)
    kind = noise_schedule.prediction_type
    if kind == "epsilon":
        clean = (noisy - sigma * model_output) / signal.clamp_min(SMALLEST_SIGNAL)
        return clean, model_output
    if kind == "v_prediction":
        return signal * noisy - sigma * model_output, sigma * noisy + signal * model_output
    if kind == "sample":
        noise = (noisy - signal * model_output) / sigma.clamp_min(SMALLEST_SIGNAL)
        return model_output, noise
    if kind == "flow_prediction":
        return noisy - sigma * model_output, noisy + signal * model_output
    raise ConfigError(f"Unknown prediction type {kind!r}. Known: {', '.join(PREDICTION_TYPES)}.")


def training_target(
    noise_schedule: NoiseSchedule, clean: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Return the output of a perfect network, the inverse of `clean_and_noise`.

    With a = signal, s = sigma: epsilon is eps, v is a eps - s z_0, sample is z_0, flow is eps - z_0.

    Args:
        noise_schedule: of the model.
        clean: [B, C, h, w] z_0.
        noise: [B, C, h, w] eps.
        timesteps: [B] int64.

    Returns:
        [B, C, h, w]. Differentiable in `clean` and `noise`.

    Source: Salimans and Ho 2022 (arXiv 2202.00512), appendix D, for v; `flow_schedule` for flow.
    """
    signal, sigma = noise_schedule.levels(timesteps)
    return {
        "epsilon": noise,
        "v_prediction": signal * noise - sigma * clean,
        "sample": clean,
        "flow_prediction": noise - clean,
    }[noise_schedule.prediction_type]


def _known(name: str) -> PredictionType:
    for kind in PREDICTION_TYPES:
        if kind == name:
            return kind
    raise ConfigError(
        f"The scheduler predicts {name!r}; supported are {', '.join(PREDICTION_TYPES)}."
    )
