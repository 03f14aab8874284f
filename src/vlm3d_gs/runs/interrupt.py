"""Ctrl-C as a wish: the loop that asks finishes its step first. A second Ctrl-C interrupts at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Take SIGINT inside the block; yield a function that tells whether it has come.

    Outside the main thread, where signals cannot be taken, the function always says no.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()

    def take(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, take)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
