"""Each term falls when the scene gets cleaner in its sense."""

from __future__ import annotations

import pytest
import torch

from vlm3d_gs.config import RegularizerConfig
from vlm3d_gs.config.schedules import constant, linear
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.optimize import regularizers


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
    alpha = torch.full((1, 4, 4, 1), 0.25, requires_grad=True)
    config = RegularizerConfig(coverage=linear(0.0, 2.0), scale=constant(0.0))
    total, values = regularizers.regularize(scene(), alpha, config, 0.5)
    assert values == {"coverage": 0.25}
    assert total.item() == pytest.approx(0.25)
    nothing, none = regularizers.regularize(scene(), alpha, config, 0.0)
    assert (nothing.item(), none) == (0.0, {})
