"""Distillation losses against their equations, in value and gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.prior.distillation import (
    WEIGHTINGS,
    clip_residual,
    csd_residual,
    descend_timesteps,
    draw_timesteps,
    reconstruction_loss,
    rescale_clean,
    residual_loss,
    sds_loss,
    timestep_weight,
    vsd_residual,
)
from vlm3d_gs.prior.noise import diffusion_schedule, flow_schedule


def draws(generator: torch.Generator, n: int = 3) -> list[torch.Tensor]:
    return [torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(n)]


def test_residual_loss_has_the_residual_as_gradient(generator: torch.Generator) -> None:
    latents, residual, _ = draws(generator)
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)[:, None, None, None]
    latents.requires_grad_()
    residual.requires_grad_()
    loss = residual_loss(latents, residual, weight)
    loss.backward()
    weighted = (weight * residual).detach()
    torch.testing.assert_close(latents.grad, weighted / 4)
    assert loss.item() == pytest.approx(0.5 * (weighted.numpy() ** 2).sum() / 4)
    assert residual.grad is None


def test_sds_gradient_is_the_weighted_residual(generator: torch.Generator) -> None:
    latents, predicted, noise = draws(generator)
    latents.requires_grad_()
    sds_loss(latents, predicted, noise, 0.7).backward()
    torch.testing.assert_close(latents.grad, 0.7 * (predicted - noise) / 4)


def test_reconstruction_gradient_points_away_from_the_prediction(
    generator: torch.Generator,
) -> None:
    latents, clean, _ = draws(generator)
    latents.requires_grad_()
    clean.requires_grad_()
    loss = reconstruction_loss(latents, clean)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * ((latents - clean) ** 2).sum().item() / 4)
    torch.testing.assert_close(latents.grad, (latents - clean).detach() / 4)
    assert clean.grad is None


def test_both_forms_agree_where_the_noise_explains_the_latents(generator: torch.Generator) -> None:
    """With z_t = s z + n e, x0_hat = (z_t - n e_hat) / s: recon residual is n / s times SDS's."""
    latents, predicted, noise = draws(generator)
    signal, sigma = 0.6, 0.8
    clean = (signal * latents + sigma * noise - sigma * predicted) / signal
    first = latents.clone().requires_grad_()
    second = latents.clone().requires_grad_()
    reconstruction_loss(first, clean).backward()
    sds_loss(second, predicted, noise, sigma / signal).backward()
    torch.testing.assert_close(first.grad, second.grad)


def test_rescale_restores_the_spread_of_each_group(generator: torch.Generator) -> None:
    guided = torch.randn(8, 2, 3, 3, generator=generator) * 5.0
    plain = torch.randn(8, 2, 3, 3, generator=generator)
    out = rescale_clean(guided, plain, 1.0, 4)
    for start in (0, 4):
        assert out[start : start + 4].std().item() == pytest.approx(
            plain[start : start + 4].std().item(), rel=1e-5
        )
    torch.testing.assert_close(rescale_clean(guided, plain, 0.0, 4), guided)


def test_timesteps_are_shared_in_a_group_and_stay_in_range(generator: torch.Generator) -> None:
    steps = draw_timesteps(0.2, 0.5, 500, 4, 1000, generator)
    groups = steps.unflatten(0, (500, 4))
    assert (groups == groups[:, :1]).all()
    assert 200 <= int(steps.min()) < 215
    assert 485 < int(steps.max()) < 500
    assert draw_timesteps(1.0, 1.0, 1, 1, 1000, generator).item() == 999


def test_csd_is_what_the_guidance_scale_multiplies(generator: torch.Generator) -> None:
    """SDS's residual is linear in the guidance scale; CSD is its slope."""
    conditional, unconditional, noise = draws(generator)

    def sds_gradient(scale: float) -> torch.Tensor:
        latents = torch.zeros_like(noise, requires_grad=True)
        sds_loss(latents, unconditional + scale * (conditional - unconditional), noise).backward()
        assert latents.grad is not None
        return latents.grad

    latents = torch.zeros_like(noise, requires_grad=True)
    residual_loss(latents, csd_residual(conditional, unconditional)).backward()
    torch.testing.assert_close(latents.grad, (sds_gradient(9.0) - sds_gradient(4.0)) / 5.0)


