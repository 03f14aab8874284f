"""SplatArrays: a splat as plain arrays in the axes of a file, which all formats share.

Each format turns its bytes into this dataclass and back; only `formats.world` converts it to and
from Gaussians, so that files are converted into each other without torch. Values are raw as in
`core.gaussians.Gaussians`: logarithms of scales, logits of opacities, quaternions wxyz, harmonics
[N, K, 3]. Readers may return NaN and infinity, so that a broken file can still be described.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.bands import coefficient_count, degree_of
from vlm3d_gs.core.errors import ExportError, InputFileError
from vlm3d_gs.formats.frames import SplatTurn, half_turn, rotation_to
from vlm3d_gs.formats.options import Frame
from vlm3d_gs.formats.quats import unit_quats

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


@lru_cache(maxsize=32)
def _turn_between(start: Frame, end: Frame, coefficients: int) -> SplatTurn:
    """Return what turns positions, quaternions and harmonics from some axes into others."""
    if start == end:
        return lambda means, quats, sh: (
            means.astype(np.float32, copy=False),
            unit_quats(quats),
            sh.astype(np.float32, copy=False),
        )

    rotation = rotation_to(end) @ rotation_to(start).T
    degree = degree_of(coefficients)
    if np.array_equal(rotation, np.diag(np.diag(rotation))):
        return half_turn(rotation, degree)

    # Compiled by Numba, which takes as long to load as a small splat to convert: where it is needed.
    from vlm3d_gs.formats.turn import Turn

    return Turn(rotation, degree)


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
