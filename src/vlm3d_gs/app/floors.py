"""How long the arithmetic of the networks must take at least: operations counted, and the rate of matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from vlm3d_gs.core.profiling import SectionClock

PEAK_SIDE = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices whose product measures the rate of a machine."""
PEAK_REPEATS = 5
PROBE_FACTOR = 4
"""Times smaller is the side of the matrices on which a precision is tried first."""
HOPELESS = 4.0
"""Times the best product so far, after which a precision is tried no further."""


class OperationClock(SectionClock):
    """Counts the floating-point operations of each section, where `SectionClock` counts seconds."""

    def __init__(self, device: torch.device, counter: FlopCounterMode) -> None:
        super().__init__(device)
        self.counter = counter

    def now(self) -> float:
        """Return the operations done so far."""
        return float(self.counter.get_total_flops())


def operation_counter() -> FlopCounterMode:
    """Return torch's counter of floating-point operations, taught attention on a CPU, which it does not know by itself.

    It sees operations as they are called from Python, so those inside a CUDA graph or a compiled network are not
    counted.
    """

    def forward(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
        return int(sdpa_flop_count(*shapes[:3]))

    def backward(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
        return int(sdpa_backward_flop_count(*shapes[:4]))

    aten = torch.ops.aten
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)


def matrix_rate(
    device: torch.device, dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16)
) -> float:
    """Return the floating-point operations per second of a large matrix product, the best of a few in any dtype."""
    side = PEAK_SIDE[device.type]
    sides = (side // PROBE_FACTOR, side)
    best = dict.fromkeys(sides, float("inf"))

    for dtype in dtypes:
        for each in sides:
            spent = _product_s(each, device, dtype)

            # A precision that the machine imitates would take seconds a product at full size.
            if spent > HOPELESS * best[each]:
                break
            best[each] = min(best[each], spent)

    return 2.0 * side**3 / best[side]


def _product_s(side: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the seconds of a product of square matrices, the best of a few after a first one to warm up."""
    clock = SectionClock(device)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    durations = []

    for _ in range(PEAK_REPEATS + 1):
        began = clock.now()
        left @ right
        durations.append(clock.now() - began)

    return min(durations[1:])
