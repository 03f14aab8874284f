"""Which networks are on the device, and for how long: the plans, and the visit of one network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

Plan = Literal["full", "offload", "sequential"]
PLANS: tuple[Plan, ...] = ("full", "offload", "sequential")
"""From the quickest to the most frugal; `assembly.memory.MemoryPlan` says what each does."""


@contextmanager
def resident(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Have a module on a device inside the block and where it was afterwards, also after an error.

    A graph through the module must not outlive the block: autograd would find its weights on another device.
    """
    first = next(module.parameters(), None)
    home = torch.device("cpu") if first is None else first.device
    module.to(device)
    try:
        yield module
    finally:
        module.to(home)
