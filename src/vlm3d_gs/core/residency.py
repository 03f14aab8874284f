"""Which networks are on the device, and for how long: the plans, and moving one network there and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

Plan = Literal["full", "offload", "sequential"]
PLANS: tuple[Plan, ...] = ("full", "offload", "sequential")
"""From the fastest to the most economical; `assembly.memory.MemoryPlan` describes each."""


@contextmanager
def resident(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Move a module to a device inside the block, and back to where it was afterwards, even after an error.

    A graph through the module must not outlive the block: autograd would find its weights on another device.
    """
    first = next(module.parameters(), None)
    original = torch.device("cpu") if first is None else first.device
    module.to(device)
    try:
        yield module
    finally:
        module.to(original)
