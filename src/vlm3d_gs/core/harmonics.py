"""Real spherical harmonics up to degree 3, in the basis that 3D Gaussian files and gsplat use.

Letters: K = (degree + 1)^2 coefficients per channel, ordered by degree. Colours are `max(eval_sh(...)
+ 0.5, 0)`; the offset and the clamp belong to the renderer, not here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm3d_gs.core.bands import SH_C0, coefficient_count, degree_of, higher_terms
from vlm3d_gs.core.checks import expect_shape
from vlm3d_gs.core.errors import ShapeError


def sh_basis(dirs: Tensor, degree: int) -> Tensor:
    """Return the values of the basis functions in given directions.

    Args:
        dirs: [..., 3] unit vectors (not checked).
        degree: 0 to 3.

    Returns:
        [..., K].

    Raises:
        ConfigError: unknown degree.
        ShapeError: the last dimension is not 3.

    Differentiable in the directions.

    Source: see `core.bands.higher_terms`.
    """
    coefficient_count(degree)
    if dirs.shape[-1:] != (3,):
        raise ShapeError(f"dirs must have shape [..., 3], got {list(dirs.shape)}.")

    x, y, z = dirs.unbind(-1)
    return torch.stack([torch.full_like(x, SH_C0), *higher_terms(x, y, z, degree)], -1)


def eval_sh(coeffs: Tensor, dirs: Tensor) -> Tensor:
    """Return the values of functions with these coefficients, without the offset 0.5 and not clamped.

    Args:
        coeffs: [N, K, 3], K in {1, 4, 9, 16}.
        dirs: [..., N, 3] unit vectors.

    Returns:
        [..., N, 3].

    Raises:
        ShapeError: a shape does not fit.

    Differentiable in both arguments.
    """
    sizes = expect_shape("coeffs", coeffs, ("N", "K", 3))
    if dirs.shape[-2:] != (sizes["N"], 3):
        raise ShapeError(f"dirs must have shape [..., {sizes['N']}, 3], got {list(dirs.shape)}.")

    basis = sh_basis(dirs, degree_of(sizes["K"]))
    return (basis[..., None] * coeffs).sum(-2)


def rgb_to_sh0(rgb: Tensor) -> Tensor:
    """Return the degree-0 coefficients of colours in 0..1, elementwise; the inverse of `sh0_to_rgb`."""
    return (rgb - 0.5) / SH_C0


def sh0_to_rgb(sh0: Tensor) -> Tensor:
    """Return the colours of degree-0 coefficients, elementwise, not clamped."""
    return sh0 * SH_C0 + 0.5
