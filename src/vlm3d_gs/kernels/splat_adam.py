"""Adam over all tensors of a scene, and the densification statistics, in one launch (`cuda/splat_adam.cu`).

Letters: N Gaussians, C views.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm3d_gs.kernels.library import accepts, address, launch


@dataclass(frozen=True, eq=False)
class ParameterState:
    """One parameter tensor with its Adam state; `value`, `exp_avg` and `exp_avg_sq` are changed in place."""

    value: Tensor
    """[N, ...] contiguous."""
    gradient: Tensor
    """Of the same shape."""
    exp_avg: Tensor
    """Running mean of the gradient."""
    exp_avg_sq: Tensor
    """Running mean of its square."""
    lr: float
    """Learning rate."""
    step: int
    """Steps of this tensor, this one included."""

    def step_size(self, beta1: float) -> float:
        """Return the learning rate, corrected for the bias of the first moment."""
        return self.lr / (1.0 - beta1**self.step)

    def bias_correction2_sqrt(self, beta2: float) -> float:
        """Return what the root of the second moment is divided by."""
        return math.sqrt(1.0 - beta2**self.step)


@dataclass(frozen=True)
class AdamRule:
    """What all tensors share."""

    beta1: float
    beta2: float
    eps: float
    visible_only: bool = False
    """Leave Gaussians that no view sees as they are, their moments too; needs `ScreenStats`."""


@dataclass(frozen=True, eq=False)
class ScreenStats:
    """How the views of this step see each Gaussian; `total` and `count` are changed in place."""

    gradient: Tensor
    """[C, N, 2] of the loss, with respect to the screen positions."""
    radii: Tensor
    """[C, N] pixels, 0 where a Gaussian is not seen."""
    total: Tensor
    """[N] sum of the gradients' lengths over the views that see a Gaussian."""
    count: Tensor
    """[N] number of those views."""


def adam_step(
    states: Sequence[ParameterState], rule: AdamRule, screen: ScreenStats | None = None
) -> None:
    """Move all tensors, at most eight, by one step of Adam and add to the statistics. Not differentiable.

    Source: Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1.
    """
    with torch.no_grad():
        splat_adam(
            [state.value for state in states],
            [state.gradient.contiguous() for state in states],
            [state.exp_avg for state in states],
            [state.exp_avg_sq for state in states],
            [] if screen is None else [screen.gradient.contiguous(), screen.radii.contiguous()],
            [] if screen is None else [screen.total, screen.count],
            lrs=[state.lr for state in states],
            steps=[state.step for state in states],
            rule=[rule.beta1, rule.beta2, rule.eps],
            visible_only=rule.visible_only,
        )


@torch.library.custom_op(
    "vlm3d_gs::splat_adam", mutates_args=("values", "exp_avgs", "exp_avg_sqs", "sums")
)
def splat_adam(
    values: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    screen: Sequence[Tensor],
    sums: Sequence[Tensor],
    *,
    lrs: Sequence[float],
    steps: Sequence[int],
    rule: Sequence[float],
    visible_only: bool,
) -> None:
    """Do one `adam_step`; `screen` and `sums` are empty, or gradient and radii, total and count."""
    states = [
        ParameterState(*fields)
        for fields in zip(values, gradients, exp_avgs, exp_avg_sqs, lrs, steps, strict=True)
    ]
    adam_rule = AdamRule(rule[0], rule[1], rule[2], visible_only)
    stats = ScreenStats(*screen, *sums) if screen else None

    if accepts(*values, *gradients, *exp_avgs, *exp_avg_sqs, *screen, *sums):
        launch("splat_adam", values[0].device, *as_c(states, adam_rule, stats))
    else:
        adam_step_reference(states, adam_rule, stats)


@splat_adam.register_fake
def _fake_splat_adam(*_: object, **__: object) -> None:
    """Nothing to return: the operator only changes its arguments."""


def adam_step_reference(
    states: Sequence[ParameterState], rule: AdamRule, screen: ScreenStats | None = None
) -> None:
    """Do the work of the kernel in plain torch, on any device."""
    visible = None if screen is None else screen.radii > 0

    for state in states:
        exp_avg = state.exp_avg.lerp(state.gradient, 1.0 - rule.beta1)
        exp_avg_sq = rule.beta2 * state.exp_avg_sq + (1.0 - rule.beta2) * state.gradient.square()
        denominator = exp_avg_sq.sqrt() / state.bias_correction2_sqrt(rule.beta2) + rule.eps
        value = state.value - state.step_size(rule.beta1) * exp_avg / denominator

        for target, new in (
            (state.value, value),
            (state.exp_avg, exp_avg),
            (state.exp_avg_sq, exp_avg_sq),
        ):
            if rule.visible_only and visible is not None:
                row = visible.any(0).reshape(-1, *[1] * (new.ndim - 1))
                target.copy_(torch.where(row, new, target))
            else:
                target.copy_(new)

    if screen is not None and visible is not None:
        screen.total.add_((screen.gradient.norm(dim=-1) * visible).sum(0))
        screen.count.add_(visible.sum(0))


class CTensor(ctypes.Structure):
    """`SplatTensor` of `cuda/splat_adam.cuh`."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("exp_avg", ctypes.c_void_p),
        ("exp_avg_sq", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("width", ctypes.c_int32),
        ("step_size", ctypes.c_float),
        ("bias_correction2_sqrt", ctypes.c_float),
    )

    @classmethod
    def of(cls, state: ParameterState, rule: AdamRule) -> CTensor:
        """Point to a parameter's tensors, with the bias corrections of its step."""
        tensors = (state.value, state.gradient, state.exp_avg, state.exp_avg_sq)
        return cls(
            *map(address, tensors),
            state.value.numel(),
            max(1, math.prod(state.value.shape[1:])),
            state.step_size(rule.beta1),
            state.bias_correction2_sqrt(rule.beta2),
        )


class CRule(ctypes.Structure):
    """`AdamRule` of `cuda/splat_adam.cuh`."""

    _fields_ = (("beta1", ctypes.c_float), ("beta2", ctypes.c_float), ("eps", ctypes.c_float))


class CScreen(ctypes.Structure):
    """`ScreenStats` of `cuda/splat_adam.cuh`; all zero where there are no statistics."""

    _fields_ = (
        ("gradient", ctypes.c_void_p),
        ("radii", ctypes.c_void_p),
        ("total", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
        ("gaussians", ctypes.c_int64),
        ("views", ctypes.c_int32),
    )

    @classmethod
    def of(cls, screen: ScreenStats | None) -> CScreen:
        """Point to the statistics, or to nothing."""
        if screen is None:
            return cls()
        tensors = (screen.gradient, screen.radii, screen.total, screen.count)
        return cls(*map(address, tensors), screen.radii.shape[1], screen.radii.shape[0])


def as_c(
    states: Sequence[ParameterState], rule: AdamRule, screen: ScreenStats | None
) -> tuple[ctypes.Array[CTensor], int, CRule, CScreen, int]:
    """Return the launcher's arguments, all but the stream."""
    rows = [CTensor.of(state, rule) for state in states]
    c_rule = CRule(rule.beta1, rule.beta2, rule.eps)
    array = (CTensor * len(rows))(*rows)
    return array, len(rows), c_rule, CScreen.of(screen), int(rule.visible_only)
