"""Functions of rows, divided among processes: each computes its own rows, and all get every row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlm3d_gs.spread.ranks import Ranks

OfRows = Callable[[Tensor, slice], Tensor]
"""Takes some rows of a batch, and which ones, and returns a row for each; no row may depend on another unit."""


def by_rows(compute: OfRows, rows: Tensor, ranks: Ranks, unit: int = 1) -> Tensor:
    """Return `compute(rows, slice(0, B))`, each process computing a part of the rows.

    Args:
        compute: what is computed; in all processes the same.
        rows: [B, ...], the same in all processes.
        ranks: the processes.
        unit: so many adjacent rows stay together; B is a multiple.

    Differentiable in `rows`, once: the gradients of a process's rows are computed there, too.
    """
    units = len(rows) // unit
    if not ranks.is_connected or units < 2:
        return compute(rows, slice(0, len(rows)))
    if rows.requires_grad and torch.is_grad_enabled():
        divided: Tensor = _Divided.apply(rows, compute, ranks, unit)
        return divided
    return _gathered(compute, rows, ranks, unit)


def _gathered(compute: OfRows, rows: Tensor, ranks: Ranks, unit: int) -> Tensor:
    """Return all rows; whoever has none computes one unit for its shape."""
    shares = ranks.shares(len(rows) // unit, unit)
    own = shares[ranks.rank]
    if own.stop > own.start:
        return ranks.gathered(compute(rows[own], own).detach(), shares)
    shape = compute(rows[:unit], slice(0, unit)).detach()
    return ranks.gathered(shape[:0], shares)


class _Divided(torch.autograd.Function):
    """`_gathered`, with a gradient in the rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, compute: OfRows, ranks: Ranks, unit: int) -> Tensor:
        ctx.ranks, ctx.shares = ranks, ranks.shares(len(rows) // unit, unit)
        own = ctx.shares[ranks.rank]
        whose = own if own.stop > own.start else slice(0, unit)
        with torch.enable_grad():
            ctx.leaf = rows[whose].detach().requires_grad_()
            ctx.result = compute(ctx.leaf, whose)
        ctx.count = own.stop - own.start
        return ranks.gathered(ctx.result.detach()[: ctx.count], ctx.shares)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        own = ctx.leaf[:0].detach()
        if ctx.count:
            share = gradient[ctx.shares[ctx.ranks.rank]]
            (own,) = torch.autograd.grad(ctx.result, ctx.leaf, share, retain_graph=True)
        return ctx.ranks.gathered(own, ctx.shares), None, None, None
