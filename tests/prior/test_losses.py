"""Distillation losses against their equations, in value and gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gaussian_denoiser import NOISE_SCHEDULES, at, distilled, levels
from vlm3d_gs.config import PriorConfig
from vlm3d_gs.config.prior import DistillationLoss
from vlm3d_gs.config.schedules import constant
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.prior.losses import (
    LOSSES,
    DistillationStep,
    loss_named,
    reconstruction_target,
    residual_loss,
    target_loss,
)
from vlm3d_gs.prior.noise import NoiseSchedule
from vlm3d_gs.prior.prediction import Prediction, classifier_free_guidance


def draws(generator: torch.Generator, n: int = 3) -> list[torch.Tensor]:
    return [torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(n)]


@pytest.fixture(params=list(NOISE_SCHEDULES))
def noise_schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    return NOISE_SCHEDULES[request.param]


def step_with(
    noise_schedule: NoiseSchedule,
    latents: torch.Tensor,
    noise: torch.Tensor,
    predictions: dict[str, torch.Tensor],
    **values: object,
) -> DistillationStep:
    """A step at timestep 600 whose predictor gives these predictions, and NaN for the others."""
    nothing = torch.full_like(noise, torch.nan)
    fields = dict.fromkeys(Prediction.__dataclass_fields__, nothing) | predictions

    def predictor(noisy: torch.Tensor, timesteps: torch.Tensor) -> Prediction:
        return Prediction(**fields)

    config = PriorConfig(**({"weighting": "uniform", "rescale": 0.0} | values))  # type: ignore[arg-type]
    steps = at(*[600] * len(latents))
    return DistillationStep(
        config, 0.0, noise_schedule, latents.detach(), noise, steps, 1, predictor, predictor
    )


def gradient(name: DistillationLoss, step: DistillationStep) -> torch.Tensor:
    latents = step.latents.clone().requires_grad_()
    (found,) = torch.autograd.grad(distilled(name, latents, step), latents)
    return found


def test_residual_loss_has_the_residual_as_gradient(generator: torch.Generator) -> None:
    latents, residual, _ = draws(generator)
    latents.requires_grad_()
    residual.requires_grad_()
    loss = residual_loss(latents, residual)
    loss.backward()
    torch.testing.assert_close(latents.grad, residual.detach() / 4)
    assert loss.item() == pytest.approx(0.5 * (residual.detach().numpy() ** 2).sum() / 4)
    assert residual.grad is None


def test_the_gradient_points_away_from_the_target(generator: torch.Generator) -> None:
    latents, clean, _ = draws(generator)
    latents.requires_grad_()
    clean.requires_grad_()
    loss = target_loss(latents, clean)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * ((latents - clean) ** 2).sum().item() / 4)
    torch.testing.assert_close(latents.grad, (latents - clean).detach() / 4)
    assert clean.grad is None


def test_sds_gradient_is_the_weighted_residual(
    noise_schedule: NoiseSchedule, generator: torch.Generator
) -> None:
    latents, noise_pred, noise = draws(generator)
    step = step_with(noise_schedule, latents, noise, {"noise_pred": noise_pred}, weighting="sds")
    signal, sigma = levels(noise_schedule, 600)
    weight = sigma**2 / (signal**2 + sigma**2)
    torch.testing.assert_close(gradient("sds", step), weight * (noise_pred - noise) / 4)


def test_recon_and_sds_agree_where_the_noise_explains_the_latents(
    noise_schedule: NoiseSchedule, generator: torch.Generator
) -> None:
    """With z_t = s z + n e, x0_hat = (z_t - n e_hat) / s: recon residual is n / s times SDS's."""
    latents, noise_pred, noise = draws(generator)
    signal, sigma = levels(noise_schedule, 600)
    clean_pred = (signal * latents + sigma * noise - sigma * noise_pred) / signal
    predictions = {
        "noise_pred": noise_pred,
        "clean_pred": clean_pred,
        "clean_pred_text": clean_pred,
    }
    step = step_with(noise_schedule, latents, noise, predictions, weighting="ism")
    unweighted = step_with(noise_schedule, latents, noise, predictions, weighting=None)
    torch.testing.assert_close(gradient("recon", unweighted), gradient("sds", step))


