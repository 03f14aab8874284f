"""What is read from the environment: where caches lie, which toolkit is named, what programs inherit."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of everything that is fetched and built."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "vlm3d-gs" / "gpu"


def named_toolkits() -> list[Path]:
    """Return the folders that CUDA's own variables name."""
    named = (os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH"))
    return [Path(folder) for folder in named if folder]


def inherited(*, first: dict[str, Path] | None = None, **changes: str) -> dict[str, str]:
    """Return the environment of a program that we start.

    Args:
        first: folders to put in front of a list of folders, such as PATH.
        changes: variables to set.
    """
    lists = {
        name: os.pathsep.join([str(folder), os.environ.get(name, "")]).rstrip(os.pathsep)
        for name, folder in (first or {}).items()
    }
    return {**os.environ, **lists, **changes}
