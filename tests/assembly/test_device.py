"""Which device a run uses."""

from __future__ import annotations

from importlib.machinery import ModuleSpec

import pytest
import torch

from vlm3d_gs import render
from vlm3d_gs.assembly.device import choose_device
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
