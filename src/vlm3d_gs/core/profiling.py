"""What a step spends its time on: named sections, which cost nothing until somebody listens.

    @section("prior denoise")
    def branches(...): ...

    with section("optimizer"):
        ...

Sections nest: what runs inside another one counts for the inner one only. `bench` listens with a `SectionClock`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class SectionClock:
    """Adds up the seconds of each section, without those of the sections inside it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._inside: list[float] = []

    def now(self) -> float:
        """Return the time after all that the device was given is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time a block."""
        began = self.now()
        self._inside.append(0.0)
        try:
            yield
        finally:
            spent = self.now() - began
            own = spent - self._inside.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            if self._inside:
                self._inside[-1] += spent


_counters: list[dict[str, int]] = []


def count(name: str, number: int = 1) -> None:
    """Add to a count that somebody may keep; see `counting`.

    Args:
        name: of what, for example "network evaluations".
        number: how many.
    """
    for counter in _counters:
        counter[name] = counter.get(name, 0) + number


@contextmanager
def counting(counts: dict[str, int]) -> Iterator[None]:
    """Add everything that is counted inside the block to `counts`, in place."""
    _counters.append(counts)
    try:
        yield
    finally:
        _counters.remove(counts)


_clocks: list[SectionClock] = []


@contextmanager
def section(name: str) -> Iterator[None]:
    """Mark a block, or as a decorator a function, as one section of a step.

    Args:
        name: for example "render forward".
    """
    if not _clocks:
        yield
        return
    with _clocks[-1].measure(name):
        yield


@contextmanager
def listening(clock: SectionClock) -> Iterator[SectionClock]:
    """Let `clock` time the sections of everything that runs inside."""
    _clocks.append(clock)
    try:
        yield clock
    finally:
        _clocks.pop()
