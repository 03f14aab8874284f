"""Laws of quaternions, matrices and covariances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm3d_gs.core.errors import ShapeError
from vlm3d_gs.core.rotations import (
    compose_covariances,
    normalize_quats,
    quat_multiply,
    quat_to_rotmat,
    rotmat_to_quat,
)

component = st.floats(-3.0, 3.0, allow_nan=False, width=32)


def draw(n, generator):
    return torch.randn(n, 4, generator=generator, dtype=torch.float64)


def test_matrices_are_rotations(generator):
    matrices = quat_to_rotmat(draw(50, generator))
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(3).double().expand(50, 3, 3))
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(50).double())


def test_rotation_of_ninety_degrees_about_z_takes_x_to_y():
    half = torch.tensor(0.5).sqrt()
    matrix = quat_to_rotmat(torch.stack([half, half * 0, half * 0, half]))
    torch.testing.assert_close(matrix @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))


@settings(deadline=None, max_examples=200)
@given(
    st.tuples(component, component, component, component).filter(
        lambda q: sum(c * c for c in q) > 1e-3
    )
)
def test_matrix_and_back(components):
    quat = torch.tensor(components, dtype=torch.float64)
    back = rotmat_to_quat(quat_to_rotmat(quat))
    assert float(back[0]) >= 0.0
    torch.testing.assert_close(quat_to_rotmat(back), quat_to_rotmat(quat), rtol=0, atol=1e-12)
    torch.testing.assert_close((normalize_quats(quat) @ back).abs(), torch.tensor(1.0).double())


def test_product_of_quaternions_is_product_of_matrices(generator):
    a, b = draw(20, generator), draw(20, generator)
    torch.testing.assert_close(
        quat_to_rotmat(quat_multiply(a, b)), quat_to_rotmat(a) @ quat_to_rotmat(b)
    )


def test_zero_quaternion_is_the_identity_with_zero_gradient():
    zero = torch.zeros(2, 4, requires_grad=True)
    matrices = quat_to_rotmat(zero)
    assert torch.equal(matrices, torch.eye(3).expand(2, 3, 3))
    (matrices * torch.arange(9.0).reshape(3, 3)).sum().backward()
    assert torch.equal(zero.grad, torch.zeros(2, 4))


def test_norm_of_a_quaternion_does_not_matter(generator):
    quats = draw(10, generator)
    torch.testing.assert_close(quat_to_rotmat(quats), quat_to_rotmat(quats * 7.0))


def test_gradients_match_finite_differences(generator):
    quats = draw(3, generator).requires_grad_()
    scales = (torch.rand(3, 3, generator=generator, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(quat_to_rotmat, quats)
    assert torch.autograd.gradcheck(compose_covariances, (quats, scales))
    matrices = quat_to_rotmat(quats.detach()).requires_grad_()
    assert torch.autograd.gradcheck(rotmat_to_quat, matrices)


def test_covariance_has_squared_scales_as_eigenvalues(generator):
    scales = torch.tensor([[0.5, 1.0, 2.0]]).double().expand(10, 3)
    covariances = compose_covariances(draw(10, generator), scales)
    torch.testing.assert_close(torch.linalg.eigvalsh(covariances), scales.square())


def test_other_shapes_are_refused():
    with pytest.raises(ShapeError, match="quats must have shape"):
        quat_to_rotmat(torch.zeros(3))
    with pytest.raises(ShapeError, match="rotmats must have shape"):
        rotmat_to_quat(torch.zeros(3, 4))
    with pytest.raises(ShapeError, match="scales must be"):
        compose_covariances(torch.ones(2, 4), torch.ones(3, 3))
