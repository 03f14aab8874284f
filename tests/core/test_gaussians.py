"""The Gaussians record."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from oracles import draw_scene
from vlm3d_gs.config import OptimConfig
from vlm3d_gs.core.errors import ConfigError, ShapeError
from vlm3d_gs.core.gaussians import (
    PARAMETER_NAMES,
    Gaussians,
    concatenate,
    validate,
    with_sh_degree,
)
from vlm3d_gs.core.rotations import compose_covariances
from vlm3d_gs.formats.world import rotate_gaussians
from vlm3d_gs.optimize.optimizer import SceneOptimizer


def equal(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.parameters().values(), b.parameters().values(), strict=True)
    )


def test_activated_views():
    scene = draw_scene(6, 0, 2)
    torch.testing.assert_close(scene.scales.log(), scene.log_scales)
    torch.testing.assert_close(torch.logit(scene.opacities), scene.opacity_logits)
    assert torch.equal(scene.covariances, compose_covariances(scene.quats, scene.scales))
    assert float(scene.colors.min()) >= 0.0
    assert (len(scene), scene.sh_degree, scene.dtype) == (6, 2, torch.float32)


def test_parameters_and_back():
    scene = draw_scene(4, 1, 1)
    assert tuple(scene.parameters()) == PARAMETER_NAMES
    assert equal(Gaussians.from_parameters(scene.parameters()), scene)
    with pytest.raises(ConfigError, match="made of means, log_scales"):
        Gaussians.from_parameters({"means": scene.means})


@pytest.mark.parametrize("name", PARAMETER_NAMES)
def test_each_parameter_must_fit_the_others(name):
    parameters = draw_scene(4, 2).parameters()
    parameters[name] = torch.cat([parameters[name]] * 2)
    with pytest.raises(ShapeError, match="gaussians"):
        Gaussians(**parameters)
    parameters = draw_scene(4, 2).parameters()
    parameters[name] = parameters[name].double()
    with pytest.raises(ShapeError, match="floating dtype"):
        Gaussians(**parameters)


def test_five_coefficients_are_no_degree():
    parameters = draw_scene(4, 2).parameters()
    parameters["sh"] = torch.zeros(4, 5, 3)
    with pytest.raises(ShapeError, match="1, 4, 9 or 16"):
        Gaussians(**parameters)


def test_select_and_concatenate_are_inverse():
    scene = draw_scene(9, 3)
    mask = torch.arange(9) < 4
    assert equal(concatenate([scene.select(mask), scene.select(~mask)]), scene)
    assert len(scene.select(torch.tensor([8, 8, 0]))) == 3
    with pytest.raises(ShapeError, match="index"):
        scene.select(mask[:3])


def test_concatenate_refuses_what_does_not_belong_together():
    with pytest.raises(ConfigError, match="at least one scene"):
        concatenate([])
    with pytest.raises(ShapeError, match=r"same spherical-harmonics degree, got \[0, 1\]"):
        concatenate([draw_scene(1, 0, 0), draw_scene(1, 0, 1)])
    with pytest.raises(ShapeError, match="dtype and device"):
        concatenate([draw_scene(1, 0), draw_scene(1, 0).to(dtype=torch.float64)])


def test_degree_can_be_raised_and_lowered():
    scene = draw_scene(3, 4, 1)
    raised = with_sh_degree(scene, 3)
    assert raised.sh.shape == (3, 16, 3)
    assert float(raised.sh[:, 4:].abs().max()) == 0.0
    assert equal(with_sh_degree(raised, 1), scene)
    with pytest.raises(ConfigError, match="got 5"):
        with_sh_degree(scene, 5)


def test_detach_and_clone():
    scene = draw_scene(3, 5).requires_grad_()
    assert not scene.detach().means.requires_grad
    assert scene.detach().means.data_ptr() == scene.means.data_ptr()
    assert scene.clone().means.data_ptr() != scene.means.data_ptr()
    assert scene.clone().means.requires_grad


def test_validate_names_the_parameter():
    scene = draw_scene(3, 6)
    validate(scene)
    scene.quats[1, 2] = math.nan
    with pytest.raises(ConfigError, match=r"gaussians\.quats has 1 values .*\[1, 2\]"):
        validate(scene)


def test_whether_a_scene_is_antialiased_survives_what_is_done_to_it():
    plain = Gaussians(
        torch.zeros(2, 3),
        torch.zeros(2, 3),
        torch.zeros(2, 4),
        torch.zeros(2),
        torch.zeros(2, 1, 3),
    )
    scene = replace(plain, antialiased=True)
    made = [
        scene.to(dtype=torch.float64),
        scene.detach(),
        scene.clone(),
        scene.select(torch.tensor([1])),
        scene.changed({"means": torch.ones(2, 3)}),
        with_sh_degree(scene, 2),
        concatenate([scene, scene]),
        rotate_gaussians(scene, torch.eye(3)),
        SceneOptimizer(scene, OptimConfig()).gaussians,
    ]
    assert all(other.antialiased for other in made)
    assert not concatenate([plain, plain]).antialiased
    with pytest.raises(ConfigError, match="antialiased or none"):
        concatenate([scene, plain])
