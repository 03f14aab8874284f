"""Quaternions, rotation matrices and covariances.

Quaternions are wxyz and of any norm; rotation matrices act on column vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm3d_gs.core.checks import expect_shape
from vlm3d_gs.core.errors import ShapeError
from vlm3d_gs.core.quaternions import (
    ZERO_NORM_SQ,
    component_products,
    matrix_entries,
    product,
)


def nonzero_quats(quats: Tensor) -> Tensor:
    """Return quaternions [..., 4] with the identity in place of those of squared norm below `ZERO_NORM_SQ`.

    The one place that decides what a zero quaternion means; whoever normalises, comes here first. The gradient at a
    replaced one is zero.
    """
    zero = quats.square().sum(-1, keepdim=True) < ZERO_NORM_SQ
    # No tensor of Python numbers: copying one to a GPU would wait for it.
    identity = torch.eye(1, 4, dtype=quats.dtype, device=quats.device)[0]
    return torch.where(zero, identity, quats)


def normalize_quats(quats: Tensor) -> Tensor:
    """Return unit quaternions.

    A quaternion of squared norm below `ZERO_NORM_SQ` becomes (1, 0, 0, 0), with zero gradient.

    Args:
        quats: [..., 4] wxyz, any norm.

    Returns:
        [..., 4] of norm 1.

    Raises:
        ShapeError: the last dimension is not 4.

    Differentiable everywhere.
    """
    if quats.shape[-1:] != (4,):
        raise ShapeError(f"quats must have shape [..., 4] (wxyz), got {list(quats.shape)}.")

    safe = nonzero_quats(quats)
    return safe / safe.square().sum(-1, keepdim=True).sqrt()


def quat_to_rotmat(quats: Tensor) -> Tensor:
    """Return the rotation matrices of quaternions.

    Args:
        quats: [..., 4] wxyz, any norm; zero means the identity.

    Returns:
        [..., 3, 3] orthonormal, determinant +1.

    Raises:
        ShapeError: the last dimension is not 4.

    Differentiable everywhere; the gradient at a zero quaternion is zero.

    Example:
        >>> quat_to_rotmat(torch.tensor([2.0, 0.0, 0.0, 0.0])).diag()
        tensor([1., 1., 1.])
    """
    w, x, y, z = normalize_quats(quats).unbind(-1)
    rows = matrix_entries(w, x, y, z)
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def rotmat_to_quat(rotmats: Tensor) -> Tensor:
    """Return unit quaternions of rotation matrices, with w >= 0.

    The largest of the four components is computed from the diagonal and the others from it, so
    nothing is divided by a small number.

    Args:
        rotmats: [..., 3, 3] orthonormal, determinant +1.

    Returns:
        [..., 4] wxyz.

    Raises:
        ShapeError: the last dimensions are not 3, 3.

    Differentiable, except where two components tie for the largest.

    Source: Shepperd 1978, Quaternion from rotation matrix.
    """
    if rotmats.shape[-2:] != (3, 3):
        raise ShapeError(f"rotmats must have shape [..., 3, 3], got {list(rotmats.shape)}.")

    rows = [torch.stack(row, -1) for row in component_products(rotmats)]
    products = torch.stack(rows, -2)
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    index = largest[..., None, None].expand(*largest.shape, 1, 4)
    quats = normalize_quats(products.gather(-2, index).squeeze(-2))
    return torch.where(quats[..., :1] < 0, -quats, quats)


def quat_multiply(first: Tensor, second: Tensor) -> Tensor:
    """Return the quaternions of `first` applied after `second` (the Hamilton product).

    Args:
        first: [..., 4] wxyz.
        second: [..., 4] wxyz.

    Returns:
        [..., 4], norm the product of both norms.

    Differentiable in both arguments.
    """
    a, b, c, d = first.unbind(-1)
    w, x, y, z = second.unbind(-1)
    return torch.stack(product((a, b, c, d), (w, x, y, z)), -1)


def compose_covariances(quats: Tensor, scales: Tensor) -> Tensor:
    """Return world-space covariances of Gaussians from rotation and scale.

    Sigma = R S S^T R^T, with R from the normalised quaternion.

    Args:
        quats: [N, 4] wxyz, any norm; zero means the identity.
        scales: [N, 3] standard deviations in world units, positive.

    Returns:
        [N, 3, 3] symmetric, world units squared.

    Raises:
        ShapeError: a shape does not fit.

    Differentiable in both arguments; the gradient at a zero quaternion is zero.

    Source: Kerbl et al. 2023 (3D Gaussian Splatting), eq. 6.

    Example:
        >>> compose_covariances(torch.tensor([[1., 0., 0., 0.]]), torch.tensor([[1., 2., 3.]]))[0].diag()
        tensor([1., 4., 9.])
    """
    count = expect_shape("quats", quats, ("N", 4))["N"]
    expect_shape("scales", scales, (count, 3))
    factor = quat_to_rotmat(quats) * scales[:, None, :]
    return factor @ factor.mT
