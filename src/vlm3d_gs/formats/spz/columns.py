"""The quantised columns of an SPZ file: positions, opacities, colours, scales, rotations, harmonics.

Positions are 24-bit fixed point; opacities and colours are bytes (0.15 of the range per unit of the
degree-0 coefficient); log scales are sixteenths from -10; rotations are three bytes (versions 1 and
2) or the smallest three with nine bits and a sign each; harmonics are bytes rounded to 5 bits at
degree 1 and 4 bits above, with colour as the fastest axis. The container is `stream`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlm3d_gs.core.bands import coefficient_count
from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.options import Frame
from vlm3d_gs.formats.quantize import (
    INV_SQRT2,
    ByteArray,
    alpha_bytes,
    byte_logits,
    join_largest,
    split_largest,
    to_byte,
)
from vlm3d_gs.formats.spz.harmonics import harmonic_bytes
from vlm3d_gs.formats.stream import SplatStream

DEGREES = range(5)
"""Degree 4 exists from version 4 on; its last band is dropped."""
USUAL_BITS = 12
"""Fractional bits of positions that other programs write for scenes of usual size."""
POSITION_BITS = 23
COLOR_STEP = 0.15 * 255.0
"""Byte steps per unit of the degree-0 coefficient."""
MAGNITUDE = 511
SH_VALUES = (np.arange(256, dtype=np.float32) - 128.0) / 128.0
"""Harmonics by their bytes."""


@dataclass(frozen=True, slots=True)
class SpzHeader:
    """What a reader of the columns must know."""

    version: int
    count: int
    degree: int
    fractional_bits: int
    """Positions are integers divided by 2 to this power."""
    antialiased: bool = False
    """Whether the scene was trained with Mip-Splatting's filter."""


def row_widths(header: SpzHeader) -> list[int]:
    """Return the bytes of a Gaussian in each of the six columns; the last is 0 at degree 0."""
    per_position = 6 if header.version == 1 else 9
    per_rotation = 3 if header.version < 3 else 4
    return [per_position, 1, 3, 3, per_rotation, 3 * ((header.degree + 1) ** 2 - 1)]


def section_sizes(header: SpzHeader) -> list[int]:
    """Return the bytes of the six columns."""
    return [header.count * width for width in row_widths(header)]


def encode(splat: SplatStream, version: int) -> tuple[SpzHeader, list[ByteArray]]:
    """Return the header and the columns that are not empty, [count, bytes of a Gaussian].

    Raises:
        ExportError: a position too far out for 24 bits.
    """
    farthest = max(splat.each(lambda piece: float(np.abs(piece.means).max(initial=0.0))))
    header = SpzHeader(
        version, len(splat), splat.degree, _fractional_bits(farthest), splat.antialiased
    )
    columns = [np.empty((len(splat), width), np.uint8) for width in row_widths(header) if width]

    start = 0
    for parts in splat.each(lambda piece: _encode_piece(piece, header)):
        for column, part in zip(columns, parts, strict=True):
            column[start : start + len(part)] = part
        start += len(parts[0])
    return header, columns


def _encode_piece(piece: SplatArrays, header: SpzHeader) -> list[ByteArray]:
    """Return the rows of the columns that are not empty."""
    fixed = np.rint(piece.means.astype(np.float64) * 2.0**header.fractional_bits).astype("<i4")
    old = header.version < 3  # rotations were three bytes then
    columns = [
        fixed.view(np.uint8).reshape(-1, 3, 4)[:, :, :3].reshape(-1, 9),
        alpha_bytes(piece.opacity_logits)[:, None],
        to_byte(piece.sh[:, 0] * np.float32(COLOR_STEP) + np.float32(127.5)),
        to_byte((piece.log_scales + np.float32(10.0)) * np.float32(16.0)),
        _encode_xyz(piece.quats) if old else _encode_smallest_three(piece.quats),
    ]
    if header.degree:
        columns.append(harmonic_bytes(piece.sh).reshape(len(piece), -1))
    return columns


