"""The header of any PLY file, parsed here so that its claims are checked before data is read.

Other programs put much beside the Gaussians: faces, cameras, times, comments in any language. All
of that is parsed, so that the rows of interest can be found, and none of it is required.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.claims import expect_file, expect_present
from vlm3d_gs.formats.options import AXES, Frame

TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
"""PLY's scalar types, old and new names, as numpy's codes without the byte order."""
MAX_HEADER_BYTES = 2**20
END = re.compile(rb"\nend_header[ \t]*\r?\n")
"""The line that ends a header; the same words inside a comment do not."""
OLD_END = re.compile(rb"\rend_header[ \t]*\r")
"""The same where lines end as on old Macs: a line feed after it is data."""
COUNT_DIGITS = 40
"""A count with more digits is nonsense and is not parsed."""

AXES_COMMENTS: dict[Frame, str] = {
    **{frame: f"axes: {words}" for frame, words in AXES.items()},
    "rdf": "axes: x right, y down, z away from the front camera",
}
"""Our comment that names the axes of a PLY file."""
VERTICAL = "vertical axis:"
"""Comment of nerfstudio and Brush. nerfstudio's z is up; Brush's y is the usual one, down."""
MIP_COMMENTS = ("splatrendermode: mip", "antialiased 1")
"""Comments of Brush and of splat-transform on a splat that was trained with Mip-Splatting's filter."""


@dataclass(frozen=True, slots=True)
class PlyTable:
    """One element of a PLY file: a table of scalars and perhaps lists."""

    name: str
    count: int
    properties: tuple[tuple[str, str], ...]
    """(type, name) of each column; the type of a list is "list", that of its length and of its items."""

    @property
    def names(self) -> list[str]:
        """Names of the columns, in order."""
        return [name for _, name in self.properties]

    @property
    def has_lists(self) -> bool:
        """Whether its rows differ in length."""
        return any(kind.startswith("list") for kind, _ in self.properties)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in a binary file; those of an empty list for lists."""
        return sum(
            type_bytes(kind.split()[-2 if " " in kind else 0]) for kind, _ in self.properties
        )


@dataclass(frozen=True, slots=True)
class PlyHeader:
    """The header of a PLY file."""

    encoding: str
    """`binary_little_endian`, `binary_big_endian` or `ascii`."""
    tables: tuple[PlyTable, ...]
    comments: tuple[str, ...]
    bytes: int
    """Length of the header; the data begins there."""

    @property
    def element_names(self) -> list[str]:
        """Names of the elements, in order."""
        return [table.name for table in self.tables]

    @property
    def is_compressed(self) -> bool:
        """Whether this is the header of a compressed splat, by the names of its elements."""
        return self.element_names[:2] == ["chunk", "vertex"]

    @property
    def byte_order(self) -> str:
        """`<` or `>`, as numpy writes it."""
        return ">" if self.encoding == "binary_big_endian" else "<"

    @property
    def frame(self) -> Frame:
        """Axes that a comment names, else those of the format's custom."""
        for frame, comment in AXES_COMMENTS.items():
            if comment in self.comments:
                return frame
        return "world" if self.vertical_axis in ("z", "+z") else "rdf"

    @property
    def vertical_axis(self) -> str | None:
        """What a comment of nerfstudio's kind says, in lower case."""
        lower = [comment.lower() for comment in self.comments]
        found = [text.removeprefix(VERTICAL).strip() for text in lower if text.startswith(VERTICAL)]
        return found[-1] if found else None

    @property
    def antialiased(self) -> bool:
        """Whether a comment says that the splat was trained with Mip-Splatting's filter."""
        return any(comment.lower() in MIP_COMMENTS for comment in self.comments)

    @property
    def free_comments(self) -> tuple[str, ...]:
        """Comments that no property of this class is about: whatever people wrote."""
        return tuple(
            comment
            for comment in self.comments
            if comment not in AXES_COMMENTS.values()
            and comment.lower() not in MIP_COMMENTS
            and not comment.lower().startswith((VERTICAL, "splatrendermode:", "antialiased "))
        )


def type_bytes(kind: str) -> int:
    """Return the bytes of a scalar type."""
    return int(TYPES[kind][1])


