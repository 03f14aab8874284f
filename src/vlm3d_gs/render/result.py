"""The result of a render. Letters: C views, H rows, W columns, N Gaussians."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Rendering(NamedTuple):
    """Pictures of all views, and what densification needs, in the dtype of the Gaussians."""

    color: Tensor
    """[C, H, W, 3] sRGB with the background composited; differentiable."""
    alpha: Tensor
    """[C, H, W, 1] coverage 0..1; differentiable."""
    depth: Tensor
    """[C, H, W, 1] expected depth along camera z, world units, 0 where there is nothing; differentiable."""
    radii: Tensor
    """[C, N] px, half the longer side of the box outside which alpha is below the floor; 0 where not seen."""
    means2d: Tensor
    """[C, N, 2] px, projected centres (x, y), 0 where not seen. Its `.grad` is filled by the backward pass."""
