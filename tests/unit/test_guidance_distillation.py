"""Distillation losses against their equations, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from vlm3d_gs.guidance.distillation import (
    draw_timesteps,
    reconstruction_loss,
    rescale_clean,
    sds_loss,
)


def draws(generator: torch.Generator, n: int = 3) -> list[torch.Tensor]:
    return [torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(n)]


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