def opened(header: SpzHeader, columns: Sequence[memoryview], frame: Frame) -> SplatStream:
    """Return the splat of six columns, each as long as `section_sizes` says."""
    widths = row_widths(header)

    def rows(rows: slice) -> SplatArrays:
        parts = [
            column[rows.start * width : rows.stop * width]
            for column, width in zip(columns, widths, strict=True)
        ]
        return decode(replace(header, count=rows.stop - rows.start), parts, frame)

    stream = SplatStream.of_rows(header.count, min(header.degree, 3), frame, rows)
    remarks = ("harmonics of degree 4 cut to 3",) if header.degree > 3 else ()
    return replace(stream, antialiased=header.antialiased, remarks=remarks)


def decode(header: SpzHeader, columns: Sequence[memoryview], frame: Frame) -> SplatArrays:
    """Return the arrays of six columns, each as long as `section_sizes` says."""
    positions, alphas, colors, scales, rotations, harmonics = (
        np.frombuffer(column, np.uint8) for column in columns
    )
    count = header.count

    dc = (colors.reshape(count, 1, 3).astype(np.float32) - 127.5) / COLOR_STEP
    kept = coefficient_count(min(header.degree, 3))
    rest = harmonics.reshape(count, (header.degree + 1) ** 2 - 1, 3)[:, : kept - 1]
    sh = np.empty((count, kept, 3), np.float32)
    sh[:, :1] = dc
    sh[:, 1:] = SH_VALUES[rest]

    old = header.version < 3  # rotations were three bytes then
    return SplatArrays(
        means=_decode_positions(positions, header),
        log_scales=scales.reshape(count, 3).astype(np.float32) / 16.0 - 10.0,
        quats=_decode_xyz(rotations) if old else _decode_smallest_three(rotations),
        opacity_logits=byte_logits(alphas),
        sh=sh,
        frame=frame,
    )


def _fractional_bits(farthest: float) -> int:
    """Return 12, more for a tiny scene, fewer for one that would not fit otherwise."""
    exponent = math.frexp(farthest)[1]  # farthest < 2^exponent
    bits = min(max(USUAL_BITS, USUAL_BITS - exponent), POSITION_BITS - exponent - 1, POSITION_BITS)
    if bits < 0:
        raise ExportError(
            f"A Gaussian is {farthest:.4g} from the origin; an .spz file reaches 2^22. Scale the scene."
        )
    return bits


def _decode_positions(data: ByteArray, header: SpzHeader) -> FloatArray:
    if header.version == 1:
        return data.view("<f2").reshape(-1, 3).astype(np.float32)
    wide = np.zeros((header.count, 3, 4), np.uint8)
    wide[:, :, 1:] = data.reshape(header.count, 3, 3)
    # In the upper three bytes the sign bit is in place; the arithmetic shift extends it.
    fixed = wide.view("<i4")[:, :, 0] >> 8
    return (fixed / 2.0**header.fractional_bits).astype(np.float32)


def _encode_xyz(quats: FloatArray) -> ByteArray:
    signed = quats * np.where(quats[:, :1] < 0, -1.0, 1.0)
    return to_byte(signed[:, 1:] * 127.5 + 127.5)


def _decode_xyz(data: ByteArray) -> FloatArray:
    xyz = data.reshape(-1, 3).astype(np.float32) / 127.5 - 1.0
    w = np.sqrt(np.maximum(0.0, 1.0 - np.square(xyz).sum(1, keepdims=True)))
    return np.concatenate([w, xyz], axis=1).astype(np.float32)


def _encode_smallest_three(quats: FloatArray) -> ByteArray:
    largest, rest = split_largest(quats[:, [1, 2, 3, 0]])  # in xyzw order
    size = np.minimum(np.floor(np.abs(rest) / INV_SQRT2 * MAGNITUDE + 0.5), MAGNITUDE)
    codes = size.astype(np.uint32) | (rest < 0).astype(np.uint32) << 9
    packed = largest.astype(np.uint32) << 30 | codes[:, 0] << 20 | codes[:, 1] << 10 | codes[:, 2]
    return packed.astype("<u4").view(np.uint8).reshape(-1, 4)


def _decode_smallest_three(data: ByteArray) -> FloatArray:
    packed = data.view("<u4")
    codes = np.stack([packed >> shift & 1023 for shift in (20, 10, 0)], axis=1)
    size = (codes & MAGNITUDE) * (INV_SQRT2 / MAGNITUDE)
    rest = np.where(codes >> 9, -size, size).astype(np.float32)
    return join_largest(packed >> 30, rest)[:, [3, 0, 1, 2]]
