"""Where Numba keeps the compiled renderer, and whether it has it yet; loads nothing."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from vlm3d_gs.core.notices import notice

KERNELS = "blend_backward.blend_backward*.nbi"
"""Index file of the last kernel to be compiled."""

COMPILES = "The first run on a machine compiles the renderer, once, which takes up to a minute."
COMPILES_ALWAYS = (
    "The compiled renderer cannot be kept, since neither the package nor the user's cache can be written to: it is "
    "compiled at each start, which takes up to a minute. Set NUMBA_CACHE_DIR to a folder that can be written to."
)

_told: set[str] = set()


def cache_folders() -> list[Path]:
    """Return where Numba looks for a folder that it can write to, in order.

    Beside the source, then the user's cache; `NUMBA_CACHE_DIR` takes the place of both.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return [Path(chosen)]
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    return [Path(__file__).parent, user]


@cache
def can_cache() -> bool:
    """Return whether Numba can keep what it compiles; it refuses to compile for a cache that it cannot write to."""
    return any(is_writable(folder) for folder in cache_folders())


def is_writable(folder: Path) -> bool:
    """Return whether a file can be made in a folder, or the folder itself, by trying."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def is_compiled() -> bool:
    """Return whether the cache holds the renderer, perhaps of an older version."""
    return any(next(folder.rglob(KERNELS), None) is not None for folder in cache_folders())


def start_note() -> str | None:
    """Return what to tell of a start that is slow because the renderer must be compiled; None if it is there."""
    if not can_cache():
        return COMPILES_ALWAYS
    return None if is_compiled() else COMPILES


def mark_told(note: str) -> None:
    """Keep `tell_of_start` from repeating what a run has said before it draws."""
    _told.add(note)


@cache
def tell_of_start() -> None:
    """Tell whoever listens of a slow start, once a process."""
    note = start_note()
    if note and note not in _told:
        notice(note)
