"""CUDA graphs behind `core.recording`: the same answers, no warning, shared memory, and a fallback that goes on."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gradients import assert_grad_close
from small_denoisers import NETWORKS, Batch, make
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.core.recording import Recorder, cuda_recorder
from vlm3d_gs.prior.denoiser import TextEmbedding
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.fixture
def recorder() -> Recorder:
    made = cuda_recorder(CUDA)
    assert made is not None
    return made


@pytest.fixture(autouse=True)
def _no_warnings() -> None:
    """Torch warns of what would break a recording, such as a leaf's node of another stream."""
    warnings.simplefilter("error")


def curve(x: Tensor) -> Tensor:
    return (x.sin() @ x.T).square().mean(0)


def on_card(denoiser: TorchDenoiser, batch: Batch) -> TorchDenoiser:
    """Move a denoiser and its batch."""
    for name in ("clean", "noise", "noisy", "timesteps", "camera_matrices"):
        setattr(batch, name, getattr(batch, name).to(CUDA))
    batch.text = batch.text.to(CUDA)
    noise_schedule = denoiser.noise_schedule.to(CUDA)
    return replace(
        denoiser,
        network=denoiser.network.to(CUDA),
        vae=denoiser.vae.to(CUDA),
        noise_schedule=noise_schedule,
    )


def test_values_and_gradients_are_those_of_the_function(recorder: Recorder) -> None:
    for _ in range(3):
        x = torch.rand(64, 64, device=CUDA, requires_grad=True)
        y = recorder.call("curve", curve, x)
        recorder.call("other", torch.cos, x.detach())  # in the same pool, before the backward pass
        (ours,) = torch.autograd.grad(y.sum(), x)
        (theirs,) = torch.autograd.grad(curve(x).sum(), x)
        torch.testing.assert_close(y, curve(x))
        assert_grad_close("x", ours, theirs)
    assert len(recorder) == 2


@pytest.mark.parametrize("family", NETWORKS)
def test_networks_are_replayed(recorder: Recorder, family: str) -> None:
    batch = Batch()
    plain = on_card(make(family), batch)
    replayed = replace(plain, recorder=recorder)
    for _ in range(2):
        torch.testing.assert_close(batch.base(replayed), batch.base(plain), rtol=1e-4, atol=1e-4)
        batch.noisy, batch.text = (
            batch.noise,
            TextEmbedding(batch.text.tokens.flip(0), batch.text.pooled),
        )
    assert len(recorder) == 1


def test_the_autoencoder_is_replayed_both_ways(recorder: Recorder) -> None:
    plain = on_card(make("sd"), Batch())
    replayed = replace(plain, recorder=recorder)
    for _ in range(2):
        color = torch.rand(2, 8, 8, 3, device=CUDA, requires_grad=True)
        latents = torch.randn(2, 4, 8, 8, device=CUDA, requires_grad=True)
        for name, inputs in (("encode", color), ("decode", latents)):
            theirs, ours = (getattr(each, name)(inputs) for each in (plain, replayed))
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
            expected, found = (torch.autograd.grad(y.sum(), inputs)[0] for y in (theirs, ours))
            assert_grad_close(name, found, expected)
    assert len(recorder) == 2


def test_what_waits_for_the_device_runs_as_it_is_and_the_next_is_recorded(
    recorder: Recorder,
) -> None:
    said: list[str] = []
    x = torch.rand(9, device=CUDA)
    with noticing(said.append), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = recorder.call("choice", lambda value: value[value > 0.5], x)
    torch.testing.assert_close(chosen, x[x > 0.5])
    assert len(said) == 1
    torch.testing.assert_close(recorder.call("cosine", torch.cos, x), x.cos())
    assert len(recorder) == 1


def test_recordings_share_their_memory(recorder: Recorder) -> None:
    def wide(x: Tensor) -> Tensor:
        return (x[:, None] * torch.ones(2**22, device=x.device)).sum(1)

    x = torch.rand(8, device=CUDA)
    taken = []
    for name in ("first", "second", "third"):
        recorder.call(name, wide, x)
        torch.cuda.empty_cache()
        taken.append(torch.cuda.memory_reserved())
    assert taken[2] - taken[1] < 2**25, "128 MiB each, if they did not"
