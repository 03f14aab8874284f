"""Where Numba keeps the compiled renderer, and whether it has it yet; loads nothing."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

KERNELS = "blend_backward.blend_backward*.nbi"
"""Index file of the last kernel to be compiled."""


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
