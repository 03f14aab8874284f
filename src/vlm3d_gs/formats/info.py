"""What is in a splat file: numbers, bounds, histograms, and what looks wrong.

Works on the raw arrays in the file's own axes, so a file that no renderer could show can still be
described.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.convert import format_of_file, load_arrays
from vlm3d_gs.formats.options import AXES, Frame, SpzFrame
from vlm3d_gs.formats.quantize import sigmoid

OPACITY_BINS = 10
BAR = 40
"""Characters of the longest bar."""
HUGE_SCALE, MANY_HUGE = 1.0, 0.01
"""A Gaussian is huge from this share of the scene's radius; so many huge ones are worth a word."""
ABSURD_SCALE = 10.0
"""From this many radii of the scene a single Gaussian is worth a word."""
NEEDLE = 1e-9
"""Below this share of the radius a Gaussian's largest axis shows nothing."""
ACTIVATED_SPREAD = 0.01
"""Opacities squeezed into sigmoid(0)..sigmoid(1), give or take this, were activated before."""


@dataclass(frozen=True, slots=True)
class SplatInfo:
    """What a splat file holds."""

    file: str
    format: str
    """Name in the table of formats."""
    bytes: int
    count: int
    sh_degree: int
    frame: Frame
    """Axes of the file, by its own word or its format's custom."""
    low: tuple[float, float, float]
    """Smallest coordinates of the centres, in the file's axes; finite ones only."""
    high: tuple[float, float, float]
    opacity_histogram: tuple[int, ...]
    """Gaussians a tenth of opacity, from 0 to 1."""
    scale_histogram: dict[int, int]
    """Axes by the power of ten of their standard deviation: key -2 counts 0.01 to 0.1."""
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; bounds that do not exist are null."""
        data = asdict(self)
        for name in ("low", "high"):
            data[name] = [value if math.isfinite(value) else None for value in data[name]]
        return data


def inspect_splat(
    path: str | Path, *, frame: Frame | None = None, spz_frame: SpzFrame = "raw"
) -> SplatInfo:
    """Look into a splat file.

    Args:
        path: the file.
        frame: as in `formats.read_splat`.
        spz_frame: as in `formats.read_splat`.

    Raises:
        InputFileError: the file cannot be read as a splat; NaN alone is only a warning.
        MissingDependencyError: a USD file without usd-core.
    """
    source = Path(path)
    arrays = load_arrays(source, frame=frame, spz_frame=spz_frame)
    good = arrays.select(arrays.finite())
    none = (math.nan, math.nan, math.nan)
    low, high = (
        (_triple(good.means.min(0)), _triple(good.means.max(0))) if len(good) else (none, none)
    )
    opacities, _ = np.histogram(sigmoid(good.opacity_logits), OPACITY_BINS, (0.0, 1.0))
    powers, numbers = np.unique(
        np.floor(good.log_scales.astype(np.float64) / math.log(10)), return_counts=True
    )
    return SplatInfo(
        file=str(source),
        format=format_of_file(source).name,
        bytes=source.stat().st_size,
        count=len(arrays),
        sh_degree=math.isqrt(arrays.sh.shape[1]) - 1,
        frame=arrays.frame,
        low=low,
        high=high,
        opacity_histogram=tuple(int(number) for number in opacities),
        scale_histogram={int(p): int(n) for p, n in zip(powers, numbers, strict=True)},
        warnings=tuple(_warnings(arrays, good)),
    )


def info_text(info: SplatInfo) -> str:
    """Return the findings for a person."""
    lines = [
        f"{info.file}: {info.format}, {info.bytes / 2**20:.2f} MiB",
        f"  {info.count} Gaussians, harmonics of degree {info.sh_degree}",
        f"  axes    {info.frame}: {AXES[info.frame]}",
        f"  bounds  {_point(info.low)} to {_point(info.high)}",
        "  opacity",
    ]
    most = max(*info.opacity_histogram, 1)
    for index, number in enumerate(info.opacity_histogram):
        lines.append(f"    {index / 10:.1f} - {(index + 1) / 10:.1f}  {_bar(number, most)}")
    lines.append("  standard deviations, each axis")
    most = max([*info.scale_histogram.values(), 1])
    for power, number in sorted(info.scale_histogram.items()):
        lines.append(f"    from 1e{power:<+4d}  {_bar(number, most)}")
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in info.warnings)])


def _warnings(arrays: SplatArrays, good: SplatArrays) -> list[str]:
    found = []
    for name, value in arrays.columns().items():
        bad = int((~np.isfinite(value).reshape(len(arrays), -1).all(1)).sum())
        if bad:
            found.append(f"{name} is NaN or infinite in {bad} Gaussians")
    zero = int((np.square(arrays.quats).sum(1) == 0).sum())
    if zero:
        found.append(f"{zero} quaternions are zero; they are read as no rotation")
    if len(good) == 0:
        return [*found, "no Gaussian is whole"]
    return [*found, *_scale_warnings(good), *_activation_warnings(good)]


def _scale_warnings(good: SplatArrays) -> list[str]:
    center = np.median(good.means, axis=0)
    distances = np.linalg.norm((good.means - center).astype(np.float64), axis=1)
    radius = max(float(np.quantile(distances, 0.99)), 1e-12)
    largest = good.log_scales.max(1).astype(np.float64) - math.log(radius)
    found = []
    absurd = int((largest > math.log(ABSURD_SCALE)).sum())
    if absurd:
        found.append(f"{absurd} Gaussians are over {ABSURD_SCALE:g} times as large as the scene")
    huge = int((largest > math.log(HUGE_SCALE)).sum())
    if len(good) > 1 and huge > MANY_HUGE * len(good):
        found.append(f"{huge} Gaussians are as large as the scene")
    lost = int((largest < math.log(NEEDLE)).sum())
    if lost:
        found.append(f"{lost} Gaussians are too small to be seen")
    return found


def _activation_warnings(good: SplatArrays) -> list[str]:
    """Say whether opacities or scales look as if a program had activated them before writing."""
    found = []
    logits: NDArray[np.float64] = good.opacity_logits.astype(np.float64)
    inside = logits.min() >= -ACTIVATED_SPREAD and logits.max() <= 1.0 + ACTIVATED_SPREAD
    if inside and _varied(good.opacity_logits):
        found.append("opacities look activated twice: all logits lie in 0..1")
    if good.log_scales.min() >= 0 and _varied(good.log_scales):
        found.append("scales look activated twice: all logarithms are positive")
    return found


def _varied(values: FloatArray) -> bool:
    return float(np.ptp(values)) > 1e-3


def _triple(values: FloatArray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _point(values: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _bar(number: int, most: int) -> str:
    return f"{number:>9}  {'#' * math.ceil(BAR * number / most)}"
