"""Reading .ksplat, the format of mkkellogg's GaussianSplats3D; nobody develops it, so it is not written.

Little endian. A header of 4096 bytes, a header of 1024 bytes for each section, then the sections. A
section holds the lengths of its buckets that are not full, the centres of all its buckets, and its
Gaussians: positions, scales (linear), quaternions wxyz, bytes of colour and opacity, harmonics. At
level 0 all but the colours are float32. At level 1 positions are 16-bit offsets from the centre of
their bucket and the rest is float16; at level 2 harmonics are bytes over a range that the header
names. Harmonics go band by band, and within a band channel by channel. Axes as in the PLY.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.claims import expect_file, expect_present, table_rows
from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.quantize import byte_logits, log_of
from vlm3d_gs.formats.stream import SplatStream, joined

HEADER = struct.Struct("<2B2x4IH2x3f2f")
"""Version, sections that there is room for and that are used, Gaussians likewise, level, centre, range."""
HEADER_BYTES, SECTION_BYTES = 4096, 1024
SECTION = struct.Struct("<4IfH2x4IH")
"""Gaussians, room for them, Gaussians of a full bucket, buckets, their edge, bytes of a centre, largest
offset, length, full buckets, others, degree."""
LENGTH, CENTER = np.dtype([("length", "<u4")]), np.dtype([("center", "<f4", 3)])
"""A bucket's Gaussians, and its centre."""
VERSION = (0, 1)
LARGEST_OFFSET = 32_767
"""Where a section names no other; stands for half the edge of a bucket."""
DEFAULT_RANGE = 1.5
"""Harmonics of level 2 lie within this where the header names no range."""
MAX_DEGREE, MAX_SECTIONS = 3, 2**16
NUMBERS = ("<f4", "<f2", "<f2")
"""Type of scales and quaternions at each level."""
HARMONICS = ("<f4", "<f2", "u1")


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a file, checked against the length of the file."""

    row: np.dtype[np.void]
    """Type of a Gaussian."""
    count: int
    degree: int
    offset: int
    """Where its Gaussians begin, bytes."""
    step: float
    """Length of a step of the 16-bit offsets."""
    middle: int
    """The offset that stands for the centre of the bucket."""
    centers: FloatArray
    """[B, 3] centres of the buckets; none at level 0."""
    ends: NDArray[np.int64]
    """[B] first Gaussian after each bucket."""


def open_ksplat(source: Path) -> SplatStream:
    """Open a .ksplat file as a stream in the file's axes; negative scales become NaN.

    Raises:
        InputFileError: not a .ksplat of version 0.1, truncated or damaged.
    """
    expect_file(source)
    size = source.stat().st_size
    with source.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
        expect_present(source, "a header", HEADER_BYTES, len(head))
        major, minor, room, _, _, count, level, *_, low, high = HEADER.unpack_from(head)
        if (major, minor) != VERSION or level >= len(NUMBERS) or room > MAX_SECTIONS:
            raise InputFileError(
                f"{source} is a .ksplat of version {major}.{minor} and level {level} with {room} sections; "
                f"this program reads version 0.1, levels 0 to 2, up to {MAX_SECTIONS} sections."
            )
        headers = stream.read(room * SECTION_BYTES)
    expect_present(source, f"{room} sections", room * SECTION_BYTES, len(headers))

    span = (low or -DEFAULT_RANGE, high or DEFAULT_RANGE)
    sections = [part for part in _sections(source, headers, level, size) if part.count]
    present = sum(part.count for part in sections)
    if not present or present != count:
        raise InputFileError(
            f"{source} is damaged: its header promises {count} Gaussians, its sections {present}."
        )
    degree = max(part.degree for part in sections)
    return joined([_opened(source, part, span).with_degree(degree) for part in sections])


def _sections(source: Path, headers: bytes, level: int, size: int) -> Iterator[Section]:
    """Yield the sections that headers describe."""
    start = HEADER_BYTES + len(headers)
    for at in range(0, len(headers), SECTION_BYTES):
        count, room, full, buckets, edge, stored, middle, _, full_buckets, others, degree = (
            SECTION.unpack_from(headers, at)
        )
        if degree > MAX_DEGREE or count > room or others > buckets:
            raise InputFileError(
                f"{source} is damaged: a section of degree {degree} has {count} Gaussians with room for "
                f"{room}, and {others} of {buckets} buckets that are not full."
            )

        row = _row(level, degree)
        offset = start + LENGTH.itemsize * others + stored * buckets
        end = offset + row.itemsize * room
        expect_present(source, f"{room} Gaussians", end - start, size - start)

        centers, ends = np.empty((0, 3), np.float32), np.empty(0, np.int64)
        if level > 0:
            if stored != CENTER.itemsize or full_buckets + others != buckets:
                raise InputFileError(f"{source} is damaged: a section has no usable buckets.")
            lengths = table_rows(source, start, LENGTH, slice(0, others))["length"]
            table = table_rows(source, start + lengths.nbytes, CENTER, slice(0, buckets))
            centers = table["center"].astype(np.float32)
            ends = np.cumsum(np.concatenate([np.full(full_buckets, full), lengths]), dtype=np.int64)
            if count and (not buckets or ends[-1] < count):
                raise InputFileError(f"{source} is damaged: a section has too few buckets.")

        middle = middle or LARGEST_OFFSET
        yield Section(row, count, degree, offset, edge / 2 / middle, middle, centers, ends)
        start = end


def _row(level: int, degree: int) -> np.dtype[np.void]:
    """Return the type of a Gaussian."""
    number = NUMBERS[level]
    rest = 3 * ((degree + 1) ** 2 - 1)
    fields = [
        ("mean", "<f4" if level == 0 else "<u2", 3),
        ("scale", number, 3),
        ("quat", number, 4),
        ("rgba", "u1", 4),
        ("rest", HARMONICS[level], rest),
    ]
    return np.dtype(fields)


def _opened(source: Path, section: Section, span: tuple[float, float]) -> SplatStream:
    """Return a section as a stream."""

    def rows(rows: slice) -> SplatArrays:
        table = table_rows(source, section.offset, section.row, rows)
        color = table["rgba"][:, :3].astype(np.float32) / 255.0
        dc = ((color - 0.5) / SH_C0)[:, None].astype(np.float32)
        return SplatArrays(
            means=_means(table["mean"], section, rows),
            log_scales=log_of(table["scale"].astype(np.float32)),
            quats=table["quat"].astype(np.float32),
            opacity_logits=byte_logits(table["rgba"][:, 3]),
            sh=np.concatenate([dc, *_bands(table["rest"], section.degree, span)], axis=1),
            frame="rdf",
        )

    return SplatStream.of_rows(section.count, section.degree, "rdf", rows)


def _means(stored: NDArray[np.generic], section: Section, rows: slice) -> FloatArray:
    """Return the positions of some rows, [N, 3]."""
    if not len(section.ends):
        return stored.astype(np.float32)
    bucket = np.searchsorted(section.ends, np.arange(rows.start, rows.stop), side="right")
    # Broken centres become infinite or NaN, which is refused later.
    with np.errstate(over="ignore", invalid="ignore"):
        offsets = (stored.astype(np.float64) - section.middle) * section.step
        means: FloatArray = (offsets + section.centers[bucket]).astype(np.float32)
    return means


def _bands(
    stored: NDArray[np.generic], degree: int, span: tuple[float, float]
) -> Iterator[FloatArray]:
    """Yield the coefficients of each band from 1 on, [N, 2 l + 1, 3]."""
    values = stored.astype(np.float32)
    if stored.dtype == np.uint8:
        low, high = span
        with np.errstate(over="ignore", invalid="ignore"):
            values = (low + (high - low) * (values / np.float32(255.0))).astype(np.float32)
    for band in range(1, degree + 1):
        start, width = 3 * (band**2 - 1), 2 * band + 1
        part = values[:, start : start + 3 * width].reshape(-1, 3, width)
        yield part.transpose(0, 2, 1)


CODEC = Codec(open=lambda source, _: open_ksplat(source))
