"""Perp-Neg: the texts of the other views as negatives, as far as they are perpendicular to the positive text.

An ordinary negative prompt that shares its object with the positive one removes the object as well. Here a negative
acts only in the direction perpendicular to that of the positive. Letters: B cameras, M negatives, K = 4 texts in the
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
    is a negative of itself, each has its strongest weight at the position of the other. Between side and back, with
    r = 1 at the side and 0 at the back, side gets -f_sb(r) and front -f_fsb(r). The functions meet at the side to
    within 1e-3. All fade with the weight of overhead. The positive text that belongs to them is the interpolated one,
    `view_weights(cameras, interpolate=True)` with the same `overhead_deg`. Only front and side are ever negatives.

    Args:
        cameras: B cameras.
        overhead_deg: as in `view_weights`.

    Returns:
        [B, 4] float32 on the cameras' device, columns as `VIEWS`.

    Raises:
        ConfigError: `overhead_deg` outside its range.

    Source: Armandpour et al. 2023 (Perp-Neg, arXiv 2304.04968), the part on 2D to 3D; constants and the four functions
    as in threestudio's prompt processors, with its switch at 60 degrees of elevation replaced by a ramp.
    """
    quarter_turns = degrees_from_front(cameras.azimuths_deg) / 90.0
    in_front = quarter_turns < 1.0
    r = torch.where(in_front, 1.0 - quarter_turns, 2.0 - quarter_turns)
    front = torch.where(in_front, decay(FRONT_TO_SIDE, r), decay(FRONT_AS_BACK, r))
    side = torch.where(in_front, decay(FRONT_TO_SIDE, 1.0 - r), decay(SIDE_AS_BACK, r))

    weights = torch.zeros(len(cameras), len(VIEWS), device=r.device)
    weights[:, FRONT], weights[:, SIDE] = -front, -side
    overhead = view_weights(cameras, overhead_deg=overhead_deg)[:, OVERHEAD]
    return weights * (1.0 - overhead)[:, None]


def perpendicular(update: Tensor, direction: Tensor) -> Tensor:
    """Return the component of `update` that is perpendicular to `direction`, sample by sample.

    Args:
        update: [B, ...].
        direction: [B, ...]; where it is zero, `update` is returned unchanged.

    Returns:
        update - direction <update, direction> / <direction, direction>, float32 or better, with inner products over all
        but the first dimension. Differentiable in both.

    Raises:
        ShapeError: the shapes differ.

    Source: Armandpour et al. 2023 (Perp-Neg, arXiv 2304.04968), the perpendicular gradient.
    """
    expect_shape("direction", direction, tuple(update.shape))
    flat, along = _at_least_float32(update).flatten(1), _at_least_float32(direction).flatten(1)
    squared = (along * along).sum(1, keepdim=True).clamp_min(torch.finfo(along.dtype).tiny)
    projection = (flat * along).sum(1, keepdim=True) / squared
    return (flat - projection * along).reshape(update.shape)


def perp_neg_guidance(
    uncond: Tensor,
    text: Tensor,
    negatives: Tensor,
    weights: Tensor,
    guidance_scale: float,
) -> Tensor:
    """Guide by a text and by the perpendicular components of negatives.

    With d = text - uncond and d_i = negative_i - uncond, the result is uncond + guidance_scale (d + sum_i w_i
    perp(d_i, d)). Without negatives, or with negatives parallel to the text, that is classifier-free guidance. Since
    outputs are linear in the predicted noise at a noise level, raw outputs of any prediction type will do.

    Args:
        uncond: [B, ...] output for the negative or empty prompt.
        text: [B, ...] output for the prompt.
        negatives: [M, B, ...] outputs for other prompts.
        weights: [B, M]; negative ones move away from the negatives.
        guidance_scale: as in classifier-free guidance.

    Returns:
        [B, ...] float32 or better. Differentiable in all outputs.

    Raises:
        ShapeError: a shape does not fit.

    Source: Armandpour et al. 2023 (Perp-Neg, arXiv 2304.04968), with several negatives; the paper's minus is in w_i.
    """
    expect_shape("text", text, tuple(uncond.shape))
    expect_shape("negatives", negatives, (len(negatives), *uncond.shape))
    expect_shape("weights", weights, (len(uncond), len(negatives)))

    base = _at_least_float32(uncond)
    direction = _at_least_float32(text) - base
    guided = direction
    for negative, weight in zip(_at_least_float32(negatives), weights.unbind(1), strict=True):
        column = weight.to(base).reshape(-1, *[1] * (base.ndim - 1))
        guided = guided + column * perpendicular(negative - base, direction)
    return base + guidance_scale * guided


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Convert to at least float32: inner products over a latent overflow float16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
