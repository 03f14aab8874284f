"""What a render returns. Letters: C views, H rows, W columns, N Gaussians."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Rendering(NamedTuple):
    """Pictures of all views, and what densification needs. All in the dtype of the Gaussians."""

    color: Tensor
    """[C, H, W, 3] sRGB with the background composited; differentiable."""
    alpha: Tensor
    """[C, H, W, 1] coverage 0..1; differentiable."""
    depth: Tensor
    """[C, H, W, 1] expected depth along camera z, world units, 0 where nothing is; differentiable."""
    radii: Tensor
    """[C, N] half the longer side of the box outside which alpha is below the floor, px; 0 where not seen."""
    means2d: Tensor
    """[C, N, 2] projected centres (x, y), px, 0 where not seen. On the graph: its `.grad` is there after backward."""
