"""Where each distillation loss leads, on a denoiser that is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gaussian_denoiser import (
    NOISE_SCHEDULES,
    SHAPE,
    GaussianModel,
    at,
    carried,
    distilled,
    levels,
    model_of,
    noise_by_hand,
    spread_at,
    step_of,
)
from vlm3d_gs.config.prior import DistillationLoss
from vlm3d_gs.prior.inversion import ism_residual, sdi_residual
from vlm3d_gs.prior.losses import residual_loss
from vlm3d_gs.prior.noise import NoiseSchedule
from vlm3d_gs.prior.timesteps import timestep_weight


@pytest.fixture(params=list(NOISE_SCHEDULES))
def noise_schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    return NOISE_SCHEDULES[request.param]


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def descend(start: Tensor, loss: Loss, generator: torch.Generator, steps: int = 400) -> Tensor:
    """Gradient descent from one latent under noise in opposite pairs, which cancels in a linear model."""
    latent = start.clone().requires_grad_()
    timesteps = at(*[500] * 4)
    for _ in range(steps):
        half = torch.randn(2, *start.shape, generator=generator, dtype=torch.float64)
        value = loss(latent.expand(4, *start.shape), torch.cat([half, -half]), timesteps)
        (gradient,) = torch.autograd.grad(value, latent)
        latent.data -= 0.3 * gradient
    return latent.detach()


@pytest.mark.parametrize("method", ["sds", "recon", "vsd", "sdi"])
def test_descent_ends_at_the_conditional_mean(
    method: DistillationLoss, noise_schedule: NoiseSchedule, generator: torch.Generator
) -> None:
    model = model_of(noise_schedule, generator, 1.0)

    def loss(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        step = step_of(model, latents, noise, timesteps)
        clean = step.latents
        if method == "sdi":
            residual = sdi_residual(
                noise_schedule, model, clean, noise, timesteps, inversion_scale=1.0
            )
            return residual_loss(latents, residual)

        def lora(noisy: Tensor) -> tuple[Tensor, float]:
            """The prediction of a LoRA that is fitted to scenes spread around this one."""
            return noise_by_hand(noise_schedule, noisy, int(timesteps[0]), clean), 0.0

        return distilled(method, latents, replace(step, lora=lora))

    start = torch.randn(SHAPE[1:], generator=generator, dtype=torch.float64) * 2.0
    end = descend(start, loss, generator)
    assert (start - model.conditional).abs().max() > 0.5
    torch.testing.assert_close(end, model.conditional)


def test_guided_sds_goes_beyond_the_conditional_mean(generator: torch.Generator) -> None:
    model = model_of(NOISE_SCHEDULES["diffusion"], generator, 3.0)

    def loss(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return distilled("sds", latents, step_of(model, latents, noise, timesteps))

    end = descend(torch.zeros(SHAPE[1:], dtype=torch.float64), loss, generator)
    torch.testing.assert_close(end, 3.0 * model.conditional - 2.0 * model.unconditional)


def test_csd_moves_from_the_unconditional_to_the_conditional_mean(
    noise_schedule: NoiseSchedule, generator: torch.Generator
) -> None:
    """Both branches have one spread, so the implicit classifier's slope is the same everywhere."""
    model = model_of(noise_schedule, generator, 1.0)

    def loss(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return distilled("csd", latents, step_of(model, latents, noise, timesteps))

    start = torch.randn(SHAPE[1:], generator=generator, dtype=torch.float64)
    end = descend(start, loss, generator, steps=10)
    signal, sigma = levels(noise_schedule, 500)
    rate = 10 * 0.3 * signal * sigma / spread_at(noise_schedule, 500) ** 2
    torch.testing.assert_close(end - start, rate * (model.conditional - model.unconditional))


def ism_equilibrium(
    noise_schedule: NoiseSchedule, model: GaussianModel, lower: int, upper: int
) -> float:
    """Where ISM rests, as a multiple of the way from the unconditional to the conditional mean.

    With x_s = a_0 z and one step up, both noise predictions are linear in the distance to the unconditional mean.
    """
    signal, sigma = levels(noise_schedule, upper)
    zero = torch.zeros(1, dtype=torch.float64)
    reach = [
        float(carried(noise_schedule, zero + levels(noise_schedule, 0)[0], stops, zero))
        for stops in ([0, lower], [0, lower, upper])
    ]
    low = levels(noise_schedule, lower)[1] * reach[0] / spread_at(noise_schedule, lower) ** 2
    high = sigma * reach[1] / spread_at(noise_schedule, upper) ** 2
    return sigma * signal / spread_at(noise_schedule, upper) ** 2 / (high - low)


def test_ism_over_the_whole_interval_ends_near_the_conditional_mean(
    noise_schedule: NoiseSchedule, generator: torch.Generator
) -> None:
    model = model_of(noise_schedule, generator, 1.0)

    def loss(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        residual = ism_residual(noise_schedule, model, latents, noise, timesteps, interval=1000)
        return residual_loss(latents, timestep_weight("ism", noise_schedule, timesteps) * residual)

    start = torch.randn(SHAPE[1:], generator=generator, dtype=torch.float64) * 2.0
    end = descend(start, loss, generator)
    reach = ism_equilibrium(noise_schedule, model, 0, 500)
    assert reach == pytest.approx(1.0, abs=0.05)
    torch.testing.assert_close(end, model.mean_at(reach))


def test_ism_over_a_short_interval_goes_further_the_same_way(
    noise_schedule: NoiseSchedule, generator: torch.Generator
) -> None:
    model = model_of(noise_schedule, generator, 1.0)
    reach = ism_equilibrium(noise_schedule, model, 450, 500)
    rest = model.mean_at(reach).expand(4, *SHAPE[1:])
    silence, timesteps = torch.zeros_like(rest), at(*[500] * 4)

    def residual(latents: Tensor) -> Tensor:
        return ism_residual(
            noise_schedule, model, latents, silence, timesteps, interval=50, stride=1000
        )

    assert reach > 2.0
    torch.testing.assert_close(residual(rest), silence)
    aside = torch.randn(rest.shape, generator=generator, dtype=torch.float64)
    assert (residual(rest + aside) * aside > 0.0).all()