def test_csd_with_a_negative_prompt(generator: torch.Generator) -> None:
    """The paper's regrouped form: w1 eps(y) + (w2 - w1) eps(empty) - w2 eps(y_neg)."""
    conditional, unconditional, negative = draws(generator)
    conditional.requires_grad_()
    out = csd_residual(conditional, unconditional, negative, 1.0, 0.3)
    assert not out.requires_grad
    torch.testing.assert_close(out, conditional.detach() - 0.7 * unconditional - 0.3 * negative)
    torch.testing.assert_close(
        csd_residual(conditional, unconditional, negative, 2.0, 2.0),
        csd_residual(conditional, negative, positive_weight=2.0),
    )
    with pytest.raises(ConfigError, match="weight is 0.3, but there is no prediction"):
        csd_residual(conditional, unconditional, None, 1.0, 0.3)


def test_vsd_is_sds_for_a_lora_that_knows_the_noise(generator: torch.Generator) -> None:
    latents, predicted, noise = draws(generator)
    noise.requires_grad_()
    first = latents.clone().requires_grad_()
    second = latents.clone().requires_grad_()
    residual_loss(first, vsd_residual(predicted, noise), 0.7).backward()
    sds_loss(second, predicted, noise.detach(), 0.7).backward()
    torch.testing.assert_close(first.grad, second.grad)
    assert noise.grad is None
    assert not vsd_residual(predicted, noise).requires_grad


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 10.0))
def test_clipping_limits_values_or_lengths(seed: int, threshold: float) -> None:
    residual = draws(torch.Generator().manual_seed(seed), 1)[0] * torch.tensor(
        [0.01, 0.5, 2.0, 50.0], dtype=torch.float64
    ).view(4, 1, 1, 1)
    values = clip_residual(residual, threshold)
    np.testing.assert_array_equal(values.numpy(), np.clip(residual.numpy(), -threshold, threshold))
    by_length = clip_residual(residual, threshold, "norm")
    for before, after in zip(residual.numpy(), by_length.numpy(), strict=True):
        size = math.sqrt((before**2).mean())
        wanted = before if size <= threshold else before / size * threshold
        np.testing.assert_allclose(after, wanted, rtol=1e-12)


def test_clipping_refuses_what_it_does_not_know() -> None:
    residual = torch.zeros(1, 1, 1, 1)
    assert clip_residual(residual, 1.0, "norm").item() == 0.0
    with pytest.raises(ConfigError, match="more than 0, not 0.0"):
        clip_residual(residual, 0.0)
    with pytest.raises(ConfigError, match="more than 0, not nan"):
        clip_residual(residual, math.nan)
    with pytest.raises(ConfigError, match="'length'. Known: value, norm"):
        clip_residual(residual, 1.0, "length")  # type: ignore[arg-type]


def test_weights_of_known_levels() -> None:
    """alpha_bar 0.64 is signal 0.8 and sigma 0.6; a flow model has the same ratio at sigma 3/7."""
    wanted = {"uniform": 1.0, "sds": 0.36, "fantasia3d": 0.8 * 0.36, "ism": 0.75}
    diffusion = diffusion_schedule(torch.tensor([0.999, 0.64]), "epsilon")
    flow = flow_schedule(7)
    assert set(wanted) == set(WEIGHTINGS)
    for kind, value in wanted.items():
        for noise_schedule, timestep in ((diffusion, 1), (flow, 2)):
            weight = timestep_weight(kind, noise_schedule, torch.tensor([timestep, 0]))
            assert weight.shape == (2, 1, 1, 1)
            assert weight[0].item() == pytest.approx(value, rel=1e-6)
    with pytest.raises(ConfigError, match="'sd'. Known: uniform, sds, fantasia3d, ism"):
        timestep_weight("sd", flow, torch.tensor([0]))


def test_weights_stay_finite_where_the_signal_vanishes() -> None:
    noise_schedule = diffusion_schedule(torch.tensor([0.9, 0.0]), "v_prediction")
    for kind in WEIGHTINGS:
        assert timestep_weight(kind, noise_schedule, torch.tensor([0, 1])).isfinite().all()


def test_descent_runs_from_high_to_low() -> None:
    ends = [descend_timesteps(0.02, 0.98, fraction, 4, 1000) for fraction in (0.0, 0.5, 1.0)]
    assert [steps.tolist() for steps in ends] == [[980] * 4, [500] * 4, [20] * 4]
    assert ends[0].dtype == torch.int64
    assert descend_timesteps(0.0, 1.0, 0.0, 1, 1000).item() == 999


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(1, 1000))
def test_descent_stays_on_the_line(low: float, high: float, fraction: float, n_train: int) -> None:
    step = descend_timesteps(low, high, fraction, 1, n_train).item()
    assert 0 <= step < n_train
    wanted = min((1.0 - fraction) * high + fraction * low, 1.0) * n_train
    assert wanted - 1.001 <= step <= wanted + 0.001
