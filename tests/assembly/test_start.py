"""How a run starts: what is refused before anything is loaded, and what the user is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlm3d_gs import pipeline
from vlm3d_gs.assembly.device import SMALL_MODELS
from vlm3d_gs.assembly.start import new_run
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.prompts import parse_prompt


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"prior.loss": "ism"}, "prior.loss=ism"), ({"prior.enabled": False}, "prior.enabled=false")],
)
def test_a_critic_that_can_only_choose_needs_a_choice_before_anything_is_fetched(
    tmp_path: Path, settings: dict[str, object], named: str
) -> None:
    chosen = {"critic.enabled": True, "critic.mode": "best-of-n", "offline": True}
    missing = {"prior.model": str(tmp_path / "nothing"), "out": tmp_path / "run"}
    config = apply_settings(preset("mvdream", "a corgi"), {**chosen, **missing, **settings})
    with pytest.raises(ConfigError, match=named):
        pipeline.generate(config, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_says_why_it_leaves_a_card_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"critic.enabled": False, "scene.n_init": 10}
    config = apply_settings(preset("mini", "a red cube"), settings)
    prompt = parse_prompt(config.prompt)
    _, _, notes = new_run(config, prompt, torch.device("cpu"))
    assert not notes
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    _, _, notes = new_run(config, prompt, torch.device("cpu"))
    assert notes == [SMALL_MODELS]
    chosen = apply_settings(config, {"device": "cpu"})
    assert not new_run(chosen, prompt, torch.device("cpu"))[2]
