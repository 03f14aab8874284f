"""The fused optimiser: arithmetic against the reference, reference against torch, a fused run."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from host_kernels import build
from kernel_cases import assert_same_step, copied, scene_step
from vlm3d_gs.config import OptimConfig
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.kernels import AdamRule, adam_step
from vlm3d_gs.kernels.splat_adam import adam_step_reference, as_c, splat_adam
from vlm3d_gs.optimize.densify import ScreenGradients
from vlm3d_gs.optimize.optimizer import SceneOptimizer
from vlm3d_gs.render.result import Rendering

RULE = AdamRule(0.9, 0.99, 1e-15)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("visible_only", [False, True])
@pytest.mark.parametrize("rest", [0, 15])
def test_the_arithmetic_matches_the_reference(
    host: ctypes.CDLL, generator: torch.Generator, rest: int, visible_only: bool
) -> None:
    rule = replace(RULE, visible_only=visible_only)
    ours = scene_step(37, rest, 4, generator)
    expected = copied(*ours)
    host.splat_adam(*as_c(ours[0], rule, ours[1]))
    adam_step_reference(expected[0], rule, expected[1])
    assert_same_step(ours, expected)


def test_without_a_screen_only_the_tensors_move(
    host: ctypes.CDLL, generator: torch.Generator
) -> None:
    ours = scene_step(5, 3, 2, generator)
    expected = copied(*ours)
    host.splat_adam(*as_c(ours[0], RULE, None))
    adam_step_reference(expected[0], RULE, None)
    assert_same_step(ours, expected)


def test_what_no_view_sees_keeps_value_and_moments(generator: torch.Generator) -> None:
    moved, screen = scene_step(30, 3, 2, generator)
    before = copied(moved, screen)[0]
    adam_step(moved, replace(RULE, visible_only=True), screen)
    hidden = (screen.radii == 0).all(0)
    assert 0 < int(hidden.sum()) < 30
    for new, old in zip(moved, before, strict=True):
        assert torch.equal(new.value[hidden], old.value[hidden])
        assert torch.equal(new.exp_avg_sq[hidden], old.exp_avg_sq[hidden])
        assert not torch.equal(new.value[~hidden], old.value[~hidden])


def test_the_operator_declares_what_it_changes(generator: torch.Generator) -> None:
    moved, screen = scene_step(6, 3, 2, generator)
    columns = (
        [getattr(m, name) for m in moved] for name in ("value", "gradient", "exp_avg", "exp_avg_sq")
    )
    torch.library.opcheck(
        splat_adam,
        (*columns, [screen.gradient, screen.radii], [screen.total, screen.count]),
        {
            "lrs": [0.1] * len(moved),
            "steps": [3] * len(moved),
            "rule": [0.9, 0.99, 1e-15],
            "visible_only": False,
        },
        test_utils=("test_schema", "test_faketensor"),
    )


def rendering(scene: torch.Tensor, generator: torch.Generator) -> Rendering:
    """Return a rendering of which only the screen positions and radii matter."""
    n = len(scene)
    means2d = torch.zeros(2, n, 2, requires_grad=True)
    means2d.grad = torch.randn(2, n, 2, generator=generator)
    picture = torch.zeros(2, 1, 1, 3)
    radii = torch.rand(2, n, generator=generator).round()
    return Rendering(picture, picture[..., :1], picture[..., :1], radii, means2d)


def test_a_fused_run_is_the_plain_one_and_its_checkpoint_fits_both(
    generator: torch.Generator,
) -> None:
    start = ball(9, 0.5, generator, sh_degree=1, color_noise=0.1)
    plain = SceneOptimizer(start, OptimConfig())
    fused = SceneOptimizer(start, OptimConfig(fused=True))
    sums = [ScreenGradients.empty(9, start.device) for _ in range(2)]

    def step(optimizer: SceneOptimizer, at: int) -> None:
        optimizer.zero_grad()
        values = optimizer.gaussians.parameters().values()
        sum((value - 0.3).square().sum() for value in values).backward()
        drawn = rendering(start.means, torch.Generator().manual_seed(at))
        if optimizer.config.fused:
            optimizer.step(0.1 * at, sums[1].pending(drawn))
        else:
            sums[0].add(drawn)
            optimizer.step(0.1 * at)

    for at in range(4):
        step(plain, at)
        step(fused, at)
    torch.testing.assert_close(sums[1].total, sums[0].total)
    assert torch.equal(sums[1].count, sums[0].count)
    kept = {name: value.clone() for name, value in fused.state_tensors().items()}
    assert kept.keys() == plain.state_tensors().keys()
    plain.load_state_tensors(kept)
    fused.load_state_tensors(kept)
    for at in range(4, 8):
        step(plain, at)
        step(fused, at)
    for name, value in plain.state_tensors().items():
        torch.testing.assert_close(
            fused.state_tensors()[name], value, rtol=1e-5, atol=1e-6, msg=name
        )


def test_the_makefile_names_the_library_that_is_looked_for(repo_root: Path) -> None:
    from vlm3d_gs.kernels.library import LIBRARY

    assert LIBRARY.name in (repo_root / "cuda" / "Makefile").read_text()
