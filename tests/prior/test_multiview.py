"""Joint attention over the views of an object, and the embedded codec."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from small_denoisers import untrained_mini
from vlm3d_gs.core.errors import ShapeError
from vlm3d_gs.prior.denoiser import encode_images
from vlm3d_gs.prior.multiview import join_views
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser


@pytest.fixture(scope="module")
def denoiser() -> TorchDenoiser:
    return untrained_mini()


def run_unet(denoiser: TorchDenoiser, latents: torch.Tensor) -> torch.Tensor:
    n = len(latents)
    text = torch.ones(n, 16, 192) * 0.1
    return denoiser.network(
        latents, torch.full((n,), 300), text, class_labels=torch.zeros(n, 16)
    ).sample


def test_views_of_one_object_see_each_other_and_no_others(
    denoiser: TorchDenoiser, generator: torch.Generator
) -> None:
    latents = torch.randn(8, 12, 16, 16, generator=generator)
    changed = latents.clone()
    changed[1] += 1.0
    join_views(denoiser.network, 4)
    with torch.inference_mode():
        moved = (run_unet(denoiser, changed) - run_unet(denoiser, latents)).abs().amax((1, 2, 3))
    assert (moved[:4] > 1e-4).all()
    assert (moved[4:] < 1e-5).all()
    join_views(denoiser.network, 1)
    with torch.inference_mode():
        alone = (run_unet(denoiser, changed) - run_unet(denoiser, latents)).abs().amax((1, 2, 3))
    assert alone[1] > 1e-4
    assert (alone[[0, 2, 3]] < 1e-5).all()


def test_joining_anew_touches_nothing_unless_something_else_attends(
    denoiser: TorchDenoiser,
) -> None:
    network = denoiser.network
    join_views(network, 4)
    before = network.attn_processors
    join_views(network, 4)
    assert all(now is before[name] for name, now in network.attn_processors.items())
    network.set_attn_processor(AttnProcessor2_0())
    join_views(network, 4)
    assert {p.n_views for p in network.attn_processors.values()} == {4}
    join_views(network, 1)
    assert {p.n_views for p in network.attn_processors.values()} == {1}


def test_a_batch_that_does_not_divide_into_groups_is_refused(denoiser: TorchDenoiser) -> None:
    join_views(denoiser.network, 4)
    with pytest.raises(ShapeError, match="groups of 4"):
        run_unet(denoiser, torch.zeros(6, 12, 16, 16))


def test_the_codec_is_linear_so_its_gradient_is_the_same_everywhere(
    denoiser: TorchDenoiser, generator: torch.Generator
) -> None:
    first, second = (torch.rand(1, 64, 64, 3, generator=generator) for _ in range(2))
    mixed = encode_images(denoiser, 0.3 * first + 0.7 * second)
    apart = 0.3 * encode_images(denoiser, first) + 0.7 * encode_images(denoiser, second)
    torch.testing.assert_close(mixed, apart, atol=1e-4, rtol=1e-4)
