"""The fused reconstruction step: its arithmetic on the host against the twin, the twin against `guidance`."""

from __future__ import annotations

import ctypes

import pytest
import torch

from gradients import assert_grad_close
from host_kernels import build
from kernel_cases import GUIDED, answers
from vlm3d_gs.kernels import add_noise, reconstruction_loss
from vlm3d_gs.kernels.distillation import (
    PREDICTIONS,
    CLevels,
    CReconstruction,
    Guided,
    noised,
    reconstruction,
)
from vlm3d_gs.kernels.library import address
from vlm3d_gs.prior import distillation, noise


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("guided", GUIDED, ids=lambda guided: guided.predicts)
def test_the_arithmetic_is_the_twins(
    host: ctypes.CDLL, generator: torch.Generator, guided: Guided
) -> None:
    (latents, *said), levels = answers(4, 5, generator)
    gradient, loss = torch.empty_like(latents), torch.empty(())
    host.reconstruction(CReconstruction.of((latents, *said), levels, guided, gradient, loss))
    leaf = latents.clone().requires_grad_()
    expected = reconstruction_loss(leaf, *said, levels, guided)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=0.0)
    assert_grad_close("latents", gradient, leaf.grad)


@pytest.mark.parametrize("guided", GUIDED, ids=lambda guided: guided.predicts)
def test_the_twin_is_the_loss_of_the_prior(generator: torch.Generator, guided: Guided) -> None:
    (latents, noisy, without, given), levels = answers(4, 5, generator)
    process = noise.NoiseProcess(
        levels.signal,
        levels.sigma,
        torch.arange(100),
        PREDICTIONS[PREDICTIONS.index(guided.predicts)],
    )
    output = without + guided.scale * (given - without)
    clean, _ = noise.clean_and_noise(process, output, noisy, levels.index)
    conditional, _ = noise.clean_and_noise(process, given, noisy, levels.index)
    target = distillation.rescale_clean(clean, conditional, guided.share, guided.n_views)
    ours, theirs = latents.clone().requires_grad_(), latents.clone().requires_grad_()
    loss = reconstruction_loss(ours, noisy, without, given, levels, guided)
    expected = distillation.reconstruction_loss(theirs, target)
    (2.0 * loss).backward()
    (2.0 * expected).backward()
    torch.testing.assert_close(loss, expected)
    assert_grad_close("latents", ours.grad, theirs.grad)


def test_noise_is_added_as_the_process_says(host: ctypes.CDLL, generator: torch.Generator) -> None:
    (clean, eps, *_), levels = answers(4, 5, generator)
    process = noise.NoiseProcess(levels.signal, levels.sigma, torch.arange(100), "epsilon")
    expected = noise.add_noise(process, clean, eps, levels.index)
    noisy = torch.empty_like(clean)
    host.add_noise(
        *map(ctypes.c_void_p, (address(clean), address(eps))),
        CLevels.of(levels),
        *map(ctypes.c_int64, (clean[0].numel(), clean.numel())),
        ctypes.c_void_p(address(noisy)),
    )
    torch.testing.assert_close(noisy, expected)
    torch.testing.assert_close(add_noise(clean, eps, levels), expected)


def test_predictions_have_the_names_of_the_noise_process() -> None:
    assert PREDICTIONS == noise.PREDICTION_TYPES


def test_the_operators_say_the_truth_about_themselves(generator: torch.Generator) -> None:
    tensors, levels = answers(4, 3, generator)
    torch.library.opcheck(noised, (*tensors[:2], *levels))
    latents = tensors[0].requires_grad_()
    torch.library.opcheck(
        reconstruction,
        (latents, *tensors[1:], *levels),
        {"predicts": 0, "guidance": [7.5, 0.5], "n_views": 2},
    )
