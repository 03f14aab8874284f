"""SplatArrays: a splat as plain arrays in the axes of a file, which all formats share.

Each format turns its bytes into this dataclass and back; only this file converts it to and from
Gaussians of our world. Values are raw as in `core.gaussians.Gaussians`: logarithms of scales,
logits of opacities, quaternions wxyz, harmonics [N, K, 3]. Readers may return NaN and infinity, so
that a broken file can still be described.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vlm3d_gs.core.errors import ExportError, InputFileError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.harmonics import coefficient_count, degree_of
from vlm3d_gs.core.rotations import normalize_quats
from vlm3d_gs.formats.frames import world_to
from vlm3d_gs.formats.options import Frame

FloatArray = NDArray[np.float32]

LIMIT_LOGIT = 80.0
"""Stands for an infinite logit: its sigmoid is 0 or 1 as far as float32 can tell."""
FLAT_LOG_SCALE = math.log(float(np.finfo(np.float32).tiny))
"""Stands for the logarithm of a scale of zero."""
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
    antialiased: bool = False
    """Whether the scene was trained with Mip-Splatting's filter, and should be drawn with it."""
    comments: tuple[str, ...] = ()
    """What the maker of a file wrote into it, for the formats that hold text."""
    remarks: tuple[str, ...] = ()
    """What of a file was not read or not obeyed, for whoever reads it; never written."""

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

    @classmethod
    def of(cls, columns: Mapping[str, FloatArray], frame: Frame) -> SplatArrays:
        """Return the splat of arrays by the names that `columns` gives them."""
        none = np.empty(0, np.float32)
        return cls(none, none, none, none, none, frame).with_columns(columns)

    def with_columns(self, columns: Mapping[str, FloatArray]) -> SplatArrays:
        """Return a splat of other arrays, about which all else is true as well."""
        return replace(
            self,
            means=columns["means"],
            log_scales=columns["log_scales"],
            quats=columns["quats"],
            opacity_logits=columns["opacity_logits"],
            sh=columns["sh"],
        )

    def select(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> SplatArrays:
        """Return some of the Gaussians, or all in another order."""
        return self.with_columns({name: value[index] for name, value in self.columns().items()})

    def rows(self, rows: slice) -> SplatArrays:
        """Return some consecutive Gaussians, sharing memory."""
        return self.with_columns({name: value[rows] for name, value in self.columns().items()})

    def with_degree(self, degree: int) -> SplatArrays:
        """Return the same splat with harmonics of another degree: cut off, or filled with zeros.

        Raises:
            ConfigError: the degree is not 0, 1, 2 or 3.
        """
        count = coefficient_count(degree)
        missing = max(0, count - self.sh.shape[1])
        return replace(self, sh=np.pad(self.sh[:, :count], ((0, 0), (0, missing), (0, 0))))

    def sound(self) -> NDArray[np.bool_]:
        """Return [N], whether all numbers of a Gaussian are finite or limits that mean something.

        An infinite logit is an opacity of 0 or 1, and a logarithm of minus infinity a flat axis;
        trainers write both.
        """
        rows = [sound_rows(name, value) for name, value in self.columns().items()]
        sound: NDArray[np.bool_] = np.logical_and.reduce(rows)
        return sound

    def bounded(self) -> SplatArrays:
        """Return the same splat with finite numbers in place of the limits that `sound` allows."""
        return replace(
            self,
            opacity_logits=np.clip(self.opacity_logits, -LIMIT_LOGIT, LIMIT_LOGIT),
            log_scales=np.maximum(self.log_scales, FLAT_LOG_SCALE),
        )


def sound_rows(name: str, column: FloatArray) -> NDArray[np.bool_]:
    """Return [N], whether the numbers of a column, named as in `columns`, are as `sound` wants them."""
    if name == "opacity_logits":
        broken = np.isnan(column)
    elif name == "log_scales":
        broken = np.isnan(column) | np.isposinf(column)
    else:
        broken = ~np.isfinite(column)
    rows: NDArray[np.bool_] = np.logical_not(broken.any(axis=tuple(range(1, broken.ndim))))
    return rows


def joined(parts: Sequence[SplatArrays]) -> SplatArrays:
    """Return several splats of the same axes as one; those of lower degree get zeros.

    Args:
        parts: at least one.
    """
    degree = max(math.isqrt(part.sh.shape[1]) - 1 for part in parts)
    even = [part.with_degree(degree) for part in parts]
    columns = {
        name: np.concatenate([part.columns()[name] for part in even]) for name in even[0].columns()
    }
    return replace(
        even[0].with_columns(columns),
        antialiased=any(part.antialiased for part in parts),
        comments=tuple(dict.fromkeys(text for part in parts for text in part.comments)),
        remarks=tuple(dict.fromkeys(text for part in parts for text in part.remarks)),
    )


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


def turned(arrays: SplatArrays, frame: Frame) -> SplatArrays:
    """Return a sound splat in other axes, as float32, with quaternions of unit length and no limits."""
    arrays = arrays.bounded()
    means, quats, sh = _turn_between(arrays.frame, frame, arrays.sh.shape[1])(
        arrays.means, arrays.quats, arrays.sh
    )
    return replace(
        arrays,
        means=means,
        log_scales=arrays.log_scales.astype(np.float32, copy=False),
        quats=quats,
        opacity_logits=arrays.opacity_logits.astype(np.float32, copy=False),
        sh=sh,
        frame=frame,
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


def expect_finite_splat(bad: int, count: int, source: Path) -> None:
    """Require that a file holds Gaussians, and none of them broken.

    Args:
        bad: Gaussians that are not sound.
        count: all of them.
        source: the file.

    Raises:
        InputFileError: `count` is 0 or `bad` is not.
    """
    if count == 0:
        raise InputFileError(f"{source} holds no Gaussians.")
    if bad:
        raise InputFileError(
            f"{source} holds NaN or infinite values in {bad} of {count} Gaussians; export it again, "
            "or skip them with `vlm3d-gs convert --drop-broken`."
        )


def surely_finite(arrays: SplatArrays) -> bool:
    """Return whether all sums are finite, which takes a tenth of the time of looking at each number."""
    with np.errstate(over="ignore", invalid="ignore"):
        return all(bool(np.isfinite(value.sum())) for value in arrays.columns().values())


def _is_limit(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return where values are infinite and mean something, as `SplatArrays.sound` does."""
    if name == "opacity_logits":
        return tensor.isinf()
    return tensor.isneginf() if name == "log_scales" else torch.zeros_like(tensor, dtype=torch.bool)


@lru_cache(maxsize=32)
def _turn_between(
    start: Frame, end: Frame, coefficients: int
) -> Callable[[FloatArray, FloatArray, FloatArray], tuple[FloatArray, FloatArray, FloatArray]]:
    """Return what turns positions, quaternions and harmonics from some axes into others."""
    if start == end:
        return lambda means, quats, sh: (
            means.astype(np.float32, copy=False),
            unit_quats(quats),
            sh.astype(np.float32, copy=False),
        )

    # Compiled by Numba, which takes as long to load as a small splat to convert: where it is needed.
    from vlm3d_gs.formats.turn import Turn

    rotation = world_to(end).double() @ world_to(start).double().T
    return Turn(rotation, degree_of(coefficients))


def unit_quats(quats: FloatArray) -> FloatArray:
    """Return unit quaternions, [N, 4], rounded once; zero ones become the identity."""
    wide = torch.from_numpy(np.ascontiguousarray(quats, np.float64))
    unit: FloatArray = normalize_quats(wide).numpy().astype(np.float32)
    return unit


def expect_sane_scales(arrays: SplatArrays) -> SplatArrays:
    """Return the arrays if a viewer can draw them.

    Raises:
        ExportError: a scale above e^20 world units.
    """
    largest = float(arrays.log_scales.max(initial=-np.inf))
    if largest > MAX_LOG_SCALE:
        raise ExportError(
            f"Cannot write the scene: the logarithm of a scale is {largest:.4g}, above {MAX_LOG_SCALE:g}. "
            "Viewers freeze on such Gaussians; the scales were probably activated twice. Remove them first."
        )
    return arrays
