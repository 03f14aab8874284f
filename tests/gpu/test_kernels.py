"""The CUDA kernels against their references, on the device; `make cuda` builds them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernel_cases import assert_same_step, copied, faint_and_opaque, scene_step
from vlm3d_gs.config import OptimConfig
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.kernels import AdamRule, adam_step, available, perturb_means, relocate
from vlm3d_gs.kernels.library import accepts, load
from vlm3d_gs.kernels.mcmc import MAX_COPIES, perturb_means_reference, relocate_reference
from vlm3d_gs.kernels.splat_adam import adam_step_reference
from vlm3d_gs.optimize.optimizer import SceneOptimizer
from vlm3d_gs.runs.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.gpu

RULE = AdamRule(0.9, 0.99, 1e-15)


@pytest.fixture
def built() -> None:
    if not available():
        pytest.skip(load()[1])


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("visible_only", [False, True])
@pytest.mark.parametrize(("n", "rest"), [(1, 0), (1_003, 15), (100_000, 3), (1_000_000, 0)])
def test_a_step_of_the_optimiser(
    generator: torch.Generator, n: int, rest: int, visible_only: bool
) -> None:
    rule = replace(RULE, visible_only=visible_only)
    ours = scene_step(n, rest, 4, generator, "cuda")
    expected = copied(*ours)
    assert accepts(*(moved.value for moved in ours[0]), ours[1].radii)
    adam_step(ours[0], rule, ours[1])
    adam_step_reference(expected[0], rule, expected[1])
    assert_same_step(ours, expected)


@pytest.mark.usefixtures("built")
def test_values_that_do_not_begin_at_sixteen_bytes(generator: torch.Generator) -> None:
    moved, screen = scene_step(301, 3, 2, generator, "cuda")
    shifted = [
        replace(m, value=torch.cat([m.value.new_zeros(1), m.value.flatten()])[1:].view_as(m.value))
        for m in moved
    ]
    expected = copied(moved, screen)
    adam_step(shifted, RULE, screen)
    adam_step_reference(expected[0], RULE, expected[1])
    assert_same_step((shifted, screen), expected)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("n", [1, 1_003, 100_000])
def test_the_noise_of_sampling(generator: torch.Generator, n: int) -> None:
    means, *rest = faint_and_opaque(n, generator, "cuda")
    expected = means.clone()
    assert accepts(means, *rest)
    perturb_means(means, *rest, noise_scale=3.0, min_opacity=0.05)
    perturb_means_reference(expected, *rest, noise_scale=3.0, min_opacity=0.05)
    torch.testing.assert_close(means, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("built")
def test_relocation(generator: torch.Generator) -> None:
    _, log_scales, _, logits, _ = faint_and_opaque(1_003, generator, "cuda")
    copies = torch.randint(1, MAX_COPIES + 1, (1_003,), generator=generator).int().cuda()
    ours = relocate(logits, log_scales, copies)
    for mine, theirs in zip(ours, relocate_reference(logits, log_scales, copies), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_relocation_is_gsplats(generator: torch.Generator) -> None:
    relocation = pytest.importorskip("gsplat.relocation", reason="gsplat is not installed")
    _, log_scales, _, logits, _ = faint_and_opaque(500, generator, "cuda")
    copies = torch.randint(1, 12, (500,), generator=generator).int().cuda()
    table = [[float(math.comb(n, k)) for k in range(MAX_COPIES)] for n in range(MAX_COPIES)]
    opacities, scales = relocation.compute_relocation(
        logits.sigmoid(), log_scales.exp(), copies.clone(), torch.tensor(table).cuda()
    )
    ours = relocate_reference(logits, log_scales, copies)
    torch.testing.assert_close(ours[0].sigmoid(), opacities, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours[1].exp(), scales, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_a_restored_optimiser_goes_on_on_the_device(
    generator: torch.Generator, tmp_path: Path, fused: bool
) -> None:
    if fused and not available():
        pytest.skip(load()[1])
    start = ball(50, 0.5, generator, sh_degree=1, color_noise=0.1).to("cuda")
    first = SceneOptimizer(start, OptimConfig(fused=fused))

    def step(optimizer: SceneOptimizer) -> None:
        optimizer.zero_grad()
        values = optimizer.gaussians.parameters().values()
        sum((value - 0.3).square().sum() for value in values).backward()
        optimizer.step(0.5)

    step(first)
    save_checkpoint(tmp_path / "c.safetensors", step=1, tensors=first.state_tensors(), meta={})
    second = SceneOptimizer(start, OptimConfig(fused=fused))
    second.load_state_tensors(load_checkpoint(tmp_path / "c.safetensors").tensors)
    for optimizer in (first, second):
        step(optimizer)
    for name, value in first.gaussians.parameters().items():
        assert torch.equal(value, second.gaussians.parameters()[name]), name
