"""Worker threads for kernels that release the interpreter lock.

Numba's threading layer aborts on concurrent calls, and torch's belongs to torch. A pool of plain
threads that pull numbered tasks from a shared counter has neither problem. Which thread runs a task
never changes the result.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch


@lru_cache(maxsize=4)
def _pool(workers: int) -> ThreadPoolExecutor:
    """Return the pool of this many threads, created at first use and kept."""
    return ThreadPoolExecutor(workers, thread_name_prefix="vlm3d-gs-render")


def run_tasks(kernel: Callable[..., Any], tasks: int, *arguments: Any) -> None:
    """Run `kernel(counter, tasks, *arguments)` on all threads until the counter reaches the number of tasks.

    Uses `torch.get_num_threads()` threads, including the caller's, but at most one per task.

    Args:
        kernel: a compiled function that releases the lock and takes tasks by `next_task(counter)`.
        tasks: number of tasks; 0 does nothing.
        arguments: passed on.
    """
    if tasks <= 0:
        return

    counter = np.zeros(1, np.int64)
    extra_threads = min(torch.get_num_threads(), tasks) - 1
    if extra_threads <= 0:
        kernel(counter, tasks, *arguments)
        return

    pool = _pool(torch.get_num_threads() - 1)
    futures = [pool.submit(kernel, counter, tasks, *arguments) for _ in range(extra_threads)]
    try:
        kernel(counter, tasks, *arguments)
    finally:
        for future in futures:
            future.result()
