"""Scaled dot-product attention, by the faster of two ways."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None = None
) -> Tensor:
    """Return what `scaled_dot_product_attention` of torch returns; differentiable.

    Args:
        query: [..., heads, Q, dim].
        key: [..., heads, L, dim], as is `value`.
        value: see `key`.
        mask: None, or a tensor that broadcasts to [..., heads, Q, L]: bool, true where a query sees a key, or float,
            added to the products.
        scaling: factor of the products; None is 1 / sqrt(dim).

    Returns:
        [..., heads, Q, dim].
    """
    if fused_is_slow(query):
        return _plain_attention(query, key, value, mask, scaling)

    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


def fused_is_slow(query: Tensor) -> bool:
    """Return whether the fused attention of torch is slower than plain products: its backward in bfloat16 on a CPU."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16


def _plain_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """Return attention written as two products and a softmax."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + additive(mask, scores.dtype)

    return scores.softmax(-1) @ value


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask that is added to products: 0 where a bool mask is true, minus infinity elsewhere."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)

    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
