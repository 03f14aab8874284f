"""Each term falls when the scene gets cleaner in its sense."""

from __future__ import annotations

import pytest
import torch

from vlm3d_gs.config import RegularizerConfig
from vlm3d_gs.config.schedules import constant, linear
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.optimize import regularizers
from vlm3d_gs.render.result import Rendering


def scene(**changes: torch.Tensor) -> Gaussians:
    start = ball(10, 0.4, torch.Generator().manual_seed(0))
    return Gaussians(**{**start.parameters(), **changes})


def test_entropy_is_nothing_at_the_ends_and_one_bit_in_the_middle() -> None:
    assert regularizers.alpha_entropy(torch.tensor([0.0, 1.0])).item() == pytest.approx(0, abs=1e-3)
    assert regularizers.alpha_entropy(torch.tensor([0.5])).item() == pytest.approx(1.0)
    assert regularizers.opacity_entropy(
        scene(opacity_logits=torch.zeros(10))
    ).item() == pytest.approx(1)


def test_flatness_counts_needles_only() -> None:
    round_one = scene(log_scales=torch.zeros(10, 3))
    needle = scene(log_scales=torch.tensor([3.0, 0.0, 0.0]).expand(10, 3))
    disc = scene(log_scales=torch.tensor([3.0, 3.0, 0.0]).expand(10, 3))
    assert regularizers.flatness(round_one) == regularizers.flatness(disc) == 0
    assert regularizers.flatness(needle).item() == pytest.approx(
        3.0 - torch.tensor(4.0).log().item()
    )


def test_floater_grows_with_distance_and_opacity_but_not_with_the_place() -> None:
    start = scene()
    shifted = scene(means=start.means + 5.0)
    torch.testing.assert_close(regularizers.floater(start), regularizers.floater(shifted))
    apart = scene(means=start.means * 2.0)
    assert regularizers.floater(apart).item() == pytest.approx(
        4 * regularizers.floater(start).item()
    )


def test_scale_of_a_tenth_counts_one() -> None:
    same = scene(log_scales=torch.full((10, 3), 0.1).log())
    assert regularizers.scale(same).item() == pytest.approx(1.0)


def test_opacity_pulls_on_all_alike() -> None:
    start = scene(opacity_logits=torch.linspace(-3.0, 3.0, 10)).requires_grad_()
    regularizers.opacity(start).backward()
    assert start.opacity_logits.grad is not None
    slope = start.opacities * (1.0 - start.opacities) / 10.0
    torch.testing.assert_close(start.opacity_logits.grad, slope.detach())


def test_only_weighted_terms_are_computed_and_weights_follow_the_run() -> None:
    alpha, none = torch.full((1, 4, 4, 1), 0.25, requires_grad=True), torch.zeros(1, 10)
    rendering = Rendering(torch.rand(1, 4, 4, 3), alpha, alpha, none, none)
    config = RegularizerConfig(coverage=linear(0.0, 2.0), roughness=constant(0.0))
    total, values = regularizers.regularize(scene(), rendering, config, 0.5)
    assert values == {"coverage": 0.25}
    assert total.item() == pytest.approx(0.25)
    nothing, no_values = regularizers.regularize(scene(), rendering, config, 0.0)
    assert (nothing.item(), no_values) == (0.0, {})


def surface(height: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Depth, opacity and one colour of a surface [H, W] that fills the picture."""
    depth = 3.0 + height[None, :, :, None]
    return depth, torch.ones_like(depth), torch.full((*depth.shape[:3], 3), 0.5)


def test_planes_and_balls_are_smooth_and_dents_are_not() -> None:
    rows, columns = torch.meshgrid(
        torch.linspace(-0.5, 0.5, 32, dtype=torch.float64),
        torch.linspace(-0.5, 0.5, 32, dtype=torch.float64),
        indexing="ij",
    )
    radius = rows**2 + columns**2
    plane = float(regularizers.roughness(*surface(0.3 * rows - 0.2 * columns)))
    ball = float(regularizers.roughness(*surface(-(1.0 - radius).sqrt())))
    dent = float(regularizers.roughness(*surface(0.1 * torch.exp(-radius / 0.02))))
    assert plane < 1e-9
    assert ball < 0.2 * dent


def test_edges_of_depth_and_of_colour_are_no_dents() -> None:
    step = torch.zeros(16, 16, dtype=torch.float64)
    step[:, 8:] = 0.5
    assert float(regularizers.roughness(*surface(step))) == 0.0

    step[:, 8:] = 0.02
    depth, alpha, picture = surface(step)
    plain = float(regularizers.roughness(depth, alpha, picture))
    picture[:, :, 8:] = 1.0
    assert 0.0 < float(regularizers.roughness(depth, alpha, picture)) < 0.01 * plain
    assert float(regularizers.roughness(depth, 0.5 * alpha, picture)) == 0.0


def test_roughness_has_the_right_gradient_and_touches_depth_alone() -> None:
    depth = 3.0 + 0.01 * torch.randn(1, 6, 7, 1, dtype=torch.float64)
    alpha = torch.ones_like(depth).requires_grad_()
    picture = torch.rand(1, 6, 7, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda d: regularizers.roughness(d, alpha, picture), (depth.requires_grad_(),)
    )
    regularizers.roughness(depth, alpha, picture).backward()
    assert alpha.grad is None
    assert picture.grad is None
