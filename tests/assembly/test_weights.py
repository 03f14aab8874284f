"""Which models a run needs, and which of them are embedded."""

from __future__ import annotations

import pytest

from vlm3d_gs.assembly.weights import (
    embedded,
    has_large_critic,
    large_priors,
    locate_models,
    text_cache,
)
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ModelError
from vlm3d_gs.models import embedded_weights

SERVER = {"critic.enabled": True, "critic.family": "server", "critic.mode": "best-of-n"}


@pytest.mark.parametrize(
    ("name", "settings", "small", "priors", "critic"),
    [
        ("mini", {}, True, set(), False),
        ("mini", {"critic.family": "qwen2.5-vl-7b"}, True, set(), True),
        ("mini", {"prior.enabled": False, **SERVER}, False, set(), False),
        ("mvdream", {}, False, {"prior"}, False),
        ("mvdream", {"detail.enabled": True}, False, {"prior", "detail"}, False),
        ("mvdream", {"critic.enabled": True, "critic.family": "mini"}, True, {"prior"}, False),
        ("sd", {"critic.enabled": True}, False, {"prior"}, True),
        ("sd", SERVER, False, {"prior"}, False),
    ],
)
def test_embedded_and_large_models_are_told_apart(
    name: str, settings: dict[str, object], small: bool, priors: set[str], critic: bool
) -> None:
    config = apply_settings(preset(name, "a red cube"), settings)
    assert embedded(config.priors, config.critic) == small
    assert set(large_priors(config.priors)) == priors
    assert has_large_critic(config.critic) == critic
    assert (text_cache(config.priors, config.critic) is not None) == bool(priors or critic)


def test_the_embedded_models_are_in_the_package_and_one_critic_is_its_own_judge() -> None:
    config = preset("mini", "a red cube")
    found = locate_models(config.priors, config.critic, offline=True)
    assert found == {"prior": embedded_weights("prior"), "critic": embedded_weights("critic")}
    other = apply_settings(config, {"critic.watch.family": "mini"})
    assert set(locate_models(other.priors, other.critic)) == {"prior", "critic", "judge"}


def test_a_model_that_is_nowhere_is_refused_offline() -> None:
    config = apply_settings(preset("sd", "a corgi"), {"prior.model": "nobody/has-this-model"})
    with pytest.raises(ModelError, match="nobody/has-this-model"):
        locate_models(config.priors, config.critic, offline=True)
