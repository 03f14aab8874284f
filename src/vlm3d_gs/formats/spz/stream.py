"""SPZ, Niantic's compressed splat: versions 1 to 4 are read, 2 to 4 written.

The quantised columns (`columns`) follow each other in one gzip stream up to version 3; from version
4 each is a zstd stream. The specification says x right, y up, z towards the viewer (`rub`), yet
most files in the wild, and the tools that make them, keep the axes of the PLY (`raw`). Our version
4 files name their axes in an extension record, and such a record is trusted on reading; otherwise
the caller decides.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import zstandard

from vlm3d_gs.core.errors import ConfigError, ExportError, InputFileError
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.claims import expect_plausible, expect_present, file_bytes, gaussian_bytes
from vlm3d_gs.formats.options import Frame, SpzFrame, SpzVersion
from vlm3d_gs.formats.spz.columns import DEGREES, SpzHeader, decode, encode, section_sizes

MAGIC = b"NGSP"
HEADER = struct.Struct("<4sIIBBBB")
"""Versions 1 to 3: magic, version, count, degree, fractional bits, flags, reserved."""
HEADER_V4 = struct.Struct("<4sIIBBBBI12x")
"""Version 4: the same with the number of streams and the offset of their table."""
RECORD = struct.Struct("<III")
"""Our only extension record: type, length of the payload, the payload."""
ENTRY = struct.Struct("<QQ")
"""A stream in the table: bytes compressed, bytes unpacked."""
HAS_EXTENSIONS = 0x2
AXES_EXTENSION = 0xADBE0003
AXES_RUB, AXES_RDF = 4, 6
"""Codes of coordinate systems in that record; 0, unspecified, means that of the specification too."""
MAX_COUNT = 2**32 - 1
GZIP_LEVEL, ZSTD_LEVEL = 4, 12
"""On quantised columns, level 4 with Z_FILTERED takes a fifth of level 6's time and packs tighter."""
MAX_TRAILING_BYTES = 2**20
"""Most bytes of extension records after the columns of versions 1 to 3."""


def frame_of(spz_frame: SpzFrame) -> Frame:
    """Return the axes of an .spz file for the user's choice.

    Raises:
        ConfigError: neither `raw` nor `rub`.
    """
    if spz_frame == "raw":
        return "rdf"
    if spz_frame == "rub":
        return "rub"
    raise ConfigError(f"The axes of an .spz file must be raw or rub, got {spz_frame!r}.")


def save_spz(arrays: SplatArrays, path: Path, *, version: SpzVersion = 3) -> None:
    """Write arrays as they are, in order.

    Args:
        arrays: in `rdf` or `rub`.
        path: the file.
        version: 3 is read nearly everywhere, 4 is newer, 2 for old readers: its rotations are coarser.

    Raises:
        ConfigError: another version.
        ExportError: a position too far out for the format.
    """
    if version not in (2, 3, 4):
        raise ConfigError(f"The version of an .spz file must be 2, 3 or 4, got {version}.")
    if len(arrays) > MAX_COUNT:
        raise ExportError(f"An .spz file holds at most {MAX_COUNT} Gaussians, got {len(arrays)}.")

    header, columns = encode(arrays, version)
    fields = (MAGIC, version, header.count, header.degree, header.fractional_bits)
    if version < 4:
        body = HEADER.pack(*fields, 0, 0) + b"".join(columns)
        gzip = zlib.compressobj(GZIP_LEVEL, wbits=31, strategy=zlib.Z_FILTERED)
        path.write_bytes(gzip.compress(body) + gzip.flush())
        return

    zstd = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    streams = [zstd.compress(column) for column in columns]
    axes = RECORD.pack(AXES_EXTENSION, 4, AXES_RUB if arrays.frame == "rub" else AXES_RDF)
    offset = HEADER_V4.size + len(axes)
    sections = [HEADER_V4.pack(*fields, HAS_EXTENSIONS, len(streams), offset), axes]
    sections += [ENTRY.pack(len(s), len(c)) for s, c in zip(streams, columns, strict=True)]
    path.write_bytes(b"".join([*sections, *streams]))


