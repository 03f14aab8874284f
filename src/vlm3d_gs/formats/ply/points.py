"""Point clouds as splats: a ball for each point, as large as its distance to its neighbours.

The size is the root mean square distance to the three nearest neighbours, as the 3DGS paper's code
starts from a point cloud; stray points far from all others do not become large.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.options import Frame
from vlm3d_gs.formats.ply.header import read_header
from vlm3d_gs.formats.ply.rows import PlyRows, read_rows

NEIGHBOURS = 3
OPACITY_LOGIT = 3.0
"""Opacity 0.95: what is behind a surface of points should not shine through."""
SMALLEST, LARGEST = 0.1, 4.0
"""Bounds of a size, as a share of the median of all."""
LONE_SIZE = 0.01
"""Size of points without neighbours at any distance."""
COLORS = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)
"""Names that programs give to colours, bytes or 0..1; clouds without them are grey."""


def load_points(source: Path) -> SplatArrays:
    """Read the vertices of any PLY as Gaussians of degree 0, in the file's axes.

    Raises:
        InputFileError: no PLY, truncated, or without positions.
    """
    header = read_header(source)
    rows = read_rows(source, header, ("x", "y", "z"))
    means = rows.columns("x", "y", "z")
    if not np.isfinite(means).all(1).any():
        raise InputFileError(f"{source} holds no points.")
    return replace(
        as_balls(means, _colors(rows), header.frame),
        comments=header.free_comments,
        remarks=("points read as balls, as large as their distances",),
    )


def as_balls(means: FloatArray, colors: FloatArray, frame: Frame) -> SplatArrays:
    """Return a ball for each point; sizes are NaN where positions are not finite.

    Args:
        means: [N, 3] positions.
        colors: [N, 3] of 0..1.
        frame: axes of the positions.
    """
    sound = np.isfinite(means).all(1)
    sizes = np.full(len(means), np.nan, np.float32)
    sizes[sound] = _sizes(means[sound])
    quats = np.zeros((len(means), 4), np.float32)
    quats[:, 0] = 1.0
    return SplatArrays(
        means=means,
        log_scales=np.repeat(np.log(sizes)[:, None], 3, axis=1),
        quats=quats,
        opacity_logits=np.full(len(means), OPACITY_LOGIT, np.float32),
        sh=((colors - 0.5) / SH_C0)[:, None].astype(np.float32),
        frame=frame,
    )


def _sizes(means: FloatArray) -> FloatArray:
    """Return the standard deviation of each point's Gaussian, [N]."""
    from scipy.spatial import KDTree

    count = min(len(means), NEIGHBOURS + 1)
    if count == 1:
        return np.full(1, LONE_SIZE, np.float32)
    distances, _ = KDTree(means).query(means, count)
    sizes = np.sqrt(np.square(distances[:, 1:]).mean(1))  # the nearest is the point itself
    usual = float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else LONE_SIZE
    limited: FloatArray = np.clip(sizes, SMALLEST * usual, LARGEST * usual).astype(np.float32)
    return limited


def _colors(rows: PlyRows) -> FloatArray:
    """Return colours of 0..1, [N, 3]."""
    for names in COLORS:
        if {*names} <= {*rows.names}:
            values = rows.columns(*names)
            return values / np.float32(255.0) if rows.are_bytes(names[0]) else values
    return np.full((len(rows), 3), 0.5, np.float32)
