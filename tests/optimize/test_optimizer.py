"""Adam over a scene, and what happens to its moments when Gaussians come and go."""

from __future__ import annotations

import pytest
import torch

from vlm3d_gs.config import OptimConfig
from vlm3d_gs.config.schedules import constant, linear
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.optimize.optimizer import SceneOptimizer


def scene(generator: torch.Generator, n: int = 6, degree: int = 1) -> Gaussians:
    return ball(n, 0.5, generator, sh_degree=degree, color_noise=0.1)


def step_towards_origin(optimizer: SceneOptimizer, fraction: float = 0.0) -> None:
    optimizer.zero_grad()
    sum(value.square().sum() for value in optimizer.gaussians.parameters().values()).backward()
    optimizer.step(fraction)


def test_first_step_moves_each_parameter_by_its_learning_rate(generator: torch.Generator) -> None:
    start = scene(generator)
    config = OptimConfig(means_lr=linear(0.5, 0.1), sh_lr=constant(0.02))
    optimizer = SceneOptimizer(start, config)
    step_towards_origin(optimizer, 0.5)
    moved = optimizer.gaussians
    torch.testing.assert_close((moved.means - start.means).abs(), torch.full_like(start.means, 0.3))
    first = (moved.sh[:, :1] - start.sh[:, :1]).abs()
    torch.testing.assert_close(first, torch.full_like(first, 0.02))


def test_higher_harmonics_learn_a_twentieth_as_fast(generator: torch.Generator) -> None:
    start = scene(generator)
    start = Gaussians(**{**start.parameters(), "sh": start.sh + 1.0})
    optimizer = SceneOptimizer(start, OptimConfig(sh_lr=constant(0.02)))
    step_towards_origin(optimizer)
    rest = (optimizer.gaussians.sh[:, 1:] - start.sh[:, 1:]).abs()
    torch.testing.assert_close(rest, torch.full_like(rest, 0.001), atol=1e-6, rtol=1e-4)


def test_moments_follow_their_gaussians_and_start_at_zero_for_new_ones(
    generator: torch.Generator,
) -> None:
    optimizer = SceneOptimizer(scene(generator), OptimConfig())
    step_towards_origin(optimizer)
    before = {name: value.clone() for name, value in optimizer.state_tensors().items()}
    source, fresh = torch.tensor([4, 1, 1]), torch.tensor([False, False, True])
    optimizer.replace(optimizer.gaussians.detach().select(source), source, fresh)
    after = optimizer.state_tensors()
    for name in ("means", "opacity_logits", "sh_rest"):
        moved = after[f"adam.exp_avg.{name}"]
        torch.testing.assert_close(moved[:2], before[f"adam.exp_avg.{name}"][source[:2]])
        assert moved[2].abs().sum() == 0
    step_towards_origin(optimizer)
    assert len(optimizer.gaussians) == 3


def test_restored_state_goes_on_bit_for_bit(generator: torch.Generator) -> None:
    first = SceneOptimizer(scene(generator), OptimConfig())
    for _ in range(3):
        step_towards_origin(first)
    kept = {name: value.clone() for name, value in first.state_tensors().items()}
    second = SceneOptimizer(scene(generator, n=2), OptimConfig())
    second.load_state_tensors(kept)
    for optimizer in (first, second):
        for _ in range(3):
            step_towards_origin(optimizer, 0.5)
    for name, value in first.gaussians.parameters().items():
        assert torch.equal(value, second.gaussians.parameters()[name]), name


def test_descent_reaches_the_minimum(generator: torch.Generator) -> None:
    optimizer = SceneOptimizer(scene(generator), OptimConfig(means_lr=linear(0.05, 0.0)))
    for step in range(200):
        step_towards_origin(optimizer, step / 200)
    assert optimizer.gaussians.means.abs().max().item() == pytest.approx(0.0, abs=1e-2)
