"""The rows of a PLY file's vertices, from binary or text, wherever in the file they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.arrays import FloatArray
from vlm3d_gs.formats.claims import expect_present, table_rows
from vlm3d_gs.formats.ply.header import TYPES, PlyHeader, PlyTable, expect_rows, seek_table


@dataclass(frozen=True, eq=False)
class PlyRows:
    """N rows with a value of each property."""

    table: NDArray[np.void]
    text: bool
    """Whether the file says nothing about how values were stored, as all are text."""

    def __len__(self) -> int:
        return len(self.table)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the properties."""
        return self.table.dtype.names or ()

    def columns(self, *names: str) -> FloatArray:
        """Return properties as float32, [N, len(names)]."""
        where = [self.names.index(name) for name in names]
        if all(self.table.dtype[name] == np.dtype("<f4") for name in self.names):
            table = self.table.view("<f4").reshape(len(self.table), len(self.names))
            return table.take(where, axis=1)

        values = np.empty((len(self.table), len(names)), np.float32)
        # Doubles beyond float32 become infinite, which `to_gaussians` refuses.
        with np.errstate(over="ignore"):
            for index, name in enumerate(names):
                values[:, index] = self.table[name]
        return values

    def are_bytes(self, name: str) -> bool:
        """Return whether a property counts to 255: stored as bytes, or as text with larger numbers than 1."""
        if self.text:
            return bool((self.table[name] > 1).any())
        return self.table.dtype[name].kind in "iu"


def read_rows(source: Path, header: PlyHeader, required: tuple[str, ...]) -> PlyRows:
    """Read all vertices of a PLY; as `open_rows`."""
    vertex = expect_vertex(source, header)
    return open_rows(source, header, required)(slice(0, vertex.count))


def open_rows(
    source: Path, header: PlyHeader, required: tuple[str, ...]
) -> Callable[[slice], PlyRows]:
    """Return what reads some of the vertices of a PLY.

    Args:
        source: the file.
        header: its header.
        required: properties that the vertices must have.

    Raises:
        InputFileError: no such element or properties, lists among them, truncated or damaged. The claims
            of the header are checked against the size of the file before anything is allocated.
    """
    vertex = expect_vertex(source, header)
    missing = [name for name in required if name not in vertex.names]
    if missing:
        raise InputFileError(f"{source} is no point cloud: it lacks {', '.join(missing)}.")
    expect_rows(source, header)
    with source.open("rb") as stream:
        seek_table(stream, header, vertex.name)
        offset = stream.tell()

    if header.encoding != "ascii":
        kinds = [(name, header.byte_order + TYPES[kind]) for kind, name in vertex.properties]
        row = np.dtype(kinds)
        present = source.stat().st_size - offset
        expect_present(source, f"{vertex.count} vertices", vertex.count * row.itemsize, present)
        return lambda rows: PlyRows(table_rows(source, offset, row, rows), text=False)

    # Text has no rows to jump to, and is read once, whole.
    try:
        whole = _read_text(source, header, vertex)
    except (ValueError, OverflowError) as error:
        raise InputFileError(f"{source} is not a readable PLY file: {error}") from error
    return lambda rows: PlyRows(whole[rows], text=True)


def expect_vertex(source: Path, header: PlyHeader) -> PlyTable:
    """Return the table of vertices.

    Raises:
        InputFileError: there is none, or it has lists or two properties of one name.
    """
    for table in header.tables:
        if table.name != "vertex":
            continue
        if table.has_lists or len({*table.names}) < len(table.names):
            raise InputFileError(
                f"{source} has vertices with lists or with two properties of one name; a splat has plain "
                "number columns only."
            )
        return table
    found = ", ".join(f"{table.name} {table.count}" for table in header.tables) or "none"
    raise InputFileError(
        f"{source} is not a Gaussian splat: it should have the element 'vertex', it has: {found}."
    )


def _read_text(source: Path, header: PlyHeader, table: PlyTable) -> NDArray[np.void]:
    with source.open("rb") as stream:
        seek_table(stream, header, table.name)
        lines = (stream.readline().decode("latin1") for _ in range(table.count))
        values = np.loadtxt(lines, np.float64, comments=None, ndmin=2)
    if table.count and values.shape[1] != len(table.names):
        raise InputFileError(
            f"{source} is not a readable PLY file: a row has {values.shape[1]} values for "
            f"{len(table.names)} properties."
        )

    kinds = [(name, "f8") for name in table.names]
    rows = np.ascontiguousarray(values).view(np.dtype(kinds)).reshape(-1)
    if len(rows) != table.count:
        raise InputFileError(f"{source} is truncated: {len(rows)} rows of {table.count} are there.")
    return rows
