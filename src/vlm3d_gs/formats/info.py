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

from vlm3d_gs.formats.arrays import FloatArray, SplatArrays, sound_rows
from vlm3d_gs.formats.convert import format_of_file, load_arrays
from vlm3d_gs.formats.losses import of_reading, scene_radius
from vlm3d_gs.formats.options import AXES, Frame
from vlm3d_gs.formats.quantize import sigmoid
from vlm3d_gs.formats.stream import SplatStream

OPACITY_BINS = 10
BAR_WIDTH = 40
"""Characters of the longest bar."""
HUGE_SCALE, MANY_HUGE = 1.0, 0.01
"""A Gaussian is huge from this share of the scene's radius; above this share of huge ones, warn."""
ABSURD_SCALE = 10.0
"""From this many radii of the scene on, even a single Gaussian is worth a warning."""
INVISIBLE_SCALE = 1e-9
"""A Gaussian whose largest axis is below this share of the radius is invisible."""


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
    """Axes of the file: those that it names, else the usual ones of its format."""
    low: tuple[float, float, float]
    """Smallest coordinates of the centres, in the file's axes; finite ones only."""
    high: tuple[float, float, float]
    opacity_histogram: tuple[int, ...]
    """Gaussians in each tenth of opacity, from 0 to 1."""
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
    path: str | Path, *, frame: Frame | None = None, as_points: bool = False
) -> SplatInfo:
    """Look into a splat file.

    Args:
        path: the file.
        frame: as in `convert.read_splat`.
        as_points: as in `convert.read_splat`.

    Raises:
        InputFileError: the file cannot be read as a splat; NaN alone is only a warning.
        MissingDependencyError: a USD file without usd-core.
    """
    source = Path(path)
    arrays = load_arrays(source, frame=frame, as_points=as_points)
    good = arrays.select(arrays.sound()).bounded()

    none = (math.nan, math.nan, math.nan)
    low, high = (
        (_triple(good.means.min(0)), _triple(good.means.max(0))) if len(good) else (none, none)
    )

    opacities, _ = np.histogram(sigmoid(good.opacity_logits), OPACITY_BINS, (0.0, 1.0))
    powers, counts = np.unique(
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
        opacity_histogram=tuple(int(count) for count in opacities),
        scale_histogram={int(p): int(n) for p, n in zip(powers, counts, strict=True)},
        warnings=tuple(_warnings(arrays, good)),
    )


def info_text(info: SplatInfo) -> str:
    """Return the findings as text for a person."""
    lines = [
        f"{info.file}: {info.format}, {info.bytes / 2**20:.2f} MiB",
        f"  {info.count} Gaussians, harmonics of degree {info.sh_degree}",
        f"  axes    {info.frame}: {AXES[info.frame]}",
        f"  bounds  {_point(info.low)} to {_point(info.high)}",
        "  opacity",
    ]

    largest = max(*info.opacity_histogram, 1)
    for tenth, count in enumerate(info.opacity_histogram):
        lines.append(f"    {tenth / 10:.1f} - {(tenth + 1) / 10:.1f}  {_bar(count, largest)}")

    lines.append("  standard deviations, each axis")
    largest = max([*info.scale_histogram.values(), 1])
    for power, count in sorted(info.scale_histogram.items()):
        lines.append(f"    from 1e{power:<+4d}  {_bar(count, largest)}")

    return "\n".join([*lines, *(f"  warning: {warning}" for warning in info.warnings)])


def _warnings(arrays: SplatArrays, good: SplatArrays) -> list[str]:
    warnings = []
    for name, value in arrays.columns().items():
        bad = int((~sound_rows(name, value)).sum())
        if bad:
            warnings.append(f"{name} is NaN or infinite in {bad} Gaussians")

    zero = int((np.square(arrays.quats).sum(1) == 0).sum())
    if zero:
        warnings.append(f"{zero} quaternions are zero; they are read as no rotation")

    if len(good) == 0:
        return [*warnings, "no Gaussian is finite"]
    return [*warnings, *_scale_warnings(good), *of_reading(SplatStream.of_arrays(arrays))]


def _scale_warnings(good: SplatArrays) -> list[str]:
    # One Gaussian alone, or several in one place, are their own scene.
    largest = good.log_scales.max(1).astype(np.float64)
    usual, radius = float(np.median(largest)), math.log(scene_radius(good.means))
    largest -= radius if radius > usual + math.log(INVISIBLE_SCALE) else usual

    warnings = []
    absurd = int((largest > math.log(ABSURD_SCALE)).sum())
    if absurd:
        warnings.append(f"{absurd} Gaussians are over {ABSURD_SCALE:g} times as large as the scene")

    huge = int((largest > math.log(HUGE_SCALE)).sum())
    if len(good) > 1 and huge > MANY_HUGE * len(good):
        warnings.append(f"{huge} Gaussians are as large as the scene")

    invisible = int((largest < math.log(INVISIBLE_SCALE)).sum())
    if invisible:
        warnings.append(f"{invisible} Gaussians are too small to be seen")
    return warnings


def _triple(values: FloatArray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _point(values: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _bar(count: int, largest: int) -> str:
    return f"{count:>9}  {'#' * math.ceil(BAR_WIDTH * count / largest)}"
