"""A step of a real pipeline of each family on random weights, in three precisions, against float64.

The bound is the library's own: diffusers' network is called directly in the same precision, with timesteps, sizes and
cameras in float32, and our error may be no more than a little above its error. A timestep that is rounded to bfloat16
before it is embedded moves by up to 4 of 1,000, which is many times the precision's own error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from small_denoisers import NETWORKS, Batch, noise_schedule_of
from vlm3d_gs.prior.denoiser import TextEmbedding
from vlm3d_gs.prior.losses import target_loss
from vlm3d_gs.prior.noise import add_noise, clean_and_noise
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser

KINDS = {"sd": "epsilon", "multiview": "epsilon", "sdxl": "epsilon", "sd3": "flow_prediction"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TIMESTEPS = torch.tensor([99, 71, 47, 13])


def denoiser_of(family: str, dtype: torch.dtype) -> TorchDenoiser:
    from diffusers import AutoencoderKL

    torch.manual_seed(3)
    network = NETWORKS[family]().requires_grad_(False).eval()
    sharpen(network)
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=4).requires_grad_(False).eval()
    schedule = noise_schedule_of(KINDS[family])
    if dtype == torch.float64:
        schedule = replace(schedule, signal=schedule.signal.double(), sigma=schedule.sigma.double())
    return TorchDenoiser(network.to(dtype), vae.to(dtype), schedule, None)


def sharpen(network: torch.nn.Module) -> None:
    """Random weights hardly hear their timestep; trained ones do."""
    for name, parameter in network.named_parameters():
        if "linear_1.weight" in name and ("time" in name):
            parameter.mul_(4.0)


def by_the_library(denoiser: TorchDenoiser, batch: Batch, text: TextEmbedding) -> Tensor:
    """The network's output, called as diffusers' own pipelines do."""
    network, dtype = denoiser.network, denoiser.network.dtype
    timesteps = denoiser.noise_schedule.network_timesteps[TIMESTEPS]
    noisy, tokens = batch.noisy.to(dtype), text.tokens.to(dtype)
    pooled = None if text.pooled is None else text.pooled.to(dtype)
    with torch.no_grad():
        if denoiser.network.config.get("pooled_projection_dim"):
            output: Any = network(
                hidden_states=noisy,
                encoder_hidden_states=tokens,
                pooled_projections=pooled,
                timestep=timesteps.float(),
            )
        else:
            conditions = None
            if pooled is not None:
                sizes = torch.tensor([[8.0, 8.0, 0.0, 0.0, 8.0, 8.0]]).expand(len(noisy), -1)
                conditions = {"text_embeds": pooled, "time_ids": sizes}
            labels = batch.camera_matrices.to(dtype) if denoiser.is_multiview else None
            output = network(
                noisy, timesteps, tokens, class_labels=labels, added_cond_kwargs=conditions
            )
    return output.sample.double()


def ours(denoiser: TorchDenoiser, batch: Batch, text: TextEmbedding) -> Tensor:
    cameras = batch.camera_matrices if denoiser.is_multiview else None
    with torch.no_grad():
        return denoiser.evaluate(batch.noisy, TIMESTEPS, text, cameras).double()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", KINDS)
def test_a_network_loses_no_more_than_its_precision(family: str, dtype: str) -> None:
    batch = Batch()
    exact, half = denoiser_of(family, torch.float64), denoiser_of(family, DTYPES[dtype])
    text = batch.text_for(exact)
    truth = by_the_library(exact, batch, text)
    library = relative(by_the_library(half, batch, text), truth)
    assert relative(ours(half, batch, text), truth) <= 1.2 * library + 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", KINDS)
def test_a_step_backward_loses_no_more_than_its_precision(family: str, dtype: str) -> None:
    """SDS through the encoder onto pixels, the network's noise from the library in both precisions."""
    batch = Batch()
    gradients = []
    for each in (torch.float64, DTYPES[dtype]):
        denoiser = denoiser_of(family, each)
        text = batch.text_for(denoiser)
        color = torch.rand(4, 8, 8, 3, generator=torch.Generator().manual_seed(2))
        color.requires_grad_()
        latents = denoiser.encode(color)
        noisy = add_noise(denoiser.noise_schedule, latents.detach(), batch.noise, TIMESTEPS)
        output = denoiser.evaluate(
            noisy.float(), TIMESTEPS, text, batch.camera_matrices if denoiser.is_multiview else None
        )
        _, noise = clean_and_noise(denoiser.noise_schedule, output, noisy, TIMESTEPS)
        loss = target_loss(latents, latents.detach() - (noise - batch.noise))
        (gradient,) = torch.autograd.grad(loss, color)
        gradients.append(gradient.double())
    bound = {"float32": 2e-5, "bfloat16": 0.05, "float16": 0.01}[dtype]
    assert relative(gradients[1], gradients[0]) < bound


def test_timesteps_are_not_rounded_before_they_are_embedded() -> None:
    """What went wrong once: bfloat16 has no number between 992 and 996."""
    seen = []
    denoiser = denoiser_of("sd3", torch.bfloat16)
    denoiser.network.time_text_embed.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    batch = Batch()
    ours(denoiser, batch, batch.text_for(denoiser))
    expected = denoiser.noise_schedule.network_timesteps[TIMESTEPS]
    torch.testing.assert_close(seen[0], expected, rtol=0.0, atol=0.0)


def test_sizes_are_not_rounded_before_they_are_embedded() -> None:
    denoiser = denoiser_of("sdxl", torch.bfloat16)
    sizes = denoiser._sdxl_sizes(torch.zeros(1, 4, 1032, 1032), torch.zeros(1, 6).bfloat16())
    assert sizes.tolist() == [[1032.0, 1032.0, 0.0, 0.0, 1032.0, 1032.0]]


def test_without_cameras_their_embedding_is_left_out() -> None:
    """MVDream's own code adds nothing then; zeros through the embedding would add what its biases make."""
    denoiser, batch = denoiser_of("multiview", torch.float32), Batch()
    text, schedule = batch.text_for(denoiser), denoiser.noise_schedule
    with torch.no_grad():
        skipped = denoiser.evaluate(batch.noisy, TIMESTEPS, text, None)
        zeros = denoiser.evaluate(batch.noisy, TIMESTEPS, text, torch.zeros(4, 16))
        embedding, denoiser.network.class_embedding = denoiser.network.class_embedding, None
        expected = denoiser.network(
            batch.noisy, schedule.network_timesteps[TIMESTEPS], text.tokens
        ).sample
        denoiser.network.class_embedding = embedding
    torch.testing.assert_close(skipped, expected, rtol=1e-6, atol=1e-6)
    assert relative(zeros, expected) > 1e-3
    with torch.no_grad():  # nothing is left behind
        again = denoiser.evaluate(batch.noisy, TIMESTEPS, text, torch.zeros(4, 16))
    assert torch.equal(again, zeros)
