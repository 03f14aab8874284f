"""Where a run goes when nobody says so."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from vlm3d_gs import pipeline, render
from vlm3d_gs.assembly.device import NO_GSPLAT, choose_device
from vlm3d_gs.assembly.start import new_run
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ConfigError, DeviceError
from vlm3d_gs.core.prompts import parse_prompt


def machine(monkeypatch: pytest.MonkeyPatch, *, card: bool, gsplat: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
    monkeypatch.setattr(
        render, "find_spec", lambda name: ModuleSpec(name, None) if gsplat else None
    )


@pytest.mark.parametrize(
    ("card", "gsplat", "kind"),
    [(True, True, "cuda"), (True, False, "cpu"), (False, True, "cpu"), (False, False, "cpu")],
)
def test_auto_is_the_gpu_only_where_gsplat_can_render_on_it(
    monkeypatch: pytest.MonkeyPatch, card: bool, gsplat: bool, kind: str
) -> None:
    machine(monkeypatch, card=card, gsplat=gsplat)
    assert choose_device("auto").type == kind


def test_a_card_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, card=False, gsplat=True)
    with pytest.raises(DeviceError, match="device is 'cuda', but torch sees"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"prior.loss": "ism"}, "prior.loss=ism"), ({"prior.enabled": False}, "prior.enabled=false")],
)
def test_a_critic_that_can_only_choose_wants_a_choice_before_anything_is_fetched(
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
    _, _, silent = new_run(config, prompt, torch.device("cpu"))
    assert not silent
    machine(monkeypatch, card=True, gsplat=False)
    _, _, notes = new_run(config, prompt, torch.device("cpu"))
    assert notes == [NO_GSPLAT]
    chosen = apply_settings(config, {"device": "cpu"})
    assert not new_run(chosen, prompt, torch.device("cpu"))[2]