def test_rescale_restores_the_spread_of_each_group(generator: torch.Generator) -> None:
    guided = torch.randn(8, 2, 3, 3, generator=generator) * 5.0
    plain = torch.randn(8, 2, 3, 3, generator=generator)
    prediction = Prediction(guided, guided, plain, plain, plain, plain)
    out = reconstruction_target(prediction, 1.0, 4)
    for start in (0, 4):
        assert out[start : start + 4].std().item() == pytest.approx(
            plain[start : start + 4].std().item(), rel=1e-5
        )
    torch.testing.assert_close(reconstruction_target(prediction, 0.0, 4), guided)


def test_csd_is_what_the_guidance_scale_multiplies(
    noise_schedule: NoiseSchedule, generator: torch.Generator
) -> None:
    """SDS's residual is linear in the guidance scale; CSD is its slope."""
    text, uncond, noise = draws(generator)
    latents = torch.zeros_like(noise)

    def sds_gradient(scale: float) -> torch.Tensor:
        guided = classifier_free_guidance(uncond, text, scale)
        return gradient("sds", step_with(noise_schedule, latents, noise, {"noise_pred": guided}))

    predictions = {"noise_pred": text, "noise_pred_uncond": uncond}  # at scale 1
    step = step_with(noise_schedule, latents, noise, predictions)
    slope = (sds_gradient(9.0) - sds_gradient(4.0)) / 5.0
    torch.testing.assert_close(gradient("csd", step), slope)


def test_vsd_is_sds_for_a_lora_that_knows_the_noise(
    noise_schedule: NoiseSchedule, generator: torch.Generator
) -> None:
    latents, noise_pred, noise = draws(generator)
    step = step_with(noise_schedule, latents, noise, {"noise_pred": noise_pred}, weighting="sds")
    seen: list[torch.Tensor] = []

    def lora(noisy: torch.Tensor) -> tuple[torch.Tensor, float]:
        seen.append(noisy)
        return noise, 0.25

    step = replace(step, lora=lora)
    torch.testing.assert_close(gradient("vsd", step), gradient("sds", step))
    assert step.scalars == {"lora_loss": 0.25}
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], step.noisy)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 10.0))
def test_clipping_limits_the_values_of_the_weighted_residual(seed: int, threshold: float) -> None:
    noise_schedule = NOISE_SCHEDULES["diffusion"]
    latents, noise_pred, noise = draws(torch.Generator().manual_seed(seed))
    noise_pred = noise_pred * torch.tensor([0.01, 0.5, 2.0, 50.0]).view(4, 1, 1, 1)
    step = step_with(
        noise_schedule,
        latents,
        noise,
        {"noise_pred": noise_pred},
        weighting="ism",
        score_clip=constant(threshold),
    )
    signal, sigma = levels(noise_schedule, 600)
    weighted = sigma / signal * (noise_pred - noise).numpy()
    residual = (latents - LOSSES["sds"].target(step)).numpy()
    np.testing.assert_allclose(residual, np.clip(weighted, -threshold, threshold), atol=1e-9)


def test_an_unguided_prediction_has_the_prompts_own_fields(generator: torch.Generator) -> None:
    prediction = Prediction(*draws(generator, 6))
    assert prediction.unguided.clean_pred is prediction.clean_pred_text
    assert prediction.unguided.noise_pred is prediction.noise_pred_text
    assert prediction.unguided.noise_pred_uncond is prediction.noise_pred_uncond


def test_an_unknown_loss_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'sd'. Available: recon, sds, csd, ism, sdi, vsd"):
        loss_named("sd")
