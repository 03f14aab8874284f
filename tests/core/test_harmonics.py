"""Laws of the spherical harmonics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vlm3d_gs.core.bands import coefficient_count, degree_of
from vlm3d_gs.core.errors import ConfigError, ShapeError
from vlm3d_gs.core.harmonics import eval_sh, rgb_to_sh0, sh0_to_rgb, sh_basis


def sphere_quadrature():
    """Nodes [M, 3] and weights [M] that integrate polynomials of degree 6 over the sphere exactly."""
    z, wz = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(8))
    phi = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    z, phi = z[:, None].expand(8, 16), phi[None].expand(8, 16)
    r = (1 - z * z).sqrt()
    points = torch.stack([r * phi.cos(), r * phi.sin(), z], -1).reshape(-1, 3)
    weights = (wz[:, None] * (2 * math.pi / 16)).expand(8, 16).reshape(-1)
    return points, weights


def test_basis_is_orthonormal():
    points, weights = sphere_quadrature()
    basis = sh_basis(points, 3)
    gram = (basis * weights[:, None]).T @ basis
    torch.testing.assert_close(gram, torch.eye(16).double(), rtol=0, atol=1e-12)


def test_lower_degrees_are_a_prefix():
    dirs = torch.nn.functional.normalize(torch.randn(9, 3), dim=-1)
    full = sh_basis(dirs, 3)
    for degree in range(3):
        assert torch.equal(sh_basis(dirs, degree), full[:, : (degree + 1) ** 2])


def test_signs_of_degree_one():
    basis = sh_basis(torch.eye(3), 1)
    c = 0.4886025
    torch.testing.assert_close(basis[:, 1:], torch.tensor([[0, 0, -c], [-c, 0, 0], [0, c, 0]]))


def test_values_broadcast_over_views():
    coeffs, dirs = torch.randn(5, 9, 3), torch.nn.functional.normalize(torch.randn(2, 5, 3), dim=-1)
    values = eval_sh(coeffs, dirs)
    assert values.shape == (2, 5, 3)
    torch.testing.assert_close(values[1], eval_sh(coeffs, dirs[1]))


def test_gradients_match_finite_differences(generator):
    coeffs = torch.randn(2, 16, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    dirs = torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(eval_sh, (coeffs, dirs))


def test_colours_and_back():
    rgb = torch.rand(7, 3)
    torch.testing.assert_close(sh0_to_rgb(rgb_to_sh0(rgb)), rgb)
    coeffs = rgb_to_sh0(rgb)[:, None]
    dirs = torch.nn.functional.normalize(torch.randn(7, 3), dim=-1)
    torch.testing.assert_close(eval_sh(coeffs, dirs) + 0.5, rgb)


def test_degrees_and_counts():
    assert [coefficient_count(d) for d in range(4)] == [1, 4, 9, 16]
    assert [degree_of(k) for k in (1, 4, 9, 16)] == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="must be 0, 1, 2 or 3, got 4"):
        coefficient_count(4)
    with pytest.raises(ShapeError, match="1, 4, 9 or 16 .* got 5"):
        degree_of(5)
