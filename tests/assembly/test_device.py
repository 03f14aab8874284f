"""Which device a run uses."""

from __future__ import annotations

from importlib.machinery import ModuleSpec

import pytest
import torch

from vlm3d_gs import render
from vlm3d_gs.assembly.device import (
    SMALL_MODELS,
    choose_device,
    device_notes,
    has_small_models_only,
    run_device,
)
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import DeviceError


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
    ("name", "values", "kind"),
    [
        ("mini", {}, "cpu"),
        ("mini", {"device": "cuda"}, "cuda"),
        ("mini", {"critic.enabled": False}, "cpu"),
        ("mini", {"critic.family": "qwen2.5-vl-7b"}, "cuda"),
        ("mvdream", {}, "cuda"),
        ("mvdream", {"device": "cpu"}, "cpu"),
    ],
)
def test_a_run_with_embedded_models_alone_stays_on_the_cpu_and_says_why(
    monkeypatch: pytest.MonkeyPatch, name: str, values: dict[str, object], kind: str
) -> None:
    machine(monkeypatch, card=True, gsplat=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = apply_settings(preset(name, "a red cube"), values)
    device = run_device(config)
    assert device.type == kind
    said = device_notes(config.device, device, small=has_small_models_only(config))
    assert (SMALL_MODELS in said) == (kind == "cpu" and config.device == "auto")


def test_without_a_card_nothing_is_said_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, card=False, gsplat=False)
    assert SMALL_MODELS not in device_notes("auto", torch.device("cpu"), small=True)
