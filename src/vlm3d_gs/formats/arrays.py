"""SplatArrays: a splat as plain arrays in the axes of a file, the common tongue of all formats.

Each format turns its bytes into this record and back; only here are Gaussians of our world made of
it. Values are raw as in `scene.Gaussians`: logarithms of scales, logits of opacities, quaternions
wxyz, harmonics [N, K, 3]. Readers may bring NaN and infinities as far as here, so that a broken
file can still be described.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vlm3d_gs.core.errors import ExportError, InputFileError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.harmonics import coefficient_count
from vlm3d_gs.core.rotations import normalize_quats
from vlm3d_gs.formats.frames import rotate_gaussians, world_to
from vlm3d_gs.formats.options import Frame

FloatArray = NDArray[np.float32]

CHUNK = 65_536
"""Gaussians turned in double precision at once; bounds the memory beside the result."""
MOST_LOG_SCALE = 20.0
"""e^20 world units: no scene has such a Gaussian, a scale that was activated twice soon has."""


@dataclass(frozen=True, eq=False)
class SplatArrays:
    """N Gaussians as float32 arrays in the axes of a file."""

    means: FloatArray
    """[N, 3] centres."""
    log_scales: FloatArray
    """[N, 3] natural logarithms of the standard deviations."""
    quats: FloatArray
    """[N, 4] wxyz; any norm when read, unit when written."""
    opacity_logits: FloatArray
    """[N] opacity before the sigmoid."""
    sh: FloatArray
    """[N, K, 3], K in {1, 4, 9, 16}."""
    frame: Frame
    """Axes that all of the above are in."""

    def __len__(self) -> int:
        return len(self.means)

    def columns(self) -> dict[str, FloatArray]:
        """Return the arrays by the names that `Gaussians` gives them."""
        return {
            "means": self.means,
            "log_scales": self.log_scales,
            "quats": self.quats,
            "opacity_logits": self.opacity_logits,
            "sh": self.sh,
        }

    def select(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> SplatArrays:
        """Return some of the Gaussians, or all in another order."""
        return SplatArrays(
            **{name: value[index] for name, value in self.columns().items()}, frame=self.frame
        )

    def with_degree(self, degree: int) -> SplatArrays:
        """Return the same splat with harmonics of another degree: cut off, or filled with zeros.

        Raises:
            ConfigError: the degree is not 0, 1, 2 or 3.
        """
        wanted = coefficient_count(degree)
        missing = max(0, wanted - self.sh.shape[1])
        return replace(self, sh=np.pad(self.sh[:, :wanted], ((0, 0), (0, missing), (0, 0))))

    def finite(self) -> NDArray[np.bool_]:
        """Return [N], whether all numbers of a Gaussian are finite."""
        found = np.ones(len(self), bool)
        for value in self.columns().values():
            found &= np.isfinite(value).reshape(len(self), -1).all(1)
        return found


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
    if len(gaussians) == 0:
        raise ExportError("There are no Gaussians to write: the scene is empty.")
    for name, tensor in gaussians.parameters().items():
        bad = int((~tensor.isfinite()).sum())
        if bad:
            raise ExportError(f"Cannot write the scene: {bad} values of {name} are not finite.")
    _expect_sane_scale(float(gaussians.log_scales.max()))
    rotation = world_to(frame).double()
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in gaussians.parameters()}
    for start in range(0, len(gaussians), CHUNK):
        some = gaussians.detach().select(torch.arange(start, min(start + CHUNK, len(gaussians))))
        there = rotate_gaussians(some.to("cpu", torch.float64), rotation)
        unit = {**there.parameters(), "quats": normalize_quats(there.quats)}
        for name, value in unit.items():
            parts[name].append(value.float())
    return SplatArrays(
        **{name: torch.cat(values).numpy() for name, values in parts.items()}, frame=frame
    )


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
    arrays = _whole(arrays, source)
    gaussians = Gaussians.from_parameters(
        {
            name: torch.from_numpy(np.ascontiguousarray(value, np.float32))
            for name, value in arrays.columns().items()
        }
    )
    if arrays.frame == "world":
        return gaussians
    return rotate_gaussians(gaussians, world_to(arrays.frame).T)


def turned(arrays: SplatArrays, frame: Frame, source: Path) -> SplatArrays:
    """Return what a file holds in the axes of another, ready to be written.

    Where both axes are the same nothing is turned, so nothing is rounded but the quaternions'
    length.

    Args:
        arrays: as read.
        frame: axes of the file to write.
        source: the file read, named in the error.

    Raises:
        InputFileError: no Gaussians, or a value that is not finite.
        ExportError: a scale above e^20 world units.
    """
    if arrays.frame != frame:
        return to_arrays(to_gaussians(arrays, source), frame)
    whole = _whole(arrays, source)
    _expect_sane_scale(float(whole.log_scales.max()))
    return whole


def _whole(arrays: SplatArrays, source: Path) -> SplatArrays:
    """Return finite arrays with unit quaternions, or tell what is wrong with the file."""
    if len(arrays) == 0:
        raise InputFileError(f"{source} holds no Gaussians.")
    bad = int((~arrays.finite()).sum())
    if bad:
        raise InputFileError(
            f"{source} holds NaN or infinite values in {bad} of {len(arrays)} Gaussians; export it again, "
            "or leave them out with `vlm3d-gs convert --drop-broken`."
        )
    quats = normalize_quats(torch.from_numpy(np.ascontiguousarray(arrays.quats, np.float32)))
    return replace(arrays, quats=quats.numpy())


def _expect_sane_scale(largest: float) -> None:
    if largest > MOST_LOG_SCALE:
        raise ExportError(
            f"Cannot write the scene: the logarithm of a scale is {largest:.4g}, above {MOST_LOG_SCALE:g}. "
            "Viewers freeze on such Gaussians; the scales were probably activated twice. Remove them first."
        )