def load_spz(source: Path, *, spz_frame: SpzFrame = "raw") -> SplatArrays:
    """Read an .spz file as arrays in the file's axes.

    Args:
        source: the file; gzip or zstd container.
        spz_frame: its axes, unless an extension record names them.

    Raises:
        InputFileError: not SPZ, an unknown version, truncated, damaged, or in axes other than ours.
    """
    data = file_bytes(source)
    frame = frame_of(spz_frame)
    if data[:4] == MAGIC:
        return _load_zstd(source, data, frame)
    if data[:2] == b"\x1f\x8b":
        try:
            return _load_gzip(source, data, frame)
        except zlib.error as error:
            raise InputFileError(f"{source} is damaged or truncated: {error}.") from error
    raise InputFileError(f"{source} is not an .spz file: it begins with neither gzip nor NGSP.")


def _load_gzip(source: Path, data: bytes, frame: Frame) -> SplatArrays:
    """Read versions 1 to 3: header, columns and extension records in one gzip stream."""
    gzip = zlib.decompressobj(wbits=31)
    start = gzip.decompress(data, HEADER.size)
    if len(start) < HEADER.size or start[:4] != MAGIC:
        raise InputFileError(f"{source} is not an .spz file: its gzip stream holds no SPZ header.")

    _, version, count, degree, bits, flags, _ = HEADER.unpack(start)
    header = SpzHeader(version, count, degree, bits)
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
    if flags & HAS_EXTENSIONS:
        frame = _frame_in_records(source, trailing, frame)

    body = memoryview(b"".join(chunks))
    return decode(header, _split(body, sizes), frame)


def _load_zstd(source: Path, data: bytes, frame: Frame) -> SplatArrays:
    """Read version 4: header, extension records, table of streams, one zstd stream a column."""
    if len(data) < HEADER_V4.size:
        raise InputFileError(
            f"{source} is truncated: it is shorter than the header of an .spz file."
        )

    _, version, count, degree, bits, flags, streams, offset = HEADER_V4.unpack_from(data)
    header = SpzHeader(version, count, degree, bits)
    sizes = [size for size in _sizes(source, header, (4,)) if size]
    _expect_plausible(source, header, len(data))

    end = offset + ENTRY.size * streams
    if streams != len(sizes) or offset < HEADER_V4.size or end > len(data):
        raise InputFileError(
            f"{source} is damaged or truncated: its table of streams is not there."
        )

    if flags & HAS_EXTENSIONS:
        frame = _frame_in_records(source, data[HEADER_V4.size : offset], frame)

    columns: list[memoryview] = []
    for index, size in enumerate(sizes):
        packed, unpacked = ENTRY.unpack_from(data, offset + ENTRY.size * index)
        if unpacked != size:
            raise InputFileError(f"{source} is damaged: a stream has {unpacked} bytes for {size}.")
        expect_present(source, f"stream {index}", packed, len(data) - end)
        columns.append(_unzstd(source, data[end : end + packed], size))
        end += packed

    if degree == 0:
        columns.append(memoryview(b""))
    return decode(header, columns, frame)


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


def _frame_in_records(source: Path, records: bytes, frame: Frame) -> Frame:
    """Return the axes that extension records name, or `frame` where none does."""
    while len(records) >= 8:
        kind, length = struct.unpack_from("<II", records)
        if kind == AXES_EXTENSION and length == 4 and len(records) >= RECORD.size:
            code = RECORD.unpack_from(records)[2]
            if code == AXES_RDF:
                return "rdf"
            if code in (0, AXES_RUB):
                return "rub"
            raise InputFileError(
                f"{source} has the axes of code {code}; this program knows 4 (x right, y up, z back) "
                "and 6 (x right, y down, z away). Export it in one of these."
            )
        records = records[8 + length :]
    return frame
