"""SplatArrays: a splat as plain arrays in the axes of a file, which all formats share.

Each format turns its bytes into this dataclass and back; only this file converts it to and from
Gaussians of our world. Values are raw as in `core.gaussians.Gaussians`: logarithms of scales,
logits of opacities, quaternions wxyz, harmonics [N, K, 3]. Readers may return NaN and infinity, so
that a broken file can still be described.
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
"""Gaussians rotated in double precision at once; bounds the memory beside the result."""
MAX_LOG_SCALE = 20.0
"""e^20 world units: no scene has such a Gaussian, but scales that were activated twice do."""


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
        count = coefficient_count(degree)
        missing = max(0, count - self.sh.shape[1])
        return replace(self, sh=np.pad(self.sh[:, :count], ((0, 0), (0, missing), (0, 0))))

    def finite(self) -> NDArray[np.bool_]:
        """Return [N], whether all numbers of a Gaussian are finite."""
        finite = np.ones(len(self), bool)
        for value in self.columns().values():
            finite &= np.isfinite(value).all(axis=tuple(range(1, value.ndim)))
        return finite


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
    chunks: dict[str, list[torch.Tensor]] = {name: [] for name in gaussians.parameters()}
    for start in range(0, len(gaussians), CHUNK):
        rows = torch.arange(start, min(start + CHUNK, len(gaussians)))
        chunk = gaussians.detach().select(rows).to("cpu", torch.float64)
        rotated = rotate_gaussians(chunk, rotation)
        unit = {**rotated.parameters(), "quats": normalize_quats(rotated.quats)}
        for name, value in unit.items():
            chunks[name].append(value.float())

    return SplatArrays(
        **{name: torch.cat(values).numpy() for name, values in chunks.items()}, frame=frame
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
    arrays = _validated(arrays, source)
    gaussians = Gaussians.from_parameters(
        {
            name: torch.from_numpy(np.ascontiguousarray(value, np.float32))
            for name, value in arrays.columns().items()
        }
    )
    if arrays.frame == "world":
        return gaussians
    return rotate_gaussians(gaussians, world_to(arrays.frame).T)


def change_frame(arrays: SplatArrays, frame: Frame, source: Path) -> SplatArrays:
    """Return what a file holds in the axes of another, ready to be written.

    Where both have the same axes nothing is rotated, and only the quaternions are rounded, to unit
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
    ready = _validated(arrays, source)
    _expect_sane_scale(float(ready.log_scales.max()))
    return ready


def _validated(arrays: SplatArrays, source: Path) -> SplatArrays:
    """Return the arrays with unit quaternions; raise if there are none or not all are finite."""
    if len(arrays) == 0:
        raise InputFileError(f"{source} holds no Gaussians.")
    bad = int((~arrays.finite()).sum())
    if bad:
        raise InputFileError(
            f"{source} holds NaN or infinite values in {bad} of {len(arrays)} Gaussians; export it again, "
            "or skip them with `vlm3d-gs convert --drop-broken`."
        )
    quats = normalize_quats(torch.from_numpy(np.ascontiguousarray(arrays.quats, np.float32)))
    return replace(arrays, quats=quats.numpy())


def _expect_sane_scale(largest: float) -> None:
    if largest > MAX_LOG_SCALE:
        raise ExportError(
            f"Cannot write the scene: the logarithm of a scale is {largest:.4g}, above {MAX_LOG_SCALE:g}. "
            "Viewers freeze on such Gaussians; the scales were probably activated twice. Remove them first."
        )
