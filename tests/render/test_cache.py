"""Where compiled code is kept, and what happens where nothing can be kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlm3d_gs.assembly import device
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
