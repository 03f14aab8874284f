from __future__ import annotations

import pytest

from vlm3d_gs.config import Config, from_dict, to_dict
from vlm3d_gs.config.presets import PRESETS, distilled, preset
from vlm3d_gs.core.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_complete_config_that_survives_json(name: str) -> None:
    config = preset(name, "a red cube")
    assert isinstance(config, Config)
    assert config.preset == name
    assert config.prompt == "a red cube"
    assert from_dict(to_dict(config)) == config


def test_an_effort_or_a_mode_changes_the_preset_that_it_is_named_after() -> None:
    whole, first, long, alone = (
        preset(name, "a red cube") for name in ("mini", "mini-draft", "mini-quality", "mini-single")
    )
    assert first.train.steps < whole.train.steps < long.train.steps
    assert (whole.train.loop, alone.train.loop) == ("reconstruct", "distill")
    assert whole.prior.use_cameras
    assert not alone.prior.use_cameras
    assert alone.critic.weight(1.0) > 0.0 == distilled(whole).critic.weight(1.0)


def test_distillation_asks_the_critic_to_the_end_only_beside_priors_that_draw_each_view_alone() -> (
    None
):
    for name in ("mini", "mvdream", "mini-single", "sd"):
        critic = distilled(preset(name, "a red cube")).critic
        assert critic.weight(0.49) > 0.0
        assert (critic.weight(0.51) > 0.0) == (name in ("mini-single", "sd")), name


def test_the_defaults_are_the_preset_mini() -> None:
    assert Config(prompt="A red cube!") == preset("mini", "A red cube!")


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="Unknown preset 'hq'. Available: mini"):
        preset("hq", "a red cube")
