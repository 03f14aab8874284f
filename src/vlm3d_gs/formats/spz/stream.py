"""SPZ, Niantic's compressed splat: versions 1 to 4 are read, 2 to 4 written.

The quantised columns (`columns`) follow each other in one gzip stream up to version 3; from version
4 each is a zstd stream. The specification says x right, y up, z towards the viewer (`rub`), unless
an extension record names other axes. Our version 4 files always have that record, those of version
2 and 3 where their axes are others. Files of ours from before version 4 was the first to be written
in `rub` have no record and the axes of the PLY; only the caller can know that.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from vlm3d_gs.core.errors import ConfigError, ExportError, InputFileError
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.claims import expect_plausible, expect_present, file_bytes, gaussian_bytes
from vlm3d_gs.formats.options import Frame, SpzVersion
from vlm3d_gs.formats.quantize import ByteArray
from vlm3d_gs.formats.spz.columns import DEGREES, SpzHeader, encode, opened, section_sizes
from vlm3d_gs.formats.spz.gzip import gzipped
from vlm3d_gs.formats.stream import SplatStream, in_order

MAGIC = b"NGSP"
HEADER = struct.Struct("<4sIIBBBB")
"""Versions 1 to 3: magic, version, count, degree, fractional bits, flags, reserved."""
HEADER_V4 = struct.Struct("<4sIIBBBBI12x")
"""Version 4: the same with the number of streams and the offset of their table."""
RECORD = struct.Struct("<III")
"""Our only extension record: type, length of the payload, the payload."""
ENTRY = struct.Struct("<QQ")
"""A stream in the table: bytes compressed, bytes unpacked."""
ANTIALIASED, HAS_EXTENSIONS = 0x1, 0x2
"""Flags of the header."""
AXES_EXTENSION = 0xADBE0003
AXES_CODES: dict[Frame, int] = {"rub": 4, "rdf": 6, "luf": 7, "ldb": 1}
"""Codes of coordinate systems in that record; 0, unspecified, means that of the specification too."""
MAX_COUNT = 2**32 - 1
GZIP_LEVELS, ZSTD_LEVEL = (2, 2, 2, 2, 2, 4), 12
"""By column. On harmonics, level 4 with Z_FILTERED takes half of level 6's time and packs nearly as tight;
the others are hardly longer at level 2, and positions are even shorter."""
MAX_TRAILING_BYTES = 2**20
"""Most bytes of extension records after the columns of versions 1 to 3."""


def save_spz(splat: SplatStream, path: Path, *, version: SpzVersion = 3) -> None:
    """Write a splat as it is, in order.

    Args:
        splat: in `rdf` or `rub`.
        path: the file.
        version: 3 is read nearly everywhere, 4 is newer, 2 for old readers: its rotations are coarser.

    Raises:
        ConfigError: another version.
        ExportError: a position too far out for the format.
    """
    if version not in (2, 3, 4):
        raise ConfigError(f"The version of an .spz file must be 2, 3 or 4, got {version}.")
    if len(splat) > MAX_COUNT:
        raise ExportError(f"An .spz file holds at most {MAX_COUNT} Gaussians, got {len(splat)}.")

    header, columns = encode(splat, version)
    axes = b""
    if version == 4 or splat.frame != "rub":
        axes = RECORD.pack(AXES_EXTENSION, 4, AXES_CODES[splat.frame])
    flags = (ANTIALIASED if header.antialiased else 0) | (HAS_EXTENSIONS if axes else 0)
    fields = (MAGIC, version, header.count, header.degree, header.fractional_bits, flags)

    with path.open("wb") as stream:
        if version < 4:
            start, end = (np.frombuffer(part, np.uint8) for part in (HEADER.pack(*fields, 0), axes))
            levels = (1, *GZIP_LEVELS[: len(columns)], 1)
            stream.writelines(gzipped([start, *columns, end], levels))
            return

        streams = list(in_order(lambda n: _zstandard(columns[n]), len(columns)))
        offset = HEADER_V4.size + len(axes)
        sections = [HEADER_V4.pack(*fields, len(streams), offset), axes]
        sections += [ENTRY.pack(len(s), c.nbytes) for s, c in zip(streams, columns, strict=True)]
        stream.writelines([*sections, *streams])


def _zstandard(column: ByteArray) -> bytes:
    packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    packed: bytes = packer.compress(column.data)
    return packed


def load_spz(source: Path) -> SplatArrays:
    """Read an .spz file as arrays in the file's axes; as `open_spz`."""
    return open_spz(source).gather()


