"""DDIM inversion, ISM and SDI against a denoiser that is known in closed form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaussian_denoiser import (
    NOISE_SCHEDULES,
    SPREAD,
    GaussianModel,
    at,
    carried,
    draws,
    levels,
    model_of,
    noise_by_hand,
    spread_at,
    stable_diffusion,
)
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.prior.inversion import (
    invert,
    ism_residual,
    sdi_noisy,
    sdi_residual,
    strided_path,
)
from vlm3d_gs.prior.losses import residual_loss, target_loss
from vlm3d_gs.prior.noise import NoiseSchedule, PredictionType, add_noise
from vlm3d_gs.prior.prediction import with_guidance_scale
from vlm3d_gs.prior.timesteps import timestep_weight


@pytest.fixture(params=list(NOISE_SCHEDULES))
def noise_schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    return NOISE_SCHEDULES[request.param]


def test_a_guidance_scale_recovers_each_branch_and_the_predictions_own_scale(
    noise_schedule: NoiseSchedule, generator: torch.Generator
) -> None:
    model = model_of(noise_schedule, generator, 7.5)
    prediction = model(*draws(generator, 1), at(20, 500, 900))
    for scale, clean, noise in (
        (0.0, prediction.clean_pred_uncond, prediction.noise_pred_uncond),
        (1.0, prediction.clean_pred_text, prediction.noise_pred_text),
        (7.5, prediction.clean_pred, prediction.noise_pred),
    ):
        torch.testing.assert_close(with_guidance_scale(prediction, scale), (clean, noise))


@pytest.mark.parametrize("scale", [0.0, 1.0, -6.5])
@pytest.mark.parametrize("stops", [[0, 600], [0, 150, 300, 600], [100, 101]])
def test_inversion_follows_the_closed_form(
    noise_schedule: NoiseSchedule, scale: float, stops: list[int], generator: torch.Generator
) -> None:
    model = model_of(noise_schedule, generator, 5.0)
    (start,) = draws(generator, 1)
    out = invert(noise_schedule, model, start, [at(*[stop] * 3) for stop in stops], scale)
    torch.testing.assert_close(out, carried(noise_schedule, start, stops, model.mean_at(scale)))


def test_many_small_steps_follow_the_probability_flow(
    noise_schedule: NoiseSchedule, generator: torch.Generator
) -> None:
    """The ODE keeps each latent's distance to the mean in standard deviations of its level."""
    model = model_of(noise_schedule, generator, 5.0)
    (start,) = draws(generator, 1)
    out = invert(noise_schedule, model, start, strided_path(at(800, 800, 800), 1))
    apart = (start - levels(noise_schedule, 0)[0] * model.unconditional) / spread_at(
        noise_schedule, 0
    )
    expected = (
        levels(noise_schedule, 800)[0] * model.unconditional
        + spread_at(noise_schedule, 800) * apart
    )
    torch.testing.assert_close(out, expected, rtol=0.0, atol=0.01)
    assert (expected - start).abs().max() > 0.3


def test_each_row_stops_at_its_own_timestep(generator: torch.Generator) -> None:
    noise_schedule = NOISE_SCHEDULES["diffusion"]
    model = model_of(noise_schedule, generator, 5.0)
    (start,) = draws(generator, 1)
    out = invert(noise_schedule, model, start, strided_path(at(0, 350, 600), 200))
    torch.testing.assert_close(out[0], start[0])
    torch.testing.assert_close(
        out[1], carried(noise_schedule, start[1], [0, 200, 350], model.unconditional)
    )
    torch.testing.assert_close(
        out[2], carried(noise_schedule, start[2], [0, 200, 400, 600], model.unconditional)
    )


