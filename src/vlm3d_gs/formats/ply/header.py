"""The header of any PLY file, parsed here so that its claims are checked before data is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.claims import expect_file, expect_present

TYPE_BYTES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
"""Bytes of PLY's scalar types, old and new names."""
MAX_HEADER_BYTES = 65_536
COUNT_DIGITS = 40
"""A count with more digits is nonsense and is not parsed."""


@dataclass(frozen=True, slots=True)
class PlyTable:
    """One element of a PLY file: a table of scalars."""

    name: str
    count: int
    properties: tuple[tuple[str, str], ...]
    """(type, name) of each column."""

    @property
    def names(self) -> list[str]:
        """Names of the columns, in order."""
        return [name for _, name in self.properties]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in a binary file."""
        return sum(TYPE_BYTES[kind] for kind, _ in self.properties)


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


def read_header(source: Path) -> PlyHeader:
    """Read a PLY header.

    Args:
        source: the file.

    Raises:
        InputFileError: no such file, no PLY header, or one that cannot be parsed: list properties,
            unknown types, a count that is not a number.
    """
    expect_file(source)
    with source.open("rb") as stream:
        start = stream.read(MAX_HEADER_BYTES)

    head, ended, rest = start.partition(b"end_header")
    if not start.startswith(b"ply") or not ended:
        raise InputFileError(f"{source} is not a PLY file: it has no PLY header.")

    newline = 2 if rest.startswith(b"\r\n") else 1
    encoding, tables, comments = "", list[PlyTable](), list[str]()
    for line in head.decode("ascii", "replace").splitlines()[1:]:
        words = line.split()
        if not words or words[0] == "obj_info":
            continue

        if words[0] == "comment":
            comments.append(" ".join(words[1:]))
        elif words[0] == "format" and words[2:] == ["1.0"]:
            encoding = words[1]
        elif words[0] == "element" and len(words) == 3 and _is_count(words[2]):
            tables.append(PlyTable(words[1], int(words[2]), ()))
        elif words[0] == "property" and tables and len(words) == 3 and words[1] in TYPE_BYTES:
            last = tables[-1]
            tables[-1] = PlyTable(last.name, last.count, (*last.properties, (words[1], words[2])))
        else:
            raise InputFileError(
                f"{source} has a header that this program cannot read: {line[:80]!r}. "
                "A splat has plain number columns only."
            )

    if encoding not in ("binary_little_endian", "binary_big_endian", "ascii"):
        raise InputFileError(f"{source} has a header that names no known format, got {encoding!r}.")
    return PlyHeader(encoding, tuple(tables), tuple(comments), len(head) + 10 + newline)


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


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= COUNT_DIGITS
