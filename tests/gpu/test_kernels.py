"""The own CUDA kernels against their twins, on the device; `make cuda` builds them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradients import assert_grad_close
from kernel_cases import (
    CLIP,
    CUTS,
    GUIDED,
    answers,
    assert_same_step,
    copied,
    faint_and_opaque,
    pictures,
    scene_step,
)
from vlm3d_gs.config import OptimConfig
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.kernels import (
    AdamRule,
    Cut,
    adam_step,
    add_noise,
    available,
    critic_patches,
    perturb_means,
    reconstruction_loss,
    relocated,
)
from vlm3d_gs.kernels.critic_patches import cut_pictures, gather_pictures, twin_backward
from vlm3d_gs.kernels.critic_patches import twin as patches_twin
from vlm3d_gs.kernels.distillation import Guided, noised_twin, target_twin
from vlm3d_gs.kernels.library import load, takes
from vlm3d_gs.kernels.mcmc import MOST_COPIES, perturb_twin, relocated_twin
from vlm3d_gs.kernels.splat_adam import twin
from vlm3d_gs.optimize.optimizer import SceneOptimizer
from vlm3d_gs.runs.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.gpu

RULE = AdamRule(0.9, 0.99, 1e-15)


@pytest.fixture
def built() -> None:
    if not available():
        pytest.skip(load()[1])


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("only_seen", [False, True])
@pytest.mark.parametrize(("n", "rest"), [(1, 0), (1_003, 15), (100_000, 3), (1_000_000, 0)])
def test_a_step_of_the_optimiser(
    generator: torch.Generator, n: int, rest: int, only_seen: bool
) -> None:
    rule = replace(RULE, only_seen=only_seen)
    ours = scene_step(n, rest, 4, generator, "cuda")
    expected = copied(*ours)
    assert takes(*(moved.value for moved in ours[0]), ours[1].radii)
    adam_step(ours[0], rule, ours[1])
    twin(expected[0], rule, expected[1])
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
    twin(expected[0], RULE, expected[1])
    assert_same_step((shifted, screen), expected)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(("batch", "side"), [(4, 5), (4, 32), (8, 64)])
@pytest.mark.parametrize("guided", GUIDED, ids=lambda guided: guided.predicts)
def test_the_reconstruction_step(
    generator: torch.Generator, guided: Guided, batch: int, side: int
) -> None:
    (latents, *said), levels = answers(batch, side, generator, "cuda")
    torch.testing.assert_close(
        add_noise(latents, said[0], levels), noised_twin(latents, said[0], levels)
    )
    leaf = latents.clone().requires_grad_()
    loss = reconstruction_loss(leaf, *said, levels, guided)
    (3.0 * loss).backward()
    residual = latents - target_twin(*said, levels, guided)
    expected = 0.5 * residual.double().square().sum() / batch
    torch.testing.assert_close(loss.detach().double(), expected, rtol=1e-4, atol=0.0)
    assert_grad_close("latents", leaf.grad, 3.0 * residual / batch)
    again = reconstruction_loss(latents, *said, levels, guided)
    assert torch.equal(again, loss.detach())


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("size", "cut"), [*CUTS.values(), ((256, 256), Cut((252, 252), 14, 2, 2, **CLIP))]
)
def test_the_image_path_of_the_critic(
    generator: torch.Generator, size: tuple[int, int], cut: Cut
) -> None:
    images = pictures(4, size, generator, "cuda")
    plain = ([*cut.size, cut.patch, cut.merge, cut.frames], [*cut.mean], [*cut.std])
    patches, inside = cut_pictures(images, *plain)
    expected, unclamped = patches_twin(images, cut)
    # torch takes its weights in float32 from positions up to 256, ours are rounded once
    torch.testing.assert_close(patches, expected, rtol=1e-5, atol=3e-4)
    # a value that is 1 but for rounding may fall on either side
    assert int((inside != unclamped).sum()) <= 3
    slope = torch.randn(patches.shape, generator=generator).cuda()
    d_images = gather_pictures(slope, images, inside, *plain)
    assert_grad_close("images", d_images, twin_backward(slope, images, inside, cut))
    leaf = images.clone().requires_grad_()
    critic_patches(leaf, cut).backward(slope)
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, d_images)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("n", [1, 1_003, 100_000])
def test_the_noise_of_sampling(generator: torch.Generator, n: int) -> None:
    means, *rest = faint_and_opaque(n, generator, "cuda")
    expected = means.clone()
    assert takes(means, *rest)
    perturb_means(means, *rest, amount=3.0, dead=0.05)
    perturb_twin(expected, *rest, amount=3.0, dead=0.05)
    torch.testing.assert_close(means, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("built")
def test_relocation(generator: torch.Generator) -> None:
    _, log_scales, _, logits, _ = faint_and_opaque(1_003, generator, "cuda")
    copies = torch.randint(1, MOST_COPIES + 1, (1_003,), generator=generator).int().cuda()
    ours = relocated(logits, log_scales, copies)
    for mine, theirs in zip(ours, relocated_twin(logits, log_scales, copies), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_relocation_is_gsplats(generator: torch.Generator) -> None:
    relocation = pytest.importorskip("gsplat.relocation", reason="gsplat is not installed")
    _, log_scales, _, logits, _ = faint_and_opaque(500, generator, "cuda")
    copies = torch.randint(1, 12, (500,), generator=generator).int().cuda()
    table = [[float(math.comb(n, k)) for k in range(MOST_COPIES)] for n in range(MOST_COPIES)]
    opacities, scales = relocation.compute_relocation(
        logits.sigmoid(), log_scales.exp(), copies.clone(), torch.tensor(table).cuda()
    )
    ours = relocated_twin(logits, log_scales, copies)
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
