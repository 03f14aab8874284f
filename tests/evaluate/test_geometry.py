"""Faces, loose parts, thickness: on areas by formula, and on objects with one known fault."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scenes import splats_for
from vlm3d_gs.evaluate.geometry import VIEWS, face_score, measure_geometry

TURN = torch.arange(VIEWS, dtype=torch.float64) * (2.0 * torch.pi / VIEWS)


def areas(sides: int) -> torch.Tensor:
    """A sphere of 1000 pixels with small patches on so many sides: a half cosine for each."""
    patches = [
        torch.cos(TURN - 2.0 * torch.pi * side / sides).clamp_min(0.0) for side in range(sides)
    ]
    face = 100.0 * torch.stack(patches).sum(0)
    return torch.stack([1000.0 - face, face], dim=1)


def test_one_face_comes_once_a_turn_and_more_come_more_often() -> None:
    # Of a half cosine the harmonics are 1/2 and 2/(3 pi).
    once, twice = 0.25, (2.0 / (3.0 * torch.pi)) ** 2
    assert face_score(areas(1)) == pytest.approx(twice / (once + twice), abs=0.01)
    for sides in (2, 3, 4):
        assert face_score(areas(sides)) > 0.95
    assert face_score(torch.full((VIEWS, 2), 10.0, dtype=torch.float64)) == 0.0
    assert face_score(torch.zeros(VIEWS, 2, dtype=torch.float64)) == 0.0


@pytest.fixture
def generated(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    import measure_errors

    yield measure_errors
    for name in {"harness", "measure_errors"} - before:
        sys.modules.pop(name, None)


def test_faults_of_generated_objects_are_named_and_sound_ones_are_not_accused(
    generated: Any,
) -> None:
    right = 0
    cases = [generated.case(number) for number in range(6)]
    for fault, _, gaussians in cases:
        faults = measure_geometry(gaussians).faults
        if fault == "none":
            assert faults == ()
        right += faults == (() if fault == "none" else (fault,))
    assert {fault for fault, _, _ in cases} == set(generated.FAULTS)
    assert right >= 5


def test_an_empty_scene_has_no_body() -> None:
    empty = measure_geometry(splats_for("a red cube").select(torch.arange(0)))
    assert (empty.faces, empty.floaters, empty.thickness) == (0.0, 0.0, 0.0)
    assert empty.faults == ("flat",)