def open_spz(source: Path) -> SplatStream:
    """Open an .spz file as a stream in the file's axes: those of a record, else `rub`.

    Raises:
        InputFileError: as `parse_spz`.
    """
    return _open(source, file_bytes(source))


def parse_spz(source: Path, data: bytes) -> SplatArrays:
    """Return what the bytes of an .spz file hold.

    Args:
        source: the file, or one that holds these bytes, for messages.
        data: gzip or zstd container, or the content of a gzip container.

    Raises:
        InputFileError: not SPZ, an unknown version, truncated, damaged, or in mirrored axes.
    """
    return _open(source, data).gather()


def _open(source: Path, data: bytes) -> SplatStream:
    """Return the stream of an .spz file, unpacked but not decoded yet."""
    if data[:4] == MAGIC:
        version = struct.unpack_from("<I", data, 4)[0] if len(data) >= 8 else 0
        return _load_plain(source, data) if version in (1, 2, 3) else _load_zstd(source, data)
    if data[:2] == b"\x1f\x8b":
        try:
            return _load_gzip(source, data)
        except zlib.error as error:
            raise InputFileError(f"{source} is damaged or truncated: {error}.") from error
    raise InputFileError(f"{source} is not an .spz file: it begins with neither gzip nor NGSP.")


def _load_plain(source: Path, data: bytes) -> SplatStream:
    """Read versions 1 to 3 that somebody has unpacked."""
    if len(data) < HEADER.size:
        raise InputFileError(f"{source} is truncated: it is shorter than an .spz header.")
    header, flags = _header(HEADER.unpack_from(data)[:6])
    sizes = _sizes(source, header, (1, 2, 3))
    body = memoryview(data)[HEADER.size :]
    _expect_plausible(source, header, len(data))
    expect_present(source, f"{header.count} Gaussians", sum(sizes), len(body))

    tail = bytes(body[sum(sizes) :])
    frame = _frame_in_records(source, tail) if flags & HAS_EXTENSIONS else "rub"
    return opened(header, _split(body, sizes), frame)


def _header(fields: tuple[Any, ...]) -> tuple[SpzHeader, int]:
    """Return the header of magic, version, count, degree, fractional bits and flags; and the flags."""
    _, version, count, degree, bits, flags = fields
    return SpzHeader(version, count, degree, bits, bool(flags & ANTIALIASED)), flags


def _load_gzip(source: Path, data: bytes) -> SplatStream:
    """Read versions 1 to 3: header, columns and extension records in one gzip stream."""
    gzip = zlib.decompressobj(wbits=31)
    start = gzip.decompress(data, HEADER.size)
    if len(start) < HEADER.size or start[:4] != MAGIC:
        raise InputFileError(f"{source} is not an .spz file: its gzip stream holds no SPZ header.")

    header, flags = _header(HEADER.unpack(start)[:6])
    count = header.count
    sizes = _sizes(source, header, (1, 2, 3))
    _expect_plausible(source, header, len(data))

    # Unpack what the header promises and no more, however much the stream holds.
    chunks, missing = [], sum(sizes)
    while missing and not gzip.eof:
        chunk = gzip.decompress(gzip.unconsumed_tail, missing)
        if not chunk:
            break
        chunks.append(chunk)
        missing -= len(chunk)
    expect_present(source, f"{count} Gaussians", sum(sizes), sum(sizes) - missing)

    trailing = gzip.decompress(gzip.unconsumed_tail, MAX_TRAILING_BYTES)
    if not gzip.eof:
        raise InputFileError(f"{source} is truncated, or has unknown data after its Gaussians.")
    frame = _frame_in_records(source, trailing) if flags & HAS_EXTENSIONS else "rub"

    body = memoryview(b"".join(chunks))
    return opened(header, _split(body, sizes), frame)


