"""What a step spends its time on: named parts, which cost nothing until somebody listens.

    @part("prior denoise")
    def branches(...): ...

    with part("optimizer"):
        ...

Parts nest: what runs inside another part counts for the inner one only. `bench` listens with a `PartClock`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class PartClock:
    """Adds up the seconds of each part, without those of the parts inside it."""

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


_clocks: list[PartClock] = []


@contextmanager
def part(name: str) -> Iterator[None]:
    """Mark a block, or as a decorator a function, as one part of a step.

    Args:
        name: for example "render forward".
    """
    if not _clocks:
        yield
        return
    with _clocks[-1].measure(name):
        yield


@contextmanager
def listening(clock: PartClock) -> Iterator[PartClock]:
    """Let `clock` time the parts of everything that runs inside."""
    _clocks.append(clock)
    try:
        yield clock
    finally:
        _clocks.pop()
