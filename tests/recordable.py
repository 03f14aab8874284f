"""What a CUDA graph cannot hold, refused on the CPU: waiting for the device, and copies from the host's memory.

A recording has fixed sizes and no host. So an operation whose result has a size that depends on values, or that is a
number for Python, cannot be in it; neither can a tensor that is made of Python's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tag, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {Tag.dynamic_output_shape, Tag.data_dependent_output}
SELECTING = ("aten::index.Tensor", "aten::index_put", "aten::_index_put_impl_")
"""By numbers they are fine, by a mask they wait for its size; the first has the tag in either case."""
FROM_HOST = ("aten::lift_fresh",)
"""How torch.tensor and the assignment of a Python number to an element begin."""
BACKWARD_WAITS = ("aten::masked_scatter",)
"""Wait on the way back, or are what waits there; the backward of the first is `masked_scatter_backward`."""


class NotRecordable(RuntimeError):
    """An operation that a recording cannot hold."""


class Recordable(TorchDispatchMode):
    """Refuses what cannot be recorded, or with `count_only` notes it."""

    def __init__(self, *, count_only: bool = False) -> None:
        super().__init__()
        self.count_only, self.found = count_only, list[str]()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if refused(func, args):
            self.found.append(func.name())
            if not self.count_only:
                raise NotRecordable(f"operation not permitted when recording: {func.name()}")
        return func(*args, **(kwargs or {}))


def refused(func: Any, args: Sequence[Any]) -> bool:
    """Whether a call cannot be part of a recording."""
    name = func.name()
    if name.startswith(SELECTING):
        indices = args[1] if len(args) > 1 else ()
        return any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in indices or ()
        )
    if name.startswith(FROM_HOST):
        return bool(args[0].numel())  # of an empty tensor nothing is copied
    return name.startswith(BACKWARD_WAITS) or bool(WAITS & set(func.tags))
