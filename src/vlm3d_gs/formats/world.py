"""Between the arrays of files and Gaussians of our world: the one file of this room that loads torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlm3d_gs.core.bands import degree_of
from vlm3d_gs.core.errors import ConfigError, ExportError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.rotations import nonzero_quats, quat_multiply, rotmat_to_quat
from vlm3d_gs.formats.arrays import (
    SplatArrays,
    expect_finite_splat,
    expect_sane_scales,
    surely_finite,
    turned,
)
from vlm3d_gs.formats.frames import rotation_to, sh_rotation
from vlm3d_gs.formats.options import Frame


def to_arrays(gaussians: Gaussians, frame: Frame) -> SplatArrays:
    """Return a scene in the axes of a file, ready to be written.

    Args:
        gaussians: N >= 1 finite Gaussians in our world, on any device.
        frame: axes of the file.

    Returns:
        Float32 arrays rounded once, from double precision; quaternions of unit length.

    Raises:
        ExportError: no Gaussians, a NaN or an infinity, or a scale above e^20 world units.
    """
    expect_writable(gaussians)
    return turned(world_arrays(gaussians), frame)


def expect_writable(gaussians: Gaussians) -> None:
    """Require a scene that a file can hold.

    Raises:
        ExportError: as `to_arrays`.
    """
    if len(gaussians) == 0:
        raise ExportError("There are no Gaussians to write: the scene is empty.")
    arrays = world_arrays(gaussians)
    doubtful = {} if surely_finite(arrays) else gaussians.parameters()
    for name, tensor in doubtful.items():
        bad = int((~tensor.isfinite() & ~_is_limit(name, tensor)).sum())
        if bad:
            raise ExportError(f"Cannot write the scene: {bad} values of {name} are not finite.")
    expect_sane_scales(arrays)


def world_arrays(gaussians: Gaussians) -> SplatArrays:
    """Return a scene as arrays in our own axes, in its precision, sharing memory on the CPU."""
    tensors = gaussians.detach().to("cpu").parameters()
    arrays = SplatArrays.of({name: value.numpy() for name, value in tensors.items()}, "world")
    return replace(arrays, antialiased=gaussians.antialiased)


def to_gaussians(arrays: SplatArrays, source: Path) -> Gaussians:
    """Return what a file holds as Gaussians of our world.

    Args:
        arrays: as read.
        source: the file, named in the error.

    Returns:
        Float32 Gaussians on the CPU; quaternions of unit length, zero ones the identity.

    Raises:
        InputFileError: no Gaussians, or a value that is not finite.
    """
    bad = 0 if surely_finite(arrays) else int((~arrays.sound()).sum())
    expect_finite_splat(bad, len(arrays), source)
    return as_gaussians(turned(arrays, "world"))


def as_gaussians(arrays: SplatArrays) -> Gaussians:
    """Return arrays as Gaussians in the same axes, sharing memory."""
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(value, np.float32))
        for name, value in arrays.columns().items()
    }
    return Gaussians(**tensors, antialiased=arrays.antialiased)


def world_to(frame: Frame) -> Tensor:
    """Return the rotation from our world into a frame, [3, 3] float32; see `frames.rotation_to`."""
    return torch.from_numpy(rotation_to(frame)).float()


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
    mixing = torch.from_numpy(sh_rotation(exact.numpy(), degree_of(gaussians.sh.shape[1]))).to(
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


def _is_limit(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return where values are infinite and mean something, as `SplatArrays.sound` does."""
    if name == "opacity_logits":
        return tensor.isinf()
    return tensor.isneginf() if name == "log_scales" else torch.zeros_like(tensor, dtype=torch.bool)