def _load_zstd(source: Path, data: bytes) -> SplatStream:
    """Read version 4: header, extension records, table of streams, one zstd stream a column."""
    if len(data) < HEADER_V4.size:
        raise InputFileError(
            f"{source} is truncated: it is shorter than the header of an .spz file."
        )

    *fields, streams, offset = HEADER_V4.unpack_from(data)
    header, flags = _header(tuple(fields))
    sizes = [size for size in _sizes(source, header, (4,)) if size]
    _expect_plausible(source, header, len(data))

    end = offset + ENTRY.size * streams
    if streams != len(sizes) or offset < HEADER_V4.size or end > len(data):
        raise InputFileError(
            f"{source} is damaged or truncated: its table of streams is not there."
        )

    records = data[HEADER_V4.size : offset]
    frame = _frame_in_records(source, records) if flags & HAS_EXTENSIONS else "rub"

    columns: list[memoryview] = []
    for index, size in enumerate(sizes):
        packed, unpacked = ENTRY.unpack_from(data, offset + ENTRY.size * index)
        if unpacked != size:
            raise InputFileError(f"{source} is damaged: a stream has {unpacked} bytes for {size}.")
        expect_present(source, f"stream {index}", packed, len(data) - end)
        columns.append(_unzstd(source, data[end : end + packed], size))
        end += packed

    if header.degree == 0:
        columns.append(memoryview(b""))
    return opened(header, columns, frame)


def _unzstd(source: Path, packed: bytes, size: int) -> memoryview:
    """Unpack one stream; raise if it is shorter or longer than `size`."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)) as reader:
            content = reader.read(size + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise InputFileError(f"{source} is damaged: {error}.") from error
    if len(content) != size:
        raise InputFileError(f"{source} is damaged: a stream does not unpack to {size} bytes.")
    return memoryview(content)


def _sizes(source: Path, header: SpzHeader, versions: tuple[int, ...]) -> list[int]:
    """Return the bytes of each column, after checking the header."""
    if header.version not in versions:
        raise InputFileError(
            f"{source} is an .spz file of version {header.version}; this program reads 1 to 4."
        )
    if header.degree not in DEGREES or header.fractional_bits > 23:
        raise InputFileError(
            f"{source} is damaged: degree {header.degree} (0 to 4 exist) with {header.fractional_bits} "
            "fractional bits (0 to 23 exist)."
        )
    if header.count == 0:
        raise InputFileError(f"{source} holds no Gaussians.")
    return section_sizes(header)


def _expect_plausible(source: Path, header: SpzHeader, length: int) -> None:
    """Require that a file of this length can hold what its header promises."""
    needed = header.count * gaussian_bytes((header.degree + 1) ** 2)
    expect_plausible(source, f"{header.count} Gaussians", needed, length)


def _split(body: memoryview, sizes: list[int]) -> list[memoryview]:
    columns = []
    for size in sizes:
        columns.append(body[:size])
        body = body[size:]
    return columns


def _frame_in_records(source: Path, records: bytes) -> Frame:
    """Return the axes that extension records name, or those of the specification where none does."""
    while len(records) >= 8:
        kind, length = struct.unpack_from("<II", records)
        if kind == AXES_EXTENSION and length == 4 and len(records) >= RECORD.size:
            code = RECORD.unpack_from(records)[2]
            for frame, known in AXES_CODES.items():
                if code == known or (code == 0 and frame == "rub"):
                    return frame
            known_codes = ", ".join(f"{code} ({name})" for name, code in AXES_CODES.items())
            raise InputFileError(
                f"{source} has the axes of code {code}; this program knows {known_codes}. Export it in "
                "one of these."
            )
        records = records[8 + length :]
    return "rub"