@given(st.lists(st.integers(0, 999), min_size=1, max_size=4), st.integers(1, 1200))
def test_a_path_rises_by_the_stride_to_each_timestep(timesteps: list[int], stride: int) -> None:
    path = torch.stack(strided_path(at(*timesteps), stride))
    steps = path.diff(dim=0)
    assert (path[0] == 0).all()
    assert path[-1].tolist() == timesteps
    assert len(steps) == -(-max(timesteps) // stride)
    assert ((steps == stride) | (path[1:] == at(*timesteps))).all()


@pytest.mark.parametrize(
    ("stride", "stops"), [(None, [550]), (1000, [0, 550]), (200, [0, 200, 400, 550])]
)
def test_ism_equals_its_equation(
    noise_schedule: NoiseSchedule,
    stride: int | None,
    stops: list[int],
    generator: torch.Generator,
) -> None:
    model = model_of(noise_schedule, generator, 7.5)
    latents, noise = draws(generator, 2)
    latents.requires_grad_()
    residual = ism_residual(
        noise_schedule, model, latents, noise, at(600, 600, 600), interval=50, stride=stride
    )
    signal, sigma = levels(noise_schedule, stops[0])
    start = signal * latents.detach() + sigma * noise
    lower = carried(noise_schedule, start, stops, model.unconditional)
    upper = carried(noise_schedule, lower, [550, 600], model.unconditional)
    expected = noise_by_hand(noise_schedule, upper, 600, model.guided_mean) - noise_by_hand(
        noise_schedule, lower, 550, model.unconditional
    )
    assert not residual.requires_grad
    torch.testing.assert_close(residual, expected)
    weight = timestep_weight("ism", noise_schedule, at(600, 600, 600))
    residual_loss(latents, weight * residual).backward()
    ratio = levels(noise_schedule, 600)[1] / levels(noise_schedule, 600)[0]
    torch.testing.assert_close(latents.grad, ratio * expected / 3)


def test_ism_asks_the_network_no_more_than_it_must(generator: torch.Generator) -> None:
    noise_schedule = NOISE_SCHEDULES["diffusion"]
    model, inverter = (
        model_of(noise_schedule, generator, 7.5),
        model_of(noise_schedule, generator, 1.0),
    )
    latents, noise = draws(generator, 2)
    timesteps = at(600, 30, 600)
    ism_residual(noise_schedule, model, latents, noise, timesteps, stride=None, inverter=inverter)
    assert inverter.calls == [[550, 0, 550]]
    assert model.calls == [[600, 30, 600]]
    inverter.calls.clear()
    ism_residual(noise_schedule, model, latents, noise, timesteps, stride=1000, inverter=inverter)
    assert inverter.calls == [[0, 0, 0], [550, 0, 550]]


@pytest.mark.parametrize("start_noise", [0.0, 1.0])
def test_sdi_equals_its_equation(
    noise_schedule: NoiseSchedule, start_noise: float, generator: torch.Generator
) -> None:
    model = model_of(noise_schedule, generator, 8.5)
    latents, noise = draws(generator, 2)
    latents.requires_grad_()
    noise = start_noise * noise
    timesteps = at(450, 450, 450)
    residual = sdi_residual(
        noise_schedule, model, latents, noise, timesteps, n_steps=5, inversion_scale=-6.5
    )
    signal, sigma = levels(noise_schedule, 0)
    noisy = carried(
        noise_schedule,
        signal * latents.detach() + sigma * noise,
        [0, 200, 400, 450],
        model.mean_at(-6.5),
    )
    assert model.calls == [[0] * 3, [200] * 3, [400] * 3, [450] * 3]
    signal, sigma = levels(noise_schedule, 450)
    gain = signal * SPREAD**2 / spread_at(noise_schedule, 450) ** 2
    clean = model.guided_mean + gain * (noisy - signal * model.guided_mean)
    assert not residual.requires_grad
    torch.testing.assert_close(residual, latents.detach() - clean)
    residual_loss(latents, residual).backward()
    torch.testing.assert_close(latents.grad, (latents.detach() - clean) / 3)


def test_sdi_is_sds_with_the_inferred_noise(
    noise_schedule: NoiseSchedule, generator: torch.Generator
) -> None:
    model = model_of(noise_schedule, generator, 8.5)
    latents, noise = draws(generator, 2)
    timesteps = at(100, 500, 800)
    noisy = sdi_noisy(noise_schedule, model, latents, noise, timesteps)
    prediction = model(noisy, timesteps)
    signal, sigma = noise_schedule.levels(timesteps)
    kappa = (noisy - signal * latents) / sigma  # the noise that z_t implies for these latents
    clean_form = latents.clone().requires_grad_()
    noise_form = latents.clone().requires_grad_()
    residual_loss(
        clean_form, sdi_residual(noise_schedule, model, clean_form, noise, timesteps)
    ).backward()
    weight = timestep_weight("ism", noise_schedule, timesteps)
    residual_loss(noise_form, weight * (prediction.noise_pred - kappa)).backward()
    torch.testing.assert_close(clean_form.grad, noise_form.grad)
    again = latents.clone().requires_grad_()
    target_loss(again, prediction.clean_pred).backward()
    torch.testing.assert_close(again.grad, clean_form.grad)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_schedules_of_equal_signal_to_noise_ratio_give_equal_residuals(
    kind: PredictionType, generator: torch.Generator
) -> None:
    """The same model with another scale of z_t and another output of its network."""
    plain = stable_diffusion()
    total = (
        plain.signal + plain.sigma if kind == "flow_prediction" else torch.ones_like(plain.sigma)
    )
    other = NoiseSchedule(plain.signal / total, plain.sigma / total, plain.network_timesteps, kind)
    first = model_of(plain, generator, 7.5)
    second = GaussianModel(other, first.unconditional, first.conditional, 7.5)
    latents, noise = draws(generator, 2)
    timesteps = at(120, 480, 900)
    for residual in (ism_residual, sdi_residual):
        torch.testing.assert_close(
            residual(other, second, latents, noise, timesteps),
            residual(plain, first, latents, noise, timesteps),
        )
    predictions = [
        model(add_noise(noise_schedule, latents, noise, timesteps), timesteps)
        for noise_schedule, model in ((plain, first), (other, second))
    ]
    torch.testing.assert_close(predictions[0].clean_pred, predictions[1].clean_pred)
    torch.testing.assert_close(predictions[0].noise_pred, predictions[1].noise_pred)
    for name in ("uniform", "sds", "fantasia3d", "ism"):
        torch.testing.assert_close(
            timestep_weight(name, other, timesteps), timestep_weight(name, plain, timesteps)
        )


def test_refused_settings(generator: torch.Generator) -> None:
    noise_schedule = NOISE_SCHEDULES["diffusion"]
    model = model_of(noise_schedule, generator, 1.0)
    latents, noise = draws(generator, 2)
    timesteps = at(600, 600, 600)
    with pytest.raises(ConfigError, match="interval must be 1 timestep or more, not 0"):
        ism_residual(noise_schedule, model, latents, noise, timesteps, interval=0)
    with pytest.raises(ConfigError, match="stride must be 1 timestep or more, not 0"):
        ism_residual(noise_schedule, model, latents, noise, timesteps, stride=0)
    with pytest.raises(ConfigError, match="1 inversion step or more, not 0"):
        sdi_noisy(noise_schedule, model, latents, noise, timesteps, n_steps=0)
