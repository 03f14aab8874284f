"""How often a client may ask: a token bucket each, and few clients remembered."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

MOST_CLIENTS = 10_000
"""Clients remembered; beyond, the one that was silent for longest is forgotten, which only favours it."""


class RateLimit:
    """Allows each client some requests a minute, and a burst of as many.

    Args:
        per_minute: requests; 0 allows any number.
        clock: seconds, increasing.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """Take a request into account; return 0 if it is allowed, else after how many seconds one will be."""
        if self._per_minute <= 0:
            return 0.0
        now = self._clock()
        left, then = self._buckets.get(client, (self._per_minute, now))
        left = min(self._per_minute, left + (now - then) * self._per_minute / 60.0)
        allowed = left >= 1.0

        self._buckets[client] = (left - 1.0 if allowed else left, now)
        self._buckets.move_to_end(client)
        while len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - left) * 60.0 / self._per_minute
