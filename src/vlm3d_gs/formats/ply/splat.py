"""The splat PLY of the 3DGS paper's code (INRIA), which every viewer loads; a run's main product.

Binary little endian, one `vertex` element of float32 properties in this order: x y z, nx ny nz
(zeros), f_dc_0..2, f_rest_* (channel-major: all red coefficients, then green, then blue), opacity
(logit), scale_0..2 (natural log), rot_0..3 (unit quaternion, wxyz). PLY names no frame. Viewers
assume x right, y down, z away, so scenes are rotated into that on writing and back on reading.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement, PlyParseError

from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.options import Frame, PlyFrame
from vlm3d_gs.formats.ply.header import PlyHeader, expect_rows, read_header

REST_COUNTS = (0, 9, 24, 45, 72)
"""Allowed numbers of f_rest properties: degree 0 to 4. Of degree 4, the last band is dropped."""
KEPT_REST = 15
"""Coefficients per channel beyond degree 0 that a scene can hold."""
LEADING = ("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2")
TRAILING = ("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")
REQUIRED = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", *TRAILING)
COMMENTS = {
    "viewer": "axes: x right, y down, z away from the front camera",
    "world": "axes: x towards the front camera, y its right, z up",
}


def save_ply(arrays: SplatArrays, path: Path, *, pad_sh3: bool = False) -> None:
    """Write arrays as they are, with all 45 f_rest properties if `pad_sh3`."""
    normals = np.zeros_like(arrays.means)
    rest = arrays.sh[:, 1:].transpose(2, 1, 0)  # [3, K-1, N]: channel-major
    if pad_sh3:
        rest = np.pad(rest, ((0, 0), (0, KEPT_REST - rest.shape[1]), (0, 0)))
    rest = rest.reshape(-1, len(arrays))

    columns = [*arrays.means.T, *normals.T, *arrays.sh[:, 0].T, *rest]
    columns += [arrays.opacity_logits, *arrays.log_scales.T, *arrays.quats.T]
    names = (*LEADING, *(f"f_rest_{index}" for index in range(len(rest))), *TRAILING)
    table = np.empty((len(arrays), len(names)), "<f4")
    for index, column in enumerate(columns):
        table[:, index] = column
    rows = table.view(np.dtype([(name, "<f4") for name in names])).reshape(len(arrays))

    comments = [COMMENTS["world" if arrays.frame == "world" else "viewer"]]
    element = PlyElement.describe(rows, "vertex")
    PlyData([element], text=False, byte_order="<", comments=comments).write(str(path))


def load_ply(source: Path) -> SplatArrays:
    """Read a splat PLY as arrays in the file's axes, whether finite or not.

    Raises:
        InputFileError: no such file, not a PLY, truncated, or not a Gaussian splat. The claims of the
            header are checked against the size of the file before anything is allocated.
    """
    header = read_header(source)
    _expect_splat(source, header)
    expect_rows(source, header)
    frame: Frame = "world" if COMMENTS["world"] in header.comments else "rdf"
    try:
        return _from_table(PlyData.read(str(source))["vertex"].data, header, frame)
    except (PlyParseError, ValueError, OverflowError, EOFError) as error:
        raise InputFileError(f"{source} is not a readable PLY file: {error}") from error


def axes_of(frame: PlyFrame) -> Frame:
    """Return the axes of a PLY file for the user's choice.

    Raises:
        ConfigError: neither `viewer` nor `world`.
    """
    if frame == "viewer":
        return "rdf"
    if frame == "world":
        return "world"
    raise ConfigError(f"The frame of a PLY file must be viewer or world, got {frame!r}.")


def _from_table(data: NDArray[np.void], header: PlyHeader, frame: Frame) -> SplatArrays:
    """Return the arrays of a vertex table."""

    def columns(*names: str) -> FloatArray:
        values = np.empty((len(data), len(names)), np.float32)
        # Doubles beyond float32 become infinite, which `to_gaussians` refuses.
        with np.errstate(over="ignore"):
            for index, name in enumerate(names):
                values[:, index] = data[name]
        return values

    per_channel = sum(name.startswith("f_rest_") for name in header.tables[0].names) // 3
    kept = min(per_channel, KEPT_REST)
    sh = np.empty((len(data), 1 + kept, 3), np.float32)
    sh[:, 0] = columns("f_dc_0", "f_dc_1", "f_dc_2")
    for channel in range(3):
        first = channel * per_channel
        sh[:, 1:, channel] = columns(*(f"f_rest_{first + index}" for index in range(kept)))

    return SplatArrays(
        means=columns("x", "y", "z"),
        log_scales=columns("scale_0", "scale_1", "scale_2"),
        quats=columns("rot_0", "rot_1", "rot_2", "rot_3"),
        opacity_logits=columns("opacity")[:, 0],
        sh=sh,
        frame=frame,
    )


def _expect_splat(source: Path, header: PlyHeader) -> None:
    """Refuse a file whose header is not that of a splat."""
    if header.element_names != ["vertex"]:
        found = ", ".join(f"{table.name} {table.count}" for table in header.tables) or "none"
        raise InputFileError(
            f"{source} is not a plain Gaussian splat: it should have the one element 'vertex', it "
            f"has: {found}. Meshes are not read; compressed PLY is, by `vlm3d-gs convert`."
        )

    names = header.tables[0].names
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise InputFileError(
            f"{source} is not a Gaussian splat: it lacks {', '.join(missing)}. A point cloud or a "
            "mesh cannot be rendered as Gaussians."
        )

    rest = {name for name in names if name.startswith("f_rest_")}
    if len(rest) not in REST_COUNTS or rest != {f"f_rest_{index}" for index in range(len(rest))}:
        allowed = ", ".join(str(count) for count in REST_COUNTS)
        raise InputFileError(
            f"{source} has {len(rest)} f_rest properties; a splat has {allowed} (degree 0 to 4)."
        )


CODEC = Codec(
    load=lambda source, _: load_ply(source),
    save=lambda arrays, path, options: save_ply(arrays, path, pad_sh3=options.pad_sh3),
    frame=lambda options: axes_of(options.ply_frame),
    accepts=lambda source: not read_header(source).is_compressed,
)
