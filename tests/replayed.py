"""A stand-in for CUDA graphs on the CPU, with their manners: fixed memory in and out, and memory that others use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlm3d_gs.core.recording import Backend, Run


class CpuGraphs(Backend):
    """Replays by running again, into the same memory; refuses what a mode refuses, as a capture does."""

    def __init__(self, refusing: Callable[[], object] | None = None) -> None:
        self.refusing = refusing
        self.warm_ups = self.captures = self.replays = 0

    def warm_up(self, run: Run) -> None:
        self.warm_ups += 1
        run()

    def capture(self, run: Run) -> tuple[Sequence[Tensor], Callable[[], None]]:
        self.captures += 1
        if self.refusing is None:
            results = run()
        else:
            with self.refusing():  # type: ignore[attr-defined]
                results = run()

        def replay() -> None:
            self.replays += 1
            for kept, new in zip(results, run(), strict=True):
                kept.copy_(new)

        return results, replay


def same_memory(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors share storage."""
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def forget(*tensors: Tensor) -> None:
    """Overwrite memory, as the next replay would."""
    with torch.no_grad():
        for tensor in tensors:
            tensor.fill_(float("nan"))
