"""How many threads a worker computes with."""

from __future__ import annotations

import torch


def use_threads(count: int) -> None:
    """Compute with so many threads from now on: torch, and by its number the renderer and exported graphs.

    To be called before models are loaded.

    Args:
        count: 1 or more.
    """
    torch.set_num_threads(count)
