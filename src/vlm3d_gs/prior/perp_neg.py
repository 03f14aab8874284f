"""Perp-Neg: the texts of the other views as negatives, of which only what is new beside the positive counts.

A plain negative prompt that shares its object with the positive takes the object away as well. Here a negative acts
only in the direction perpendicular to what the positive asks for. Letters: B cameras, M negatives, K = 4 texts in the
order of `view_prompts.VIEWS`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.checks import expect_shape
from vlm3d_gs.prior.view_prompts import (
    FRONT,
    OVERHEAD,
    OVERHEAD_DEG,
    SIDE,
    VIEWS,
    degrees_from_front,
    view_weights,
)

Decay = tuple[float, float, float]
FRONT_TO_SIDE: Decay = (4.0, 0.5, -2.426)
"""a, b, c of a exp(-b r) + c: the front, or by symmetry the side, as negative between the two."""
SIDE_AS_BACK: Decay = (1.0, 0.5, -0.606)
"""The side as negative between side and back."""
FRONT_AS_BACK: Decay = (1.0, 0.5, 0.967)
"""The front as negative between side and back."""


def decay(constants: Decay, r: Tensor) -> Tensor:
    """Return a exp(-b r) + c, falling in r for positive a and b."""
    a, b, c = constants
    return a * torch.exp(-b * r) + c


def perp_neg_weights(cameras: Cameras, *, overhead_deg: float = OVERHEAD_DEG) -> Tensor:
    """Return the weight of each view's text as a negative, for each camera; zero or less.

    Between front and side, with r = 1 in front and 0 at the side, front gets -f_fs(r) and side -f_sf(1 - r): neither
    is a negative of itself, each has its strongest weight at the other's place. Between side and back, with r = 1 at
    the side and 0 behind, side gets -f_sb(r) and front -f_fsb(r). The functions meet at the side to within 1e-3. All
    fade with the share of overhead. The positive text that belongs to these is the interpolated one,
    `view_weights(cameras, interpolate=True)` with the same `overhead_deg`. Only front and side are ever negatives.

    Args:
        cameras: B cameras.
        overhead_deg: as in `view_weights`.

    Returns:
        [B, 4] float32 on the cameras' device, columns as `VIEWS`.

    Raises:
        ConfigError: `overhead_deg` outside its range.

    Source: Armandpour et al. 2023 (Perp-Neg, arXiv 2304.04968), the part on 2D to 3D; constants and the four functions
    as in threestudio's prompt processors, with its clean switch at 60 degrees of elevation replaced by a ramp.
    """
    share = view_weights(cameras, overhead_deg=overhead_deg)[:, OVERHEAD]
    turn = degrees_from_front(cameras.azimuths_deg) / 90.0
    ahead = turn < 1.0
    r = torch.where(ahead, 1.0 - turn, 2.0 - turn)
    front = torch.where(ahead, decay(FRONT_TO_SIDE, r), decay(FRONT_AS_BACK, r))
    side = torch.where(ahead, decay(FRONT_TO_SIDE, 1.0 - r), decay(SIDE_AS_BACK, r))
    weights = torch.zeros(len(cameras), len(VIEWS), device=turn.device)
    weights[:, FRONT], weights[:, SIDE] = -front, -side
    return weights * (1.0 - share)[:, None]


def perpendicular(update: Tensor, direction: Tensor) -> Tensor:
    """Return the part of `update` that is perpendicular to `direction`, sample by sample.

    Args:
        update: [B, ...].
        direction: [B, ...]; where it is zero, `update` is returned as it is.

    Returns:
        update - direction <update, direction> / <direction, direction>, float32 or better, with inner products over all
        but the first dimension. Differentiable in both.

    Raises:
        ShapeError: the shapes differ.

    Source: Armandpour et al. 2023 (Perp-Neg, arXiv 2304.04968), the perpendicular gradient.
    """
    expect_shape("direction", direction, tuple(update.shape))
    given, along = _precise(update).flatten(1), _precise(direction).flatten(1)
    squared = (along * along).sum(1, keepdim=True).clamp_min(torch.finfo(along.dtype).tiny)
    share = (given * along).sum(1, keepdim=True) / squared
    return (given - share * along).reshape(update.shape)


def perp_neg_guidance(
    unconditional: Tensor,
    positive: Tensor,
    negatives: Tensor,
    weights: Tensor,
    guidance_scale: float,
) -> Tensor:
    """Guide by a positive text and by what is perpendicular to it in the negatives.

    With d = positive - unconditional and d_i = negative_i - unconditional, the result is
    unconditional + guidance_scale (d + sum_i w_i perp(d_i, d)). Without negatives, or with negatives parallel to the
    positive, that is classifier-free guidance. Since outputs are linear in the predicted noise at a noise level, raw
    outputs of any prediction type may be given.

    Args:
        unconditional: [B, ...] output for the negative or empty prompt.
        positive: [B, ...] output for the prompt.
        negatives: [M, B, ...] outputs for other prompts.
        weights: [B, M], zero or less to move away from them.
        guidance_scale: as in classifier-free guidance.

    Returns:
        [B, ...] float32 or better. Differentiable in all outputs.

    Raises:
        ShapeError: a shape does not fit.

    Source: Armandpour et al. 2023 (Perp-Neg, arXiv 2304.04968), with several negatives; the paper's minus is in w_i.
    """
    expect_shape("positive", positive, tuple(unconditional.shape))
    expect_shape("negatives", negatives, (len(negatives), *unconditional.shape))
    expect_shape("weights", weights, (len(unconditional), len(negatives)))
    base = _precise(unconditional)
    direction = _precise(positive) - base
    guided = direction
    for negative, weight in zip(_precise(negatives), weights.unbind(1), strict=True):
        column = weight.to(base).reshape(-1, *[1] * (base.ndim - 1))
        guided = guided + column * perpendicular(negative - base, direction)
    return base + guidance_scale * guided


def _precise(tensor: Tensor) -> Tensor:
    """Return at least float32: inner products over a latent overflow float16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
