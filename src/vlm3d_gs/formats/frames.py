"""The frames of files, and the rotation of Gaussians into them.

Our world: the front camera stands on +x, its right is +y, up is +z. A frame is defined by the
rotation matrix whose rows are its axes in world coordinates. Rotating a scene rotates positions,
quaternions and every band of the spherical harmonics; without the last, highlights would move.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.harmonics import degree_of, sh_basis
from vlm3d_gs.core.rotations import nonzero_quats, quat_multiply, rotmat_to_quat
from vlm3d_gs.formats.options import Frame

WORLD_TO_RDF = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0))
"""x right, y down, z away, as the front camera sees the object: PLY, .splat, SOG."""
WORLD_TO_RUB = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
"""x right, y up, z towards the viewer: glTF, SPZ and meshes."""
WORLD_TO_LUF = ((0.0, -1.0, 0.0), (0.0, 0.0, 1.0), (-1.0, 0.0, 0.0))
"""x left, y up, z away: glTF's axes as the object itself would name them."""
WORLD_TO_LDB = ((0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (1.0, 0.0, 0.0))
"""x left, y down, z towards the viewer."""
ROTATIONS: dict[Frame, tuple[tuple[float, ...], ...]] = {
    "rdf": WORLD_TO_RDF,
    "rub": WORLD_TO_RUB,
    "luf": WORLD_TO_LUF,
    "ldb": WORLD_TO_LDB,
    "world": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}
"""Rotation from our world into each frame."""

FIT_DIRECTIONS = 64
"""Directions on which the harmonics' rotation is solved; the largest system has 16 unknowns."""


def world_to(frame: Frame) -> Tensor:
    """Return the rotation from our world into a frame, [3, 3] float32.

    Raises:
        ConfigError: unknown frame; the known ones are listed.
    """
    if frame not in ROTATIONS:
        raise ConfigError(
            f"The frame of a file must be one of {', '.join(ROTATIONS)}, got {frame!r}."
        )
    return torch.tensor(ROTATIONS[frame])


def rotate_gaussians(gaussians: Gaussians, rotation: Tensor) -> Gaussians:
    """Rotate a whole scene: what was at p is at R p, and looks from R d as it did from d.

    Args:
        gaussians: N Gaussians with harmonics of any degree.
        rotation: [3, 3] proper rotation.

    Returns:
        New Gaussians; quaternions are of unit length.

    Raises:
        ConfigError: `rotation` is not a proper rotation.

    Differentiable in the Gaussians' parameters.
    """
    # In double precision, so that axis permutations stay exact whatever the scene's dtype.
    exact = rotation.detach().to("cpu", torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    if not torch.allclose(exact @ exact.T, identity, atol=1e-6) or torch.linalg.det(exact) < 0:
        raise ConfigError(
            f"rotate_gaussians needs a proper rotation matrix, got {exact.tolist()}: a mirror or a "
            "scale would change what the scene shows."
        )

    local = exact.to(gaussians.device, gaussians.dtype)
    mixing = sh_rotation(exact, degree_of(gaussians.sh.shape[1])).to(
        gaussians.device, gaussians.dtype
    )

    quats = torch.nn.functional.normalize(nonzero_quats(gaussians.quats), dim=-1)
    return gaussians.changed(
        {
            "means": gaussians.means @ local.T,
            "quats": quat_multiply(rotmat_to_quat(local).expand_as(quats), quats),
            "sh": torch.einsum("jk,nkc->njc", mixing, gaussians.sh),
        }
    )


def sh_rotation(rotation: Tensor, degree: int) -> Tensor:
    """Return the matrix that rotates the coefficients of real spherical harmonics.

    The rotated function is f'(d) = f(R^T d). Bands do not mix, so each block is the exact solution
    of Y_l(d) M_l = Y_l(R^T d) over fixed directions d.

    Args:
        rotation: [3, 3] proper rotation, float64.
        degree: 0 to 3.

    Returns:
        [K, K] float64 with K = (degree + 1)^2; new coefficients = M @ old.
    """
    directions = _fibonacci_directions(FIT_DIRECTIONS)
    before = sh_basis(directions, degree)
    after = sh_basis(directions @ rotation, degree)  # rows: R^T d
    mixing = torch.zeros(before.shape[-1], before.shape[-1], dtype=torch.float64)

    for band in range(degree + 1):
        block = slice(band * band, (band + 1) * (band + 1))
        solved = torch.linalg.lstsq(before[:, block], after[:, block]).solution
        # Entries of axis permutations are 0, 1, 1/2, sqrt(3)/2 ...: without rounding noise the
        # written bytes do not depend on the linear algebra library.
        mixing[block, block] = torch.round(solved, decimals=12)
    return mixing


def _fibonacci_directions(count: int) -> Tensor:
    index = torch.arange(count, dtype=torch.float64)
    height = 1.0 - (2.0 * index + 1.0) / count
    radius = torch.sqrt(1.0 - height * height)
    angle = index * math.pi * (3.0 - math.sqrt(5.0))
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle), height], dim=-1)
