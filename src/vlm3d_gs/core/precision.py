"""Which types of numbers a device is fast with."""

from __future__ import annotations

import torch


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type that the device multiplies faster than float32; None if there is none."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if _cpu_has_bfloat16() else None


def _cpu_has_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16; torch says so publicly from 2.12 on, and before that in private."""
    if hasattr(torch.cpu, "get_capabilities"):
        features = torch.cpu.get_capabilities()
        return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
    older = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in older)
