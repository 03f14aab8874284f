"""Noise and relocation of densification by sampling: arithmetic on the host, references, properties."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from torch import Tensor

from host_kernels import build
from kernel_cases import faint_and_opaque
from vlm3d_gs.core.rotations import quat_to_rotmat
from vlm3d_gs.kernels import perturb_means, relocate
from vlm3d_gs.kernels.mcmc import (
    MAX_COPIES,
    SHARPNESS,
    CPerturbation,
    CRelocation,
    perturb_means_reference,
    relocate_reference,
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("kernels"))


def test_the_arithmetic_of_the_noise_matches_the_reference(
    host: ctypes.CDLL, generator: torch.Generator
) -> None:
    means, *rest = faint_and_opaque(500, generator)
    expected = means.clone()
    host.perturb(CPerturbation.of(means, *rest, noise_scale=3.0, min_opacity=0.05))
    perturb_means_reference(expected, *rest, noise_scale=3.0, min_opacity=0.05)
    torch.testing.assert_close(means, expected, rtol=1e-5, atol=1e-5)


def test_the_arithmetic_of_the_relocation_matches_the_reference(host: ctypes.CDLL) -> None:
    logits = torch.linspace(-9.0, 12.0, 300)
    copies = (torch.arange(300) % MAX_COPIES + 1).int()
    log_scales = torch.linspace(-6.0, 1.0, 900).reshape(300, 3)
    ours = torch.empty_like(logits), torch.empty_like(log_scales)
    host.relocate(CRelocation.of(logits, log_scales, copies, *ours))
    for mine, theirs in zip(ours, relocate_reference(logits, log_scales, copies), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("copies", [1, 2, 5, MAX_COPIES])
@pytest.mark.parametrize("opacity", [0.02, 0.5, 0.999])
def test_the_copies_together_hide_what_the_one_did(opacity: float, copies: int) -> None:
    logits, log_scales = torch.tensor([opacity]).logit(), torch.tensor([[0.0, -1.0, -2.0]])
    counts = torch.tensor([copies], dtype=torch.int32)
    new_logits, new_scales = relocate(logits, log_scales, counts)
    torch.testing.assert_close((1.0 - new_logits.sigmoid()) ** copies, 1.0 - logits.sigmoid())
    ratio = (new_scales - log_scales).exp()
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))  # of the same shape
    along = torch.linspace(-12.0, 12.0, 20_001, dtype=torch.float64)

    def bell(scale: float) -> Tensor:
        return (-0.5 * (along / scale) ** 2).exp()

    hidden = torch.trapezoid(opacity * bell(1.0), along)
    together = 1.0 - (1.0 - new_logits.double().sigmoid() * bell(ratio[0, 0].item())) ** copies
    torch.testing.assert_close(torch.trapezoid(together, along), hidden, rtol=2e-5, atol=0.0)


@pytest.mark.parametrize(("opacity", "copies"), [(0.3, 2), (0.9, 7), (0.6, 30)])
def test_the_scale_is_that_of_the_papers_double_sum(opacity: float, copies: int) -> None:
    shared = 1.0 - (1.0 - opacity) ** (1.0 / copies)
    hidden = sum(
        math.comb(i - 1, k) * (-1.0) ** k * shared ** (k + 1) / math.sqrt(k + 1)
        for i in range(1, copies + 1)
        for k in range(i)
    )
    logits, counts = torch.tensor([opacity]).logit(), torch.tensor([copies], dtype=torch.int32)
    new_scales = relocate(logits, torch.zeros(1, 3), counts)[1].exp()
    torch.testing.assert_close(new_scales, torch.full((1, 3), opacity / hidden))


def test_one_copy_changes_nothing() -> None:
    logits, log_scales = torch.linspace(-4.0, 9.0, 20), torch.zeros(20, 3)
    unchanged = relocate(logits, log_scales, torch.ones(20, dtype=torch.int32))
    torch.testing.assert_close(unchanged, (logits, log_scales), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_noise_is_a_covariance_times_the_gate(generator: torch.Generator, axis: int) -> None:
    means, log_scales, quats, logits, noise = faint_and_opaque(40, generator)
    noise = torch.zeros_like(noise)
    noise[:, axis] = 1.0
    before = means.clone()
    perturb_means(means, log_scales, quats, logits, noise, noise_scale=2.0, min_opacity=0.1)
    spread = quat_to_rotmat(quats) * log_scales.exp()[:, None]
    gate = 1.0 / (1.0 + (-SHARPNESS * (0.1 - logits.sigmoid())).exp())
    expected = 2.0 * gate[:, None] * (spread @ spread.mT)[:, :, axis]
    torch.testing.assert_close(means - before, expected, rtol=1e-4, atol=1e-6)
    opaque = logits.sigmoid() > 0.3
    assert 0 < int(opaque.sum()) < 40
    assert (means - before)[opaque].abs().max() < 1e-6


def test_the_operators_declare_what_they_change(generator: torch.Generator) -> None:
    tensors = faint_and_opaque(5, generator)
    checks = ("test_schema", "test_faketensor")
    amounts = {"noise_scale": 1.0, "min_opacity": 0.1}
    torch.library.opcheck(perturb_means, tensors, amounts, test_utils=checks)
    places = (tensors[3], tensors[1], torch.ones(5, dtype=torch.int32))
    torch.library.opcheck(relocate, places, test_utils=checks)
