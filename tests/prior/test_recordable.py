"""What the prior records holds nothing that a CUDA graph cannot, and is replayed as it is computed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderTiny

from recordable import NotRecordable, Recordable
from replayed import CpuGraphs
from small_denoisers import NETWORKS, Batch, make
from vlm3d_gs.core.recording import Recorder
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser


def recorded(denoiser: TorchDenoiser) -> tuple[TorchDenoiser, CpuGraphs]:
    """The same networks, whose recording refuses what a CUDA graph cannot hold."""
    graphs = CpuGraphs(Recordable)
    return replace(denoiser, recorder=Recorder(graphs)), graphs


@pytest.mark.parametrize("family", NETWORKS)
def test_the_network_can_be_recorded(family: str) -> None:
    denoiser, batch = make(family), Batch()
    expected = batch.base(denoiser)
    replayed, graphs = recorded(denoiser)
    for _ in range(2):
        torch.testing.assert_close(batch.base(replayed), expected)
    assert (graphs.captures, graphs.replays) == (1, 2)

    # Everything that changes from one call to the next is an input of the recording.
    batch.timesteps, batch.text = batch.timesteps.flip(0), batch.text.rows([3, 2, 1, 0])
    batch.noisy = batch.noise
    batch.camera_matrices = batch.camera_matrices.flip(0)
    torch.testing.assert_close(batch.base(replayed), batch.base(denoiser))
    assert graphs.captures == 1


@pytest.mark.parametrize("tiny", [False, True])
def test_the_autoencoder_can_be_recorded_both_ways(tiny: bool) -> None:
    denoiser = make("sd")
    if tiny:
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        )
        denoiser = replace(denoiser, vae=vae.requires_grad_(False))
    replayed, graphs = recorded(denoiser)

    for _ in range(2):
        color, latents = torch.rand(2, 8, 8, 3).requires_grad_(), torch.randn(2, 4, 8, 8)
        latents.requires_grad_()
        for name, inputs in (("encode", color), ("decode", latents)):
            (theirs, expected), (ours, found) = (
                (output.detach(), torch.autograd.grad(output.square().sum(), inputs))
                for output in (getattr(each, name)(inputs) for each in (denoiser, replayed))
            )
            torch.testing.assert_close(ours, theirs)
            torch.testing.assert_close(found, expected)
    assert graphs.captures == 4  # each with a backward pass


def test_views_that_are_joined_otherwise_are_another_recording() -> None:
    denoiser, batch = make("multiview"), Batch()
    replayed, graphs = recorded(denoiser)
    for n_views in (4, 1, 4, 2):
        denoiser.join_views(n_views)
        expected = batch.base(denoiser)
        replayed.join_views(n_views)
        torch.testing.assert_close(batch.base(replayed), expected)
    assert graphs.captures == 3


def test_what_waits_for_a_device_is_refused() -> None:
    x = torch.rand(4, requires_grad=True)
    mask = x.detach() > 0.5
    for waits in (
        lambda: x[mask],
        lambda: x.sum().item(),
        mask.nonzero,
        lambda: torch.tensor([1.0]),
        lambda: x.detach().clone().index_put_((mask,), x.detach()),
        lambda: x.masked_scatter(mask, x),
        lambda: bool(mask.any()),
    ):
        with pytest.raises(NotRecordable), Recordable():
            waits()
    with Recordable():
        assert x[torch.arange(2)].shape == (2,)
