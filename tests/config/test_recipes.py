"""Recipes reproduce what they name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vlm3d_gs.config.presets import distilled, preset
from vlm3d_gs.config.recipes import RECIPES, apply_recipe
from vlm3d_gs.config.schedules import linear
from vlm3d_gs.core.errors import ConfigError


def test_the_papers_recipe_is_the_released_configuration() -> None:
    config = apply_recipe(preset("mvdream", "a corgi"), "vlm3d-paper")
    critic = config.critic
    assert critic.enabled
    assert (critic.every, critic.balance, critic.reward, critic.clip) == (1, "raw", "logit", 0.0)
    assert critic.questions.checks == "joint"
    weights = [critic.weight(fraction) for fraction in (0.0, 0.125, 0.25, 0.5, 0.6, 1.0)]
    assert weights == pytest.approx([300.0, 225.25, 150.5, 1.0, 0.0, 0.0])
    assert config.train.loop == "distill"
    ours = distilled(preset("mvdream", "a corgi")).prior
    ends = {"t_max": linear(0.98, 0.5, 0.0, 0.4), "t_min": linear(0.98, 0.02, 0.0, 0.4)}
    assert config.prior == replace(ours, **ends)
    assert config.prior.guidance_scale(0.5) == 50.0
    assert (critic.view_names, critic.together) == ("none", True)
    assert [round(config.camera.n_groups(at)) for at in (0.0, 0.2, 0.3)] == [2, 2, 1]
    assert [round(config.camera.resolution_px(at)) for at in (0.0, 0.2, 0.3)] == [64, 64, 256]


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_for_single_pictures_it_is_the_other_released_configuration(name: str) -> None:
    """90 falling to 0 over a quarter of the run, beside a loss of weight 1; our preset's has the weight 0.1."""
    config = apply_recipe(preset(name, "a corgi"), "vlm3d-paper")
    weights = [config.critic.weight(fraction) for fraction in (0.0, 0.125, 0.25, 0.5, 1.0)]
    assert config.prior.weight(0.0) == 0.1
    assert weights == pytest.approx([9.0, 4.5, 0.0, 0.0, 0.0])


def test_mvdream_reaches_its_last_noise_levels_at_four_fifths() -> None:
    prior = distilled(preset("mvdream", "a corgi")).prior
    assert [prior.t_min(at) for at in (0.0, 0.4, 0.8, 1.0)] == pytest.approx(
        [0.98, 0.5, 0.02, 0.02]
    )
    assert [prior.t_max(at) for at in (0.0, 0.4, 0.8, 1.0)] == pytest.approx([0.98, 0.74, 0.5, 0.5])


def test_the_weight_follows_the_size_of_the_latents() -> None:
    config = apply_recipe(preset("mini", "a red cube"), "vlm3d-paper")
    assert config.critic.weight(0.0) == pytest.approx(225.0)


@pytest.mark.parametrize(
    ("name", "steps"), [("mini", 300), ("mini-quality", 900), ("mvdream", 1500)]
)
def test_distillation_throughout_has_the_steps_of_the_former_presets(name: str, steps: int) -> None:
    config = apply_recipe(preset(name, "a red cube"), "sds")
    assert (config.train.loop, config.train.steps) == ("distill", steps)
    assert config.regularizer.roughness(1.0) == 0.0
    assert config.optim.opacity_logits_lr(1.0) == 5e-2
    assert not config.critic.reuse
    assert apply_recipe(config, "sds") == config


def test_what_distils_anyway_is_left_as_it_is() -> None:
    for name in ("mini-single", "sd", "sdxl"):
        config = preset(name, "a red cube")
        assert config.train.loop == "distill"
        assert apply_recipe(config, "sds") is config


def test_none_changes_nothing_and_unknown_names_are_refused() -> None:
    config = preset("mini", "a red cube")
    assert apply_recipe(config, None) is config
    assert RECIPES == ("sds", "vlm3d-paper")
    with pytest.raises(ConfigError, match="vlm3d-paper"):
        apply_recipe(config, "dreamfusion")
