"""Models that stay loaded from run to run, for whoever makes many runs in one process.

A single run loads its models and lets them go. Inside `keep_models` the next run finds those of the last ones, as long
as it asks for the same: what a model computes does not depend on the runs before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

Model = TypeVar("Model")
MOST_KEPT = 4
"""Models of a process: a prior, its text encoder, a critic, a judge. Beyond, the one unused for longest goes."""

_shelves: list[tuple[int, OrderedDict[Hashable, Any]]] = []
"""How many models each `keep_models` keeps, and these; the innermost last."""


@contextmanager
def keep_models(most: int = MOST_KEPT) -> Iterator[None]:
    """Keep models that runs inside the block load, until it ends; in one thread.

    Args:
        most: how many at once.
    """
    _shelves.append((most, OrderedDict()))
    try:
        yield
    finally:
        _shelves.pop()


def kept(key: Hashable, load: Callable[[], Model]) -> Model:
    """Return what `load` returns, or returned before for an equal key.

    Args:
        key: all that decides what is loaded: folder, its state (`folder_state`), device, type, threads.
        load: loads it.
    """
    if not _shelves:
        return load()

    most, shelf = _shelves[-1]
    if key not in shelf:
        # The place is made first, since two large models may not fit beside each other.
        while len(shelf) >= most:
            shelf.popitem(last=False)
        shelf[key] = load()
    shelf.move_to_end(key)
    model: Model = shelf[key]
    return model


def folder_state(folder: Path) -> Hashable:
    """Return what changes when somebody replaces the files of a model: their names, sizes and times."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            state = path.stat()
            found.append((path.relative_to(folder).as_posix(), state.st_size, state.st_mtime_ns))
    return (str(folder), *found)
