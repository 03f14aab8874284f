"""Compressed PLY, as PlayCanvas and SuperSplat read it: 16 bytes a Gaussian, bounds for every 256.

Three elements, binary little endian. `chunk`: bounds of 256 Gaussians in a row (positions, log
scales, colours). `vertex`: four packed uint32 each; positions and scales 11-10-11 bits inside the
bounds, rotation smallest three in wxyz order, colour 8 bits a channel inside the bounds, opacity a
byte. `sh`, absent at degree 0: a byte each over -4..4, channel-major. Axes as in the plain PLY.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.order import morton_order
from vlm3d_gs.formats.ply.header import (
    PlyHeader,
    PlyTable,
    comment_lines,
    expect_rows,
    read_header,
)
from vlm3d_gs.formats.quantize import (
    INV_SQRT2,
    alpha_bytes,
    byte_logits,
    join_largest,
    split_largest,
    to_unorm,
)
from vlm3d_gs.formats.stream import PIECE, SplatStream

CHUNK = 256
BOUNDS = tuple(
    f"{end}_{name}"
    for names in (("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b"))
    for end in ("min", "max")
    for name in names
)
"""Columns of `chunk`. Files of the first version lack the last six; their colours lie in 0..1."""
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
ELEMENTS = ("chunk", "vertex", "sh")
"""In this order, the last only where there are harmonics; elements after them are not read."""
FEWEST_BOUNDS = 12
SH_SPAN = 8.0
"""Harmonics in -4..4 fit; larger ones are clipped."""
SCALE_LIMIT = 20.0
"""Log scales are clipped to this on writing."""
REST_COUNTS = (9, 24, 45)


def save_compressed_ply(splat: SplatStream, path: Path) -> None:
    """Write a splat as compressed PLY, sorted along a Z-curve so that the bounds are tight.

    What needs no bounds is packed piece by piece; only positions, scales and colours stay as floats.
    """
    count, rest_count = len(splat), 3 * ((splat.degree + 1) ** 2 - 1)
    bounded = np.empty((3, count, 3), np.float32)
    rotations, alphas = np.empty(count, np.uint32), np.empty(count, np.uint8)
    codes = np.empty((count, rest_count), np.uint8)
    start = 0
    for part in splat.each(_pack_piece):
        rows = slice(start, start + len(part[1]))
        bounded[:, rows], rotations[rows], alphas[rows], codes[rows] = part
        start = rows.stop

    order = morton_order(bounded[0])
    bounds = np.empty((-(-count // CHUNK), len(BOUNDS)), "<f4")
    packed = np.empty((count, 4), "<u4")
    for start in range(0, count, PIECE):  # a piece is whole chunks
        index = order[start : start + PIECE]
        chunks = slice(start // CHUNK, start // CHUNK + -(-len(index) // CHUNK))
        units = _units(bounded[:, index], bounds[chunks])
        rows = slice(start, start + len(index))
        packed[rows, 0], packed[rows, 2] = _pack_11_10_11(units[0]), _pack_11_10_11(units[1])
        packed[rows, 1] = rotations[index]
        red, green, blue = to_unorm(units[2], 8).T
        packed[rows, 3] = red << 24 | green << 16 | blue << 8 | alphas[index]

    comments = comment_lines(splat.frame, splat.antialiased, splat.comments)
    with path.open("wb") as stream:
        stream.write(_header(len(bounds), count, rest_count, comments).encode())
        stream.write(bounds.data)
        stream.write(packed.data)
        for start in range(0, count, PIECE):
            stream.write(codes[order[start : start + PIECE]].data)


def _pack_piece(
    piece: SplatArrays,
) -> tuple[FloatArray, NDArray[np.uint32], NDArray[np.uint8], NDArray[np.uint8]]:
    """Return what has bounds, [3, N, 3], and packed rotations, opacities and harmonics."""
    log_scales = np.clip(piece.log_scales, -SCALE_LIMIT, SCALE_LIMIT)
    colors = (piece.sh[:, 0] * SH_C0 + 0.5).astype(np.float32)
    rest = piece.sh[:, 1:].transpose(0, 2, 1).reshape(len(piece), -1)
    codes = np.clip(np.trunc((rest / SH_SPAN + 0.5) * 256.0), 0, 255).astype(np.uint8)
    bounded = np.stack([piece.means, log_scales, colors])
    return bounded, _pack_rotation(piece.quats), alpha_bytes(piece.opacity_logits), codes


def _units(bounded: FloatArray, bounds: FloatArray) -> list[NDArray[np.float64]]:
    """Return positions, scales and colours as 0..1 between the bounds of their chunks, which are filled in."""
    starts = np.arange(0, bounded.shape[1], CHUNK)
    units = []
    for index, values in enumerate(bounded):
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        bounds[:, 6 * index : 6 * index + 3], bounds[:, 6 * index + 3 : 6 * index + 6] = low, high
        units.append(_normalized(values, low, high))
    return units


def load_compressed_ply(source: Path) -> SplatArrays:
    """Read a compressed PLY as arrays in the file's axes.

    Raises:
        InputFileError: not a compressed PLY, or shorter than its header says.
    """
    header = read_header(source)
    _expect_layout(source, header)
    expect_rows(source, header)

    tables = {table.name: table for table in header.tables[:3] if table.name in ELEMENTS}
    with source.open("rb") as stream:
        stream.seek(header.bytes)
        rows = {table.name: stream.read(table.count * table.row_bytes) for table in tables.values()}

    bounds = np.frombuffer(rows["chunk"], "<f4").reshape(tables["chunk"].count, -1)
    packed = np.frombuffer(rows["vertex"], "<u4").reshape(-1, 4)
    chunk = np.arange(len(packed)) // CHUNK

    rgb_codes = np.stack([packed[:, 3] >> shift & 255 for shift in (24, 16, 8)], axis=1)
    color = (rgb_codes / 255.0).astype(np.float32)
    if bounds.shape[1] == len(BOUNDS):
        color = _denormalized(color, bounds, chunk, 12)
    sh = ((color - 0.5) / SH_C0).astype(np.float32)[:, None]

    if "sh" in tables and tables["sh"].properties:
        codes = np.frombuffer(rows["sh"], np.uint8).reshape(len(packed), -1)
        # A code stands for the middle of its step, the first and last for the ends of the range.
        units = np.where(codes == 0, 0.0, np.where(codes == 255, 256.0, codes + 0.5)) / 256.0
        rest = ((units - 0.5) * SH_SPAN).astype(np.float32).reshape(len(packed), 3, -1)
        sh = np.concatenate([sh, rest.transpose(0, 2, 1)], axis=1)

    return SplatArrays(
        means=_denormalized(_unpack_11_10_11(packed[:, 0]), bounds, chunk, 0),
        log_scales=_denormalized(_unpack_11_10_11(packed[:, 2]), bounds, chunk, 6),
        quats=_unpack_rotation(packed[:, 1]),
        opacity_logits=byte_logits((packed[:, 3] & 255).astype(np.uint8)),
        sh=np.ascontiguousarray(sh),
        frame=header.frame,
        antialiased=header.antialiased,
        comments=header.free_comments,
    )


def _normalized(values: FloatArray, low: FloatArray, high: FloatArray) -> NDArray[np.float64]:
    """Return values as 0..1 between the bounds of their chunk; 0 where the bounds coincide."""
    size = len(values)
    low = np.repeat(low, CHUNK, axis=0)[:size].astype(np.float64)
    span = np.repeat(high, CHUNK, axis=0)[:size] - low
    unit: NDArray[np.float64] = (values - low) / np.where(span > 0, span, 1.0)
    return unit


def _denormalized(
    units: NDArray[np.floating], bounds: FloatArray, chunk: NDArray[np.intp], column: int
) -> FloatArray:
    """Return the values that 0..1 stands for; their lower bounds begin at a column of `bounds`."""
    # Broken bounds give NaN, which `to_gaussians` refuses.
    with np.errstate(invalid="ignore", over="ignore"):
        low, high = bounds[chunk, column : column + 3], bounds[chunk, column + 3 : column + 6]
        values: FloatArray = (low * (1.0 - units) + high * units).astype(np.float32)
    return values


def _pack_11_10_11(units: NDArray[np.float64]) -> NDArray[np.uint32]:
    x, y, z = units.T
    return (to_unorm(x, 11) << 21 | to_unorm(y, 10) << 11 | to_unorm(z, 11)).astype(np.uint32)


def _unpack_11_10_11(packed: NDArray[np.uint32]) -> NDArray[np.float64]:
    x, y, z = packed >> 21 & 2047, packed >> 11 & 1023, packed & 2047
    return np.stack([x / 2047.0, y / 1023.0, z / 2047.0], axis=1)


def _pack_rotation(quats: FloatArray) -> NDArray[np.uint32]:
    largest, rest = split_largest(quats)
    a, b, c = to_unorm(rest * INV_SQRT2 + 0.5, 10).T
    return largest.astype(np.uint32) << 30 | a << 20 | b << 10 | c


def _unpack_rotation(packed: NDArray[np.uint32]) -> FloatArray:
    codes = np.stack([packed >> shift & 1023 for shift in (20, 10, 0)], axis=1)
    rest = ((codes / 1023.0 - 0.5) / INV_SQRT2).astype(np.float32)
    return join_largest(packed >> 30, rest)


def _header(chunks: int, count: int, rest_count: int, comments: list[str]) -> str:
    lines = ["ply", "format binary_little_endian 1.0", *comments, f"element chunk {chunks}"]
    lines += [f"property float {name}" for name in BOUNDS]
    lines += [f"element vertex {count}", *(f"property uint {name}" for name in PACKED)]
    if rest_count:
        lines.append(f"element sh {count}")
        lines += [f"property uchar f_rest_{index}" for index in range(rest_count)]
    return "\n".join([*lines, "end_header", ""])


def _expect_layout(source: Path, header: PlyHeader) -> None:
    """Require the documented columns, and counts that match."""
    tables = {table.name: table for table in header.tables}
    fits = (
        header.encoding == "binary_little_endian"
        and header.is_compressed
        and header.element_names.count("sh") == ("sh" in header.element_names[2:3])
        and _has(tables["chunk"], "float", (BOUNDS, BOUNDS[:FEWEST_BOUNDS]))
        and _has(tables["vertex"], "uint", (PACKED,))
    )
    if fits and "sh" in tables:
        allowed = [tuple(f"f_rest_{index}" for index in range(n)) for n in (0, *REST_COUNTS)]
        fits = _has(tables["sh"], "uchar", tuple(allowed))

    if not fits:
        raise InputFileError(
            f"{source} is not a compressed splat PLY: it should have the elements chunk, vertex and "
            "perhaps sh with their packed columns, binary and little endian."
        )

    count = tables["vertex"].count
    chunks = -(-count // CHUNK)
    if tables["chunk"].count != chunks or ("sh" in tables and tables["sh"].count != count):
        raise InputFileError(
            f"{source} is damaged: {count} Gaussians need {chunks} chunks and as many rows of "
            "harmonics as Gaussians."
        )


def _has(table: PlyTable, kind: str, allowed: tuple[tuple[str, ...], ...]) -> bool:
    aliases = {"float": "float32", "uint": "uint32", "uchar": "uint8"}
    kinds = {name for name, _ in table.properties}
    return kinds <= {kind, aliases[kind]} and tuple(table.names) in allowed


CODEC = Codec(
    open=lambda source, _: SplatStream.of_arrays(load_compressed_ply(source)),
    save=lambda splat, path, _: save_compressed_ply(splat, path),
)