def comment_lines(frame: Frame, antialiased: bool, comments: tuple[str, ...]) -> list[str]:
    """Return the comments of a header to write, one line each."""
    texts = [AXES_COMMENTS[frame], *(["SplatRenderMode: mip"] if antialiased else []), *comments]
    return [f"comment {' '.join(text.split())}" for text in texts]


def read_header(source: Path) -> PlyHeader:
    """Read a PLY header.

    Args:
        source: the file.

    Raises:
        InputFileError: no such file, no PLY header, or one that cannot be parsed: unknown types, a
            count that is not a number.
    """
    expect_file(source)
    with source.open("rb") as stream:
        start = stream.read(MAX_HEADER_BYTES)

    end = (OLD_END if re.match(rb"ply\r[^\n]", start) else END).search(start)
    if not start.startswith(b"ply") or end is None:
        raise InputFileError(f"{source} is not a PLY file: it has no PLY header.")

    encoding, tables, comments = "", list[PlyTable](), list[str]()
    for line in re.split(r"\r\n|\n|\r", start[: end.start()].decode("utf-8", "replace"))[1:]:
        words = line.split()
        if not words or words[0] == "obj_info":
            continue

        if words[0] == "comment":
            comments.append(" ".join(words[1:]))
        elif words[0] == "format" and words[2:] == ["1.0"]:
            encoding = words[1]
        elif words[0] == "element" and len(words) == 3 and _is_count(words[2]):
            tables.append(PlyTable(words[1], int(words[2]), ()))
        elif words[0] == "property" and tables and _is_property(words[1:]):
            last, column = tables[-1], (" ".join(words[1:-1]), words[-1])
            tables[-1] = PlyTable(last.name, last.count, (*last.properties, column))
        else:
            raise InputFileError(
                f"{source} has a header that this program cannot read: {line[:80]!r}."
            )

    if encoding not in ("binary_little_endian", "binary_big_endian", "ascii"):
        raise InputFileError(f"{source} has a header that names no known format, got {encoding!r}.")
    return PlyHeader(encoding, tuple(tables), tuple(comments), end.end())


def expect_rows(source: Path, header: PlyHeader) -> None:
    """Require that the file holds the rows that its header promises.

    Raises:
        InputFileError: it is shorter.
    """
    binary = header.encoding != "ascii"
    # In ASCII every value takes at least a digit and a separator.
    rows = sum(
        table.count * (table.row_bytes if binary else 2 * len(table.properties))
        for table in header.tables
    )
    promised = ", ".join(f"{table.count} rows of {table.name!r}" for table in header.tables)
    expect_present(source, promised, rows, source.stat().st_size - header.bytes + (not binary))


def seek_table(stream: BinaryIO, header: PlyHeader, name: str) -> None:
    """Move a stream to the first row of a table, past the rows of those before it.

    Args:
        stream: the file, open for reading bytes.
        header: its header.
        name: of the table.
    """
    stream.seek(header.bytes)
    for table in header.tables:
        if table.name == name:
            return
        if not table.properties:
            continue
        if header.encoding == "ascii":
            for _ in range(table.count):
                stream.readline()
        elif not table.has_lists:
            stream.seek(table.count * table.row_bytes, 1)
        else:
            for _ in range(table.count):
                _skip_row(stream, table, header.byte_order)


def _skip_row(stream: BinaryIO, table: PlyTable, byte_order: str) -> None:
    for kind, _ in table.properties:
        if not kind.startswith("list"):
            stream.seek(type_bytes(kind), 1)
            continue
        _, length_kind, item_kind = kind.split()
        size = type_bytes(length_kind)
        data = stream.read(size)
        if len(data) < size:
            return  # truncated, as whoever reads on will find
        length = int(np.frombuffer(data, byte_order + TYPES[length_kind])[0])
        stream.seek(max(length, 0) * type_bytes(item_kind), 1)


def _is_property(words: list[str]) -> bool:
    if words[:1] == ["list"]:
        integers = len(words) == 4 and TYPES.get(words[1], "f")[0] != "f"
        return integers and words[2] in TYPES
    return len(words) == 2 and words[0] in TYPES


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= COUNT_DIGITS
