"""Denoising chains against a denoiser that is known in closed form, and against diffusers' own scheduler."""

from __future__ import annotations

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from gaussian_denoiser import NOISE_SCHEDULES, SHAPE, carried, levels, model_of, spread_at
from vlm3d_gs.config.reconstruct import Solver
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.prior.chain import denoise


def start_of(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", list(NOISE_SCHEDULES))
def test_first_order_steps_are_those_of_ddim(kind: str, generator: torch.Generator) -> None:
    noise_schedule, noisy = NOISE_SCHEDULES[kind], start_of(generator)
    model = model_of(noise_schedule, generator, scale=3.0)
    prediction = denoise(model, noise_schedule, noisy, 900, 3)
    assert [timesteps[0] for timesteps in model.calls] == [900, 600, 300]

    last = carried(noise_schedule, noisy, [900, 600, 300], model.guided_mean)
    expected = model(last, torch.full((len(last),), 300)).clean_pred
    torch.testing.assert_close(prediction.clean_pred, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", list(NOISE_SCHEDULES))
def test_second_order_steps_come_nearer_to_the_exact_path(
    kind: str, generator: torch.Generator
) -> None:
    noise_schedule, noisy = NOISE_SCHEDULES[kind], start_of(generator)
    model = model_of(noise_schedule, generator, scale=1.0)

    # The probability-flow path of Gaussian data scales the distance to the mean by the ratio of the spreads.
    errors = {}
    for solver in ("ddim", "dpm++"):
        prediction = denoise(model, noise_schedule, noisy, 800, 8, solver=solver)
        (signal, _), (first, _) = levels(noise_schedule, 100), levels(noise_schedule, 800)
        apart = (
            (noisy - first * model.guided_mean)
            * spread_at(noise_schedule, 100)
            / spread_at(noise_schedule, 800)
        )
        exact = model(apart + signal * model.guided_mean, torch.full((len(noisy),), 100)).clean_pred
        errors[solver] = float((prediction.clean_pred - exact).abs().max())
    assert errors["dpm++"] < 0.5 * errors["ddim"]


def test_second_order_steps_are_those_of_diffusers(generator: torch.Generator) -> None:
    noise_schedule, noisy = NOISE_SCHEDULES["diffusion"], start_of(generator)
    model = model_of(noise_schedule, generator, scale=1.0)
    ours = denoise(model, noise_schedule, noisy, 800, 4, solver="dpm++")

    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="epsilon"
    )
    scheduler.set_timesteps(timesteps=[800, 600, 400, 200])
    latents = noisy.clone()
    for timestep in scheduler.timesteps:
        index = torch.full((len(latents),), int(timestep))
        prediction = model(latents, index)
        if int(timestep) == 200:
            break
        latents = scheduler.step(prediction.noise_pred, timestep, latents).prev_sample
    torch.testing.assert_close(ours.clean_pred, prediction.clean_pred, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
def test_a_correction_of_the_clean_latents_is_carried_on(
    solver: Solver, generator: torch.Generator
) -> None:
    noise_schedule, noisy = NOISE_SCHEDULES["diffusion"], start_of(generator)
    model = model_of(noise_schedule, generator, scale=1.0)
    plain = denoise(model, noise_schedule, noisy, 900, 3, solver=solver)
    nothing = denoise(
        model, noise_schedule, noisy, 900, 3, solver=solver, correct=lambda clean: clean
    )
    moved = denoise(
        model, noise_schedule, noisy, 900, 3, solver=solver, correct=lambda clean: clean + 0.5
    )
    torch.testing.assert_close(plain.clean_pred, nothing.clean_pred, atol=1e-9, rtol=1e-9)
    assert (moved.clean_pred - plain.clean_pred).min() > 0.5, (
        "later steps start from what was corrected"
    )


def test_a_chain_without_steps_is_refused(generator: torch.Generator) -> None:
    noise_schedule = NOISE_SCHEDULES["flow"]
    with pytest.raises(ConfigError, match="at least 1 step"):
        denoise(
            model_of(noise_schedule, generator, 1.0), noise_schedule, start_of(generator), 500, 0
        )
