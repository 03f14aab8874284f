"""Which device a run uses, and what is said about it."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

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
from vlm3d_gs.setup import gsplat_state


@pytest.fixture
def gsplat(tmp_path: Path) -> Path:
    """The folder of an installed gsplat, as the package index serves it: sources only."""
    (tmp_path / "gsplat" / "cuda").mkdir(parents=True)
    return tmp_path / "gsplat"


def machine(monkeypatch: pytest.MonkeyPatch, *, card: bool, gsplat: Path | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
    monkeypatch.setattr(gsplat_state, "named_toolkits", list)
    monkeypatch.setattr(gsplat_state, "USUAL_TOOLKIT", Path("/nowhere"))
    monkeypatch.setattr(gsplat_state.shutil, "which", lambda program: None)
    spec = None if gsplat is None else ModuleSpec("gsplat", None, is_package=True)
    if spec is not None:
        spec.submodule_search_locations = [str(gsplat)]
    monkeypatch.setattr(gsplat_state, "find_spec", lambda name: spec)


@pytest.mark.parametrize(("card", "kind"), [(True, "cuda"), (False, "cpu")])
@pytest.mark.parametrize("library", ["csrc.so", "cuda/csrc.cpython-312-x86_64-linux-gnu.so"])
def test_auto_is_the_gpu_where_gsplat_can_render_on_it(
    monkeypatch: pytest.MonkeyPatch, gsplat: Path, card: bool, kind: str, library: str
) -> None:
    (gsplat / library).touch()
    machine(monkeypatch, card=card, gsplat=gsplat)
    assert choose_device("auto").type == kind


@pytest.mark.parametrize(
    ("installed", "reason"), [(False, "is not installed"), (True, "without its compiled code")]
)
def test_without_a_gsplat_that_can_render_auto_is_the_cpu_and_says_why(
    monkeypatch: pytest.MonkeyPatch, gsplat: Path, installed: bool, reason: str
) -> None:
    machine(monkeypatch, card=True, gsplat=gsplat if installed else None)
    device = choose_device("auto")
    assert device.type == "cpu"
    note = device_notes("auto", device)[0]
    assert reason in note
    assert "Run: vlm3d-gs setup gpu" in note


def test_gsplat_may_compile_itself_where_a_toolkit_is(
    monkeypatch: pytest.MonkeyPatch, gsplat: Path, tmp_path: Path
) -> None:
    machine(monkeypatch, card=True, gsplat=gsplat)
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    (tmp_path / "cuda" / "bin" / "nvcc").touch()
    monkeypatch.setattr(gsplat_state, "named_toolkits", lambda: [tmp_path / "cuda"])
    assert choose_device("auto").type == "cuda"


def test_a_card_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, card=False, gsplat=None)
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
    monkeypatch: pytest.MonkeyPatch, gsplat: Path, name: str, values: dict[str, object], kind: str
) -> None:
    (gsplat / "csrc.so").touch()
    machine(monkeypatch, card=True, gsplat=gsplat)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = apply_settings(preset(name, "a red cube"), values)
    device = run_device(config)
    assert device.type == kind
    said = device_notes(config.device, device, small=has_small_models_only(config))
    assert (SMALL_MODELS in said) == (kind == "cpu" and config.device == "auto")


def test_without_a_card_nothing_is_said_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, card=False, gsplat=None)
    assert SMALL_MODELS not in device_notes("auto", torch.device("cpu"), small=True)
