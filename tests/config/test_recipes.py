"""Recipes reproduce what they name."""

from __future__ import annotations

import pytest

from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.recipes import RECIPES, apply_recipe
from vlm3d_gs.core.errors import ConfigError


def test_the_papers_recipe_is_the_released_configuration() -> None:
    config = apply_recipe(preset("mvdream", "a corgi"), "vlm3d-paper")
    critic = config.critic
    assert critic.enabled
    assert (critic.every, critic.balance, critic.reward, critic.clip) == (1, "raw", "logit", 0.0)
    assert critic.questions.checks == "joint"
    weights = [critic.weight(fraction) for fraction in (0.0, 0.125, 0.25, 0.5, 0.6, 1.0)]
    assert weights == pytest.approx([300.0, 225.25, 150.5, 1.0, 0.0, 0.0])
    assert config.prior == preset("mvdream", "a corgi").prior


def test_the_weight_follows_the_size_of_the_latents() -> None:
    config = apply_recipe(preset("mini", "a red cube"), "vlm3d-paper")
    assert config.critic.weight(0.0) == pytest.approx(225.0)


def test_none_changes_nothing_and_unknown_names_are_refused() -> None:
    config = preset("mini", "a red cube")
    assert apply_recipe(config, None) is config
    assert RECIPES == ("vlm3d-paper",)
    with pytest.raises(ConfigError, match="vlm3d-paper"):
        apply_recipe(config, "dreamfusion")
