"""Which types of numbers a device is fast with."""

from __future__ import annotations

import torch


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type that the device multiplies faster than float32; None if there is none."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    features = torch.cpu.get_capabilities()
    has_bfloat16 = features.get("avx512_bf16") or features.get("amx_bf16")
    return torch.bfloat16 if has_bfloat16 else None
