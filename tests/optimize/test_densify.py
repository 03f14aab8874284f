"""Rounds of growth and pruning."""

from __future__ import annotations

import torch

from vlm3d_gs.config import DensifyConfig
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.optimize.densify import (
    SPLIT_SHRINK,
    ScreenGradients,
    densify,
    is_reset,
    is_round,
    keep_mask,
    lower_opacities,
)
from vlm3d_gs.render import render

CONFIG = DensifyConfig(grow_share=0.2, split_scale=0.05, prune_opacity=0.02)


def scene(generator: torch.Generator, n: int = 20) -> Gaussians:
    start = ball(n, 0.4, generator, opacity=0.5)
    return Gaussians(**{**start.parameters(), "log_scales": torch.full((n, 3), -4.0)})


def gradients(values: torch.Tensor) -> ScreenGradients:
    return ScreenGradients(values, torch.ones_like(values))


def test_the_largest_gradients_are_cloned_where_small_and_split_where_large(
    generator: torch.Generator,
) -> None:
    start = scene(generator)
    start.log_scales[3] = -1.0
    stats = torch.zeros(20)
    stats[[3, 7]] = torch.tensor([5.0, 4.0])
    result = densify(start, gradients(stats), DensifyConfig(grow_share=0.1), 100, generator)
    assert len(result.gaussians) == 22
    assert result.source[result.fresh].tolist() == [7, 3, 3]
    assert 3 not in result.source[~result.fresh].tolist()
    halves = result.gaussians.select(result.source == 3)
    torch.testing.assert_close(halves.scales, start.scales[3].expand(2, 3) / SPLIT_SHRINK)
    clone = result.gaussians.select(result.fresh & (result.source == 7))
    torch.testing.assert_close(clone.means[0], start.means[7])


def test_faint_large_and_far_gaussians_go(generator: torch.Generator) -> None:
    start = scene(generator)
    start.opacity_logits[0] = -8.0
    start.log_scales[1] = 1.0
    start.means[2] = torch.tensor([3.0, 0.0, 0.0])
    assert keep_mask(start, CONFIG).nonzero()[:, 0].tolist() == list(range(3, 20))
    result = densify(
        start, gradients(torch.zeros(20)), DensifyConfig(grow_share=0.0), 100, generator
    )
    assert result.source.tolist() == list(range(3, 20))


def test_the_cap_holds_and_the_last_gaussian_stays(generator: torch.Generator) -> None:
    start = scene(generator)
    assert len(densify(start, gradients(torch.rand(20)), CONFIG, 21, generator).gaussians) == 21
    faint = Gaussians(**{**start.parameters(), "opacity_logits": torch.linspace(-9.0, -8.0, 20)})
    result = densify(
        faint, gradients(torch.rand(20)), DensifyConfig(grow_share=0.0), 100, generator
    )
    assert result.source.tolist() == [19]


def test_rounds_are_fractions_so_twice_the_steps_have_as_many() -> None:
    config = DensifyConfig(start=0.1, stop=0.7, every=0.1)
    for steps in (100, 200, 350):
        rounds = [step for step in range(steps) if is_round(step, steps, config)]
        assert len(rounds) == 7, (steps, rounds)
        assert rounds[0] == round(0.1 * steps) - 1
        assert rounds[-1] <= 0.7 * steps
    assert not any(is_round(step, 100, DensifyConfig(enabled=False)) for step in range(100))


def test_statistics_come_from_the_renders_gradient(generator: torch.Generator) -> None:
    start = scene(generator).requires_grad_()
    cameras = orbit([0.0, 90.0], 10.0, 3.0, 40.0, 32, 32)
    rendering = render(start, cameras, backend="cpu")
    rendering.color[0].square().sum().backward()
    stats = ScreenGradients.empty(20, torch.device("cpu"))
    stats.add(rendering)
    assert rendering.means2d.grad is not None
    # Per half a picture of 32 px, times two views, as gsplat's strategy has it.
    torch.testing.assert_close(stats.total, 32.0 * rendering.means2d.grad.norm(dim=-1).sum(0))
    assert (stats.count == 2).all()
    assert stats.mean.max() > 0


def test_pruning_afterwards_splits_what_pruning_first_removes(generator: torch.Generator) -> None:
    start = scene(generator)
    start.log_scales[3] = 0.0  # larger than prune_scale, and with the largest gradient
    common = {"grow_share": 0.05, "prune_scale": 0.9, "prune_radius": 100.0}
    first = densify(
        start, gradients(torch.arange(20.0).roll(4)), DensifyConfig(**common), 100, generator
    )
    after = densify(
        start,
        gradients(torch.arange(20.0).roll(4)),
        DensifyConfig(**common, prune="after"),
        100,
        generator,
    )
    assert 3 not in first.source.tolist()
    assert after.source.tolist().count(3) == 2
    assert after.fresh[after.source == 3].all()


def test_a_reset_lowers_opacities_and_comes_at_its_interval(generator: torch.Generator) -> None:
    config = DensifyConfig(reset_every=0.25, stop=0.6, prune_opacity=0.05)
    start = scene(generator)
    lowered = lower_opacities(start, config)
    torch.testing.assert_close(
        lowered.gaussians.opacities, start.opacities.clamp_max(0.1), atol=1e-6, rtol=1e-5
    )
    assert [step for step in range(100) if is_reset(step, 100, config)] == [24, 49]
    assert not any(is_reset(step, 100, DensifyConfig()) for step in range(100))
