"""The splat PLY of the 3DGS paper's code (INRIA), which every viewer loads; a run's main product.

Binary little endian, one `vertex` element of float32 properties in this order: x y z, nx ny nz
(zeros), f_dc_0..2, f_rest_* (channel-major: all red coefficients, then green, then blue), opacity
(logit), scale_0..2 (natural log), rot_0..3 (unit quaternion, wxyz). PLY names no frame. Viewers
assume x right, y down, z away, so scenes are rotated into that on writing and back on reading,
unless a comment names the axes.

Also read: other orders, types and encodings; elements beside the vertices, which are skipped; bytes
red green blue instead of f_dc (nerfstudio's `rgb`); two scales instead of three (2DGS).
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.options import Frame, ReadOptions
from vlm3d_gs.formats.ply.header import PlyHeader, PlyTable, comment_lines, read_header
from vlm3d_gs.formats.ply.rows import PlyRows, expect_vertex, open_rows
from vlm3d_gs.formats.stream import SplatStream, in_order

REST_COUNTS = (0, 9, 24, 45, 72)
"""Allowed numbers of f_rest properties: degree 0 to 4. Of degree 4, the last band is dropped."""
KEPT_REST = 15
"""Coefficients per channel beyond degree 0 that a scene can hold."""
LEADING = ("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2")
TRAILING = ("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")
DC = ("f_dc_0", "f_dc_1", "f_dc_2")
RGB = ("red", "green", "blue")
REQUIRED = ("x", "y", "z", "opacity", "scale_0", "scale_1", "rot_0", "rot_1", "rot_2", "rot_3")
THIN = 1e-3
"""Third scale of a flat Gaussian (2DGS), as a share of its smaller other one."""


def save_ply(splat: SplatStream, path: Path, *, pad_sh3: bool = False) -> None:
    """Write a splat as it is, with all 45 f_rest properties if `pad_sh3`."""
    rest = KEPT_REST if pad_sh3 else (splat.degree + 1) ** 2 - 1
    names = (*LEADING, *(f"f_rest_{index}" for index in range(3 * rest)), *TRAILING)

    lines = ["ply", "format binary_little_endian 1.0"]
    lines += comment_lines(splat.frame, splat.antialiased, splat.comments)
    lines += [f"element vertex {len(splat)}", *(f"property float {name}" for name in names)]
    with path.open("wb") as stream:
        stream.write("\n".join([*lines, "end_header", ""]).encode())
        for block in in_order(lambda n: _to_block(splat.read(n), rest), len(splat.lengths)):
            stream.write(block.data)


def _to_block(piece: SplatArrays, rest: int) -> NDArray[np.float32]:
    """Return rows of the file, with `rest` coefficients per channel beyond degree 0."""
    count, given = len(piece), piece.sh.shape[1] - 1
    block = np.zeros((count, len(LEADING) + 3 * rest + len(TRAILING)), "<f4")
    block[:, 0:3] = piece.means
    block[:, 6:9] = piece.sh[:, 0]

    first = len(LEADING)
    channels = block[:, first : first + 3 * rest].reshape(count, 3, rest)
    for coefficient in range(given):
        channels[:, :, coefficient] = piece.sh[:, 1 + coefficient]

    first += 3 * rest
    block[:, first] = piece.opacity_logits
    block[:, first + 1 : first + 4] = piece.log_scales
    block[:, first + 4 :] = piece.quats
    return block


def load_ply(source: Path) -> SplatArrays:
    """Read a splat PLY as arrays in the file's axes, whether finite or not; as `open_ply`."""
    return open_ply(source).gather()


