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

from vlm3d_gs.kernels.library import address, launch, takes


@dataclass(frozen=True, eq=False)
class Moved:
    """One parameter tensor and its Adam state; `value`, `mean` and `square` are changed in place."""

    value: Tensor
    """[N, ...] contiguous."""
    gradient: Tensor
    """The same shape."""
    mean: Tensor
    """Running mean of the gradient."""
    square: Tensor
    """Running mean of its square."""
    rate: float
    """Learning rate."""
    step: int
    """Steps of this tensor, this one included."""


@dataclass(frozen=True)
class AdamRule:
    """What all tensors share."""

    beta1: float
    beta2: float
    eps: float
    only_seen: bool = False
    """Leave the Gaussians alone that no view sees, their moments too; needs a `Screen`."""


@dataclass(frozen=True, eq=False)
class Screen:
    """How the Gaussians were seen in this step; `total` and `count` are changed in place."""

    gradient: Tensor
    """[C, N, 2] of the loss, by the screen positions."""
    radii: Tensor
    """[C, N] pixels, 0 where a Gaussian is not seen."""
    total: Tensor
    """[N] sum of the gradients' lengths over the views that see a Gaussian."""
    count: Tensor
    """[N] number of those views."""


def adam_step(tensors: Sequence[Moved], rule: AdamRule, screen: Screen | None = None) -> None:
    """Move all tensors, at most eight, by one step of Adam and add to the statistics. Not differentiable.

    Source: Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1.
    """
    with torch.no_grad():
        splat_adam(
            [moved.value for moved in tensors],
            [moved.gradient.contiguous() for moved in tensors],
            [moved.mean for moved in tensors],
            [moved.square for moved in tensors],
            [] if screen is None else [screen.gradient.contiguous(), screen.radii.contiguous()],
            [] if screen is None else [screen.total, screen.count],
            rates=[moved.rate for moved in tensors],
            steps=[moved.step for moved in tensors],
            rule=[rule.beta1, rule.beta2, rule.eps],
            only_seen=rule.only_seen,
        )


@torch.library.custom_op(
    "vlm3d_gs::splat_adam", mutates_args=("values", "means", "squares", "sums")
)
def splat_adam(
    values: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    screen: Sequence[Tensor],
    sums: Sequence[Tensor],
    *,
    rates: Sequence[float],
    steps: Sequence[int],
    rule: Sequence[float],
    only_seen: bool,
) -> None:
    """Do what `adam_step` says; `screen` and `sums` are empty, or gradient and radii, total and count."""
    moved = [
        Moved(*fields)
        for fields in zip(values, gradients, means, squares, rates, steps, strict=True)
    ]
    settings = AdamRule(rule[0], rule[1], rule[2], only_seen)
    shown = Screen(*screen, *sums) if screen else None
    if takes(*values, *gradients, *means, *squares, *screen, *sums):
        _launch(moved, settings, shown)
    else:
        twin(moved, settings, shown)


@splat_adam.register_fake
def _fake(*_: object, **__: object) -> None:
    """Only changes its arguments."""


def twin(tensors: Sequence[Moved], rule: AdamRule, screen: Screen | None = None) -> None:
    """Do what the kernel does, in plain torch on any device."""
    seen = None if screen is None else screen.radii > 0
    for moved in tensors:
        mean = moved.mean.lerp(moved.gradient, 1.0 - rule.beta1)
        square = rule.beta2 * moved.square + (1.0 - rule.beta2) * moved.gradient.square()
        rate = moved.rate / (1.0 - rule.beta1**moved.step)
        root = math.sqrt(1.0 - rule.beta2**moved.step)
        value = moved.value - rate * mean / (square.sqrt() / root + rule.eps)
        for place, new in ((moved.value, value), (moved.mean, mean), (moved.square, square)):
            if rule.only_seen and seen is not None:
                row = seen.any(0).reshape(-1, *[1] * (new.ndim - 1))
                place.copy_(torch.where(row, new, place))
            else:
                place.copy_(new)
    if screen is not None and seen is not None:
        screen.total.add_((screen.gradient.norm(dim=-1) * seen).sum(0))
        screen.count.add_(seen.sum(0))


class CTensor(ctypes.Structure):
    """`SplatTensor` of `cuda/splat_adam.cuh`."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("mean", ctypes.c_void_p),
        ("square", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("width", ctypes.c_int32),
        ("rate", ctypes.c_float),
        ("root", ctypes.c_float),
    )


class CRule(ctypes.Structure):
    """`AdamRule` of `cuda/splat_adam.cuh`."""

    _fields_ = (("beta1", ctypes.c_float), ("beta2", ctypes.c_float), ("eps", ctypes.c_float))


class CScreen(ctypes.Structure):
    """`Screen` of `cuda/splat_adam.cuh`."""

    _fields_ = (
        ("gradient", ctypes.c_void_p),
        ("radii", ctypes.c_void_p),
        ("total", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
        ("gaussians", ctypes.c_int64),
        ("views", ctypes.c_int32),
    )


def as_c(
    tensors: Sequence[Moved], rule: AdamRule, screen: Screen | None
) -> tuple[ctypes.Array[CTensor], int, CRule, CScreen, int]:
    """Return the launcher's arguments, but for the stream."""
    rows = [
        CTensor(
            address(moved.value),
            address(moved.gradient),
            address(moved.mean),
            address(moved.square),
            moved.value.numel(),
            max(1, math.prod(moved.value.shape[1:])),
            moved.rate / (1.0 - rule.beta1**moved.step),
            math.sqrt(1.0 - rule.beta2**moved.step),
        )
        for moved in tensors
    ]
    shown = CScreen()
    if screen is not None:
        places = map(address, (screen.gradient, screen.radii, screen.total, screen.count))
        shown = CScreen(*places, screen.radii.shape[1], screen.radii.shape[0])
    settings = CRule(rule.beta1, rule.beta2, rule.eps)
    return (CTensor * len(rows))(*rows), len(rows), settings, shown, int(rule.only_seen)


def _launch(tensors: Sequence[Moved], rule: AdamRule, screen: Screen | None) -> None:
    device = tensors[0].value.device
    launch("splat_adam", device, *as_c(tensors, rule, screen))
