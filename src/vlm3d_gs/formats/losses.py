"""What reading or writing a file loses, and what of it looks wrong, each in a few words.

Commands join the words of a file into one line. Nothing is said where nothing is lost.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.registry import SplatFormat
from vlm3d_gs.formats.stream import SplatStream

FEWEST = 16
"""Below this many Gaussians nothing can be told from how their numbers are distributed."""
SAMPLE = 500_000
"""Gaussians, evenly spread over a larger file, that are looked at for a maker's error."""
VARIED = 1e-3
"""Numbers that differ by less are one number, chosen by a person."""
ACTIVATED_SPREAD = 0.01
"""Opacity logits within 0..1, give or take this, are opacities that were activated before."""
AS_LARGE_AS_SCENE = 0.2
"""From this share of the scene's radius on, the median of all Gaussians is too large to be meant."""
STRAY = 0.001
"""Share of the Gaussians, at least one, that count as outliers if they are far enough."""
COARSER = 16.0
"""An outlier is worth a word when it makes positions this many times coarser."""


def of_reading(splat: SplatStream) -> list[str]:
    """Return what of a file was not read or obeyed, and what looks as if its maker had erred."""
    step = -(-len(splat) // SAMPLE) if len(splat) else 1
    few = splat.with_degree(0).mapped(lambda piece: piece.rows(slice(None, None, step)))
    sample = replace(few, lengths=tuple(-(-length // step) for length in splat.lengths)).gather()
    return [*splat.remarks, *activated_twice(sample.select(sample.sound()).bounded())]


def of_writing(splat: SplatStream, row: SplatFormat) -> list[str]:
    """Return what a format cannot hold of a splat that is about to be written.

    Args:
        splat: finite, in the axes of the file.
        row: the format.
    """
    losses = []
    if splat.degree > row.sh_degree:
        losses.append(f"harmonics of degree {splat.degree} cut to {row.sh_degree}")

    if row.grid or row.color_range is not None or row.sh_range is not None:
        found = list(splat.each(lambda piece: (_clamped(piece, row), _distances(piece))))
        clamped = sum(count for count, _ in found)
        if clamped:
            losses.append(f"colours of {clamped} of {len(splat)} Gaussians clamped")
        if row.grid:
            losses += _outlier(np.concatenate([distances for _, distances in found]), row)

    if splat.antialiased and not row.holds_filter:
        losses.append("that it was trained with the antialiased (mip) filter")
    if splat.comments and not row.holds_text:
        many = len(splat.comments)
        losses.append("1 comment" if many == 1 else f"{many} comments")
    return losses


def activated_twice(good: SplatArrays) -> list[str]:
    """Return a warning where opacities or scales look as if they were activated before writing.

    Args:
        good: Gaussians that are all finite.
    """
    if len(good) < FEWEST:
        return []

    warnings = []
    logits = good.opacity_logits
    inside = logits.min() >= -ACTIVATED_SPREAD and logits.max() <= 1.0 + ACTIVATED_SPREAD
    if inside and _varied(logits):
        warnings.append("opacities look activated twice: all logits lie in 0..1")

    # In a scene in millimetres all logarithms may be positive; but it is larger than its Gaussians.
    scales = good.log_scales
    radius = scene_radius(good.means)
    size = float(np.median(scales.max(1)))
    if (
        scales.min() >= 0
        and _varied(scales)
        and math.exp(min(size, 700)) > AS_LARGE_AS_SCENE * radius
    ):
        warnings.append(
            "scales look activated twice: all logarithms are positive, and most Gaussians are as large "
            "as the scene"
        )
    return warnings


def scene_radius(means: FloatArray) -> float:
    """Return the distance from the median within which 99 % of the centres lie, above 0."""
    center = np.median(means, axis=0)
    distances = np.linalg.norm((means - center).astype(np.float64), axis=1)
    return max(float(np.quantile(distances, 0.99)), 1e-12)


def _clamped(arrays: SplatArrays, row: SplatFormat) -> int:
    """Return the number of Gaussians whose colours or harmonics are beyond the range of a format."""
    outside = np.zeros(len(arrays), bool)
    if row.color_range is not None:
        low, high = row.color_range
        color = arrays.sh[:, 0] * np.float32(SH_C0) + np.float32(0.5)
        edge = (high - low) / 255.0  # rounding is not clamping
        outside |= ((color < low - edge) | (color > high + edge)).any(1)
    if row.sh_range is not None and row.sh_degree > 0:
        edge = row.sh_range / 64.0
        rest: NDArray[np.float32] = np.abs(arrays.sh[:, 1 : (row.sh_degree + 1) ** 2])
        outside |= (rest > row.sh_range + edge).any((1, 2))
    return int(outside.sum())


def _distances(arrays: SplatArrays) -> NDArray[np.float64]:
    """Return the largest coordinate of each Gaussian, by size, [N]."""
    return np.abs(arrays.means).max(1).astype(np.float64)


def _outlier(distances: NDArray[np.float64], row: SplatFormat) -> list[str]:
    """Return a warning where a few far Gaussians make the positions of all others coarse."""
    if len(distances) < 2:
        return []
    stray = max(1, int(STRAY * len(distances)))
    near, far = float(np.partition(distances, -stray - 1)[-stray - 1]), float(distances.max())
    if near <= 0:
        return []

    coarser = math.log1p(far) / math.log1p(near) if row.grid == "logarithmic" else far / near
    if coarser < COARSER:
        return []
    few = int((distances > COARSER * near).sum())
    which = "1 Gaussian" if few <= 1 else f"{few} Gaussians"
    others = "those packed with it" if row.grid == "chunks" else "all others"
    return [
        f"{which} up to {far:.3g} from the origin, others within {near:.3g}: positions of {others} become "
        f"{coarser:.3g} times coarser (cut it off with `convert --crop`)"
    ]


def _varied(values: FloatArray) -> bool:
    return float(np.ptp(values)) > VARIED
