"""What the embedded models are told, and what they are not asked."""

from __future__ import annotations

import pytest

from vlm3d_gs.assembly.start import is_scene, read_prompt
from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import PromptError
from vlm3d_gs.core.prompts import Prompt


def read(config: Config) -> Prompt:
    return read_prompt(config.prompt, config.priors, config.critic)


def test_embedded_models_hear_learned_words_and_large_ones_the_users() -> None:
    assert read(preset("mini", "A violet ball on a blue block")).text == (
        "A purple ball on top of a blue cube"
    )
    assert read(preset("mini", "A red cube!")).text == "A red cube!"
    assert read(preset("mvdream", "A violet ball")).text == "A violet ball"
    assert not is_scene(preset("mini", "a violet ball on a blue block"))
    assert is_scene(preset("mini", "two violet balls beside a blue block"))


@pytest.mark.parametrize("ask", ["Is the corgi shiny?", "Xyzzy plugh? @ 0.5"])
def test_the_embedded_critic_is_not_asked_what_it_cannot_read(ask: str) -> None:
    config = apply_settings(preset("mini", "a red cube"), {"critic.questions.asks": [ask]})
    with pytest.raises(PromptError, match="would answer at random"):
        read(config)
    read(apply_settings(config, {"critic.family": "qwen2.5-vl-7b"}))
    read(apply_settings(config, {"critic.enabled": False}))


def test_questions_in_its_words_pass() -> None:
    asks = ["Is there a red ball? Answer Yes or No.", "Is the cube under the ring? @ 0.5"]
    read(apply_settings(preset("mini", "a red cube"), {"critic.questions.asks": asks}))
