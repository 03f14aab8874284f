"""Signals that ask for an end: Ctrl-C, and what a cluster (SIGTERM) or a closed terminal (SIGHUP) sends.

Inside a run they are requests: the step is finished and its state saved first. A second one ends everything at once.
Elsewhere they end the work at once, but through the program, so that unfinished files are removed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Interrupted(KeyboardInterrupt):
    """A signal ended the work at once."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = exit_code(number)


def exit_code(number: int) -> int:
    """Return the exit code of a program that a signal ended, as shells count: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


class StopRequest:
    """Whether a signal has asked for an end; call it to know."""

    def __init__(self) -> None:
        self.number: int | None = None
        """Of the signal."""

    def __call__(self) -> bool:
        """Return whether a signal has arrived."""
        return self.number is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal; the second ends everything."""
        if self.number is not None:
            raise Interrupted(number)
        self.number = number


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch the signals inside the block; yield what tells whether one has arrived.

    Outside the main thread, where Python allows no signal handlers, none ever does. A program that has no plan of its
    own for the signal is ended by it after the block, as whoever sent it expects.
    """
    request = StopRequest()
    with _handled(request.handle) as before:
        yield request
    if request.number is not None and before[request.number] is signal.SIG_DFL:
        signal.raise_signal(request.number)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let each of the signals end the block by `Interrupted`."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    with _handled(end):
        yield


@contextmanager
def _handled(handle: Any) -> Iterator[dict[int, Any]]:
    """Handle the signals inside the block; yield who did before."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return

    # nohup asks to ignore the end of the terminal.
    chosen = [
        number
        for number in SIGNALS
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
    ]
    before: dict[int, Any] = {number: signal.signal(number, handle) for number in chosen}
    try:
        yield before
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
