"""Where compiled code is kept, and what happens where nothing can be kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oracles import draw_scene, ring
from vlm3d_gs.assembly import device
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.render import render
from vlm3d_gs.render.cpu import cache


def test_a_folder_is_writable_if_a_file_can_be_made_in_it_or_in_what_will_hold_it(
    tmp_path: Path,
) -> None:
    assert cache.is_writable(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("x")
    assert not cache.is_writable(tmp_path / "file" / "a")
    assert not cache.is_writable(Path("/proc/nowhere"))


def test_without_a_folder_nothing_is_cached_and_a_note_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Numba itself refuses to compile for a cache that it cannot write to."""
    monkeypatch.setattr(cache, "cache_folders", lambda: [Path("/proc/nowhere")])
    cache.can_cache.cache_clear()
    try:
        assert not cache.can_cache()
        notes = device.device_notes("cpu", torch.device("cpu"))
    finally:
        cache.can_cache.cache_clear()
    assert any("NUMBA_CACHE_DIR" in note for note in notes)


@pytest.mark.parametrize("by_a_run", [False, True])
def test_the_first_picture_says_once_why_it_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_a_run: bool
) -> None:
    monkeypatch.setattr(cache, "cache_folders", lambda: [tmp_path])
    monkeypatch.setattr(cache, "_told", set())
    if by_a_run:
        device.device_notes("cpu", torch.device("cpu"))
    said: list[str] = []
    for forget in (cache.can_cache, cache.tell_of_start):
        forget.cache_clear()
    try:
        with noticing(said.append):
            for _ in range(2):
                render(draw_scene(3, 0), ring(1), backend="cpu")
    finally:
        cache.can_cache.cache_clear()
    assert said == ([] if by_a_run else [cache.COMPILES])
