"""Joint attention over views, the denoiser's algebra, and the prior as a guidance."""

from __future__ import annotations

import pytest
import torch

from vlm3d_gs.cameras import orbit
from vlm3d_gs.config import PriorConfig
from vlm3d_gs.errors import ShapeError
from vlm3d_gs.guidance.base import Views
from vlm3d_gs.guidance.denoiser import Denoiser, clean_and_noise, encode_pictures
from vlm3d_gs.guidance.multiview import MultiViewPrior, join_views
from vlm3d_gs.guidance.sampling import sample_views
from vlm3d_gs.mini.train_prior import new_prior, new_scheduler
from vlm3d_gs.mini.train_vae import prepared_codec
from vlm3d_gs.schedules import constant


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    """The embedded prior's architecture, untrained, with weights large enough to see."""
    prior, codec = new_prior(1), prepared_codec(1)
    torch.nn.init.normal_(prior.unet.conv_out.weight, std=0.05)
    for network in (prior.unet, prior.text_encoder, codec):
        network.requires_grad_(False).eval()
    return Denoiser(prior.unet, codec, prior.scheduler, prior.text_encoder, prior.tokenizer, None)


def run_unet(denoiser: Denoiser, latents: torch.Tensor) -> torch.Tensor:
    n = len(latents)
    text = torch.ones(n, 16, 192) * 0.1
    return denoiser.unet(
        latents, torch.full((n,), 300), text, class_labels=torch.zeros(n, 16)
    ).sample


def test_views_of_one_object_see_each_other_and_no_others(
    denoiser: Denoiser, generator: torch.Generator
) -> None:
    latents = torch.randn(8, 12, 16, 16, generator=generator)
    changed = latents.clone()
    changed[1] += 1.0
    join_views(denoiser.unet, 4)
    with torch.inference_mode():
        moved = (run_unet(denoiser, changed) - run_unet(denoiser, latents)).abs().amax((1, 2, 3))
    assert (moved[:4] > 1e-4).all()
    assert (moved[4:] < 1e-5).all()
    join_views(denoiser.unet, 1)
    with torch.inference_mode():
        alone = (run_unet(denoiser, changed) - run_unet(denoiser, latents)).abs().amax((1, 2, 3))
    assert alone[1] > 1e-4
    assert (alone[[0, 2, 3]] < 1e-5).all()


def test_a_batch_that_does_not_divide_into_groups_is_refused(denoiser: Denoiser) -> None:
    join_views(denoiser.unet, 4)
    with pytest.raises(ShapeError, match="groups of 4"):
        run_unet(denoiser, torch.zeros(6, 12, 16, 16))


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_a_perfect_network_gives_back_latents_and_noise(
    kind: str, generator: torch.Generator
) -> None:
    scheduler = new_scheduler()
    scheduler.register_to_config(prediction_type=kind)
    latents, noise = (torch.randn(3, 2, 4, 4, generator=generator) for _ in range(2))
    timesteps = torch.tensor([10, 200, 700])
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    clean, found = clean_and_noise(scheduler, target, noisy, timesteps)
    torch.testing.assert_close(clean, latents, atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(found, noise, atol=1e-5, rtol=1e-5)


def test_the_codec_is_linear_so_its_gradient_is_the_same_everywhere(
    denoiser: Denoiser, generator: torch.Generator
) -> None:
    first, second = (torch.rand(1, 64, 64, 3, generator=generator) for _ in range(2))
    mixed = encode_pictures(denoiser, 0.3 * first + 0.7 * second)
    apart = 0.3 * encode_pictures(denoiser, first) + 0.7 * encode_pictures(denoiser, second)
    torch.testing.assert_close(mixed, apart, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("loss", ["recon", "sds"])
def test_prior_pulls_on_every_view_and_repeats_itself(
    denoiser: Denoiser, loss: str, generator: torch.Generator
) -> None:
    config = PriorConfig(loss=loss, t_max=constant(0.5), t_min=constant(0.2))  # type: ignore[arg-type]
    color = torch.rand(4, 64, 64, 3, generator=generator).requires_grad_()
    cameras = orbit([10.0, 100.0, 190.0, 280.0], 15.0, 3.0, 40.0, 64, 64)
    gradients = []
    for _ in range(2):
        prior = MultiViewPrior(denoiser, "a red cube", config, torch.Generator().manual_seed(5))
        output = prior(Views(color, cameras, 4), 0.0)
        gradients.append(torch.autograd.grad(output.loss, color)[0])
    assert (gradients[0].flatten(1).norm(dim=1) > 0).all()
    assert torch.equal(gradients[0], gradients[1])


def test_samples_are_pictures_of_each_prompt_and_view(denoiser: Denoiser) -> None:
    cameras = orbit([0.0, 90.0, 180.0, 270.0], 15.0, 3.0, 40.0, 64, 64)
    views = sample_views(
        denoiser, ["a red cube", "a blue cone"], cameras, torch.Generator().manual_seed(0), steps=2
    )
    assert views.shape == (2, 4, 64, 64, 3)
    assert 0.0 <= float(views.min()) <= float(views.max()) <= 1.0
