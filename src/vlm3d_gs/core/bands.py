"""The bands of real spherical harmonics: how many coefficients each has, and their polynomials.

Plain arithmetic, for whoever needs no torch; `core.harmonics` evaluates functions of tensors.
"""

from __future__ import annotations

from typing import Any

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


def higher_terms(x: Any, y: Any, z: Any, degree: int) -> list[Any]:
    """Return the basis functions of the bands 1 to `degree`; that of band 0 is `SH_C0` everywhere.

    Args:
        x: first coordinates of unit vectors: numbers, or arrays or tensors of one shape.
        y: second ones.
        z: third ones.
        degree: 0 to 3.

    Returns:
        (degree + 1)^2 - 1 values of that kind.

    Differentiable wherever the numbers are.

    Source: the polynomials of Sloan 2008 (Stupid spherical harmonics tricks, appendix A2), with the
    signs of Kerbl et al. 2023.
    """
    terms: list[Any] = []
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

    return terms
