"""How many threads our own loops may use, whether torch is loaded or not."""

from __future__ import annotations

import os
import sys

MOST = 16
"""More do not help what reads and writes files, and each holds a piece in memory."""


def thread_count() -> int:
    """Return how many threads to use, at least 1.

    Torch's number where torch is loaded, since that is what callers set; else one for each core that
    this process may run on, or what OMP_NUM_THREADS says, as torch would. No result depends on it.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        return min(MOST, int(torch.get_num_threads()))

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(MOST, int(asked) if asked.isdecimal() and int(asked) else cores or 1))