def open_ply(source: Path) -> SplatStream:
    """Open a splat PLY as a stream in the file's axes.

    Raises:
        InputFileError: no such file, not a PLY, truncated, or not a Gaussian splat. The claims of the
            header are checked against the size of the file before anything is allocated.
    """
    header = read_header(source)
    vertex = expect_vertex(source, header)
    _expect_splat(source, header, vertex)

    read = open_rows(source, header, REQUIRED)
    per_channel = sum(name.startswith("f_rest_") for name in vertex.names) // 3
    degree = math.isqrt(min(per_channel, KEPT_REST) + 1) - 1
    # How colours are stored is asked of the file as a whole.
    span = 1.0
    if DC[0] not in vertex.names and read(slice(0, vertex.count)).are_bytes(RGB[0]):
        span = 255.0

    stream = SplatStream.of_rows(
        vertex.count, degree, header.frame, lambda rows: _arrays(read(rows), span, header.frame)
    )
    return replace(
        stream,
        antialiased=header.antialiased,
        comments=header.free_comments,
        remarks=tuple(_remarks(header, vertex)),
    )


def _arrays(rows: PlyRows, span: float, frame: Frame) -> SplatArrays:
    """Return the arrays of some rows, whose colours, if they are no coefficients, are 0 to `span`."""
    per_channel = sum(name.startswith("f_rest_") for name in rows.names) // 3
    rest = [
        f"f_rest_{c * per_channel + k}"
        for k in range(min(per_channel, KEPT_REST))
        for c in range(3)
    ]
    if DC[0] in rows.names:
        sh = rows.columns(*DC, *rest)
    else:
        color = (rows.columns(*RGB) / span - 0.5) / SH_C0
        sh = np.concatenate([color, rows.columns(*rest)], axis=1).astype(np.float32)

    if "scale_2" in rows.names:
        log_scales = rows.columns("scale_0", "scale_1", "scale_2")
    else:
        flat = rows.columns("scale_0", "scale_1")
        log_scales = np.column_stack([flat, flat.min(1) + np.float32(np.log(THIN))])

    return SplatArrays(
        means=rows.columns("x", "y", "z"),
        log_scales=log_scales,
        quats=rows.columns("rot_0", "rot_1", "rot_2", "rot_3"),
        opacity_logits=rows.columns("opacity")[:, 0],
        sh=sh.reshape(len(rows), -1, 3),
        frame=frame,
    )


def _remarks(header: PlyHeader, vertex: PlyTable) -> list[str]:
    """Return what of a file is not read or not obeyed."""
    remarks = []
    others = [table.name for table in header.tables if table is not vertex and table.count]
    if others:
        remarks.append(f"not read: element {', '.join(others)}")
    if sum(name.startswith("f_rest_") for name in vertex.names) > 3 * KEPT_REST:
        remarks.append("harmonics of degree 4 cut to 3")
    if header.vertical_axis not in (None, "y", "-y", "z", "+z"):
        remarks.append(f"not obeyed: vertical axis {header.vertical_axis} (give --frame)")
    return remarks


def _expect_splat(source: Path, header: PlyHeader, vertex: PlyTable) -> None:
    """Refuse vertices that are not those of a splat."""
    names = vertex.names
    missing = [name for name in REQUIRED if name not in names]
    if not {*DC} <= {*names} and not {*RGB} <= {*names}:
        missing += [name for name in DC if name not in names]
    if missing:
        kind = "A mesh" if "face" in header.element_names else "A point cloud"
        raise InputFileError(
            f"{source} is not a Gaussian splat: it lacks {', '.join(missing)}. {kind} cannot be rendered "
            "as Gaussians; --as-points makes one of each vertex."
        )
    rest = [name for name in names if name.startswith("f_rest_")]
    if len(rest) not in REST_COUNTS or {*rest} != {f"f_rest_{i}" for i in range(len(rest))}:
        allowed = ", ".join(str(count) for count in REST_COUNTS)
        raise InputFileError(
            f"{source} has {len(rest)} f_rest properties; a splat has {allowed} (degree 0 to 4)."
        )


def _open(source: Path, options: ReadOptions) -> SplatStream:
    if not options.as_points:
        return open_ply(source)

    # SciPy's tree of neighbours is slow to load, and point clouds alone need it.
    from vlm3d_gs.formats.ply.points import load_points

    return SplatStream.of_arrays(load_points(source))


CODEC = Codec(
    open=_open,
    save=lambda splat, path, options: save_ply(splat, path, pad_sh3=options.pad_sh3),
    accepts=lambda source: not read_header(source).is_compressed,
)
