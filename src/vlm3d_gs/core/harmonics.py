"""Real spherical harmonics up to degree 3, in the basis that 3D Gaussian files and gsplat use.

Letters: K = (degree + 1)^2 coefficients per channel, ordered by degree. Colours are `max(eval_sh(...)
+ 0.5, 0)`; the offset and the clamp belong to the renderer, not here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm3d_gs.core.checks import expect_shape
from vlm3d_gs.core.errors import ConfigError, ShapeError

MAX_DEGREE = 3
SH_C0 = 0.28209479177387814
SH_C1 = 0.4886025119029199
SH_C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
SH_C3 = (
    0.5900435899266435,
    2.890611442640554,
    0.4570457994644658,
    0.3731763325901154,
    1.4453057213202770,
)


def coefficient_count(degree: int) -> int:
    """Return the number of coefficients per channel, (degree + 1)^2.

    Raises:
        ConfigError: the degree is not 0, 1, 2 or 3.
    """
    if degree not in range(MAX_DEGREE + 1):
        raise ConfigError(f"The spherical-harmonics degree must be 0, 1, 2 or 3, got {degree}.")
    return (degree + 1) ** 2


def degree_of(coefficients: int) -> int:
    """Return the degree that has a number of coefficients.

    Raises:
        ShapeError: the number is not 1, 4, 9 or 16.
    """
    for degree in range(MAX_DEGREE + 1):
        if (degree + 1) ** 2 == coefficients:
            return degree
    raise ShapeError(
        f"sh must hold 1, 4, 9 or 16 coefficients per channel (degree 0 to 3), got {coefficients}."
    )


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

    Source: the polynomials of Sloan 2008 (Stupid spherical harmonics tricks, appendix A2), with the
    signs of Kerbl et al. 2023.
    """
    coefficient_count(degree)
    if dirs.shape[-1:] != (3,):
        raise ShapeError(f"dirs must have shape [..., 3], got {list(dirs.shape)}.")

    x, y, z = dirs.unbind(-1)
    terms = [torch.full_like(x, SH_C0)]
    if degree >= 1:
        terms += [-SH_C1 * y, SH_C1 * z, -SH_C1 * x]

    if degree >= 2:
        a, b, c = SH_C2
        terms += [
            a * x * y,
            -a * y * z,
            b * (2 * z * z - x * x - y * y),
            -a * x * z,
            c * (x * x - y * y),
        ]

    if degree >= 3:
        d, e, f, g, h = SH_C3
        terms += [
            -d * y * (3 * x * x - y * y),
            e * x * y * z,
            -f * y * (4 * z * z - x * x - y * y),
            g * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -f * x * (4 * z * z - x * x - y * y),
            h * z * (x * x - y * y),
            -d * x * (x * x - 3 * y * y),
        ]

    return torch.stack(terms, -1)


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
