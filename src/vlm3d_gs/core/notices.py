"""Sentences for the person who waits, from code that knows no log; nothing is said until somebody listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[str], None]] = []


def notice(text: str) -> None:
    """Tell whoever listens, the innermost of several; see `noticing`."""
    if _listeners:
        _listeners[-1](text)


@contextmanager
def noticing(tell: Callable[[str], None]) -> Iterator[None]:
    """Hand every notice inside the block to `tell`."""
    _listeners.append(tell)
    try:
        yield
    finally:
        _listeners.remove(tell)
