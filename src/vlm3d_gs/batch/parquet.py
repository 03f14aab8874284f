"""Parquet, in and out; needs pyarrow, which only its users should have to download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import InputFileError, MissingDependencyError
from vlm3d_gs.core.files import atomic_path


def can_parquet() -> bool:
    """Return whether the library is installed."""
    return find_spec("pyarrow") is not None


def read_rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the rows of a file, each with its number from 1.

    Raises:
        InputFileError: the file cannot be read.
        MissingDependencyError: pyarrow is absent.
    """
    if not can_parquet():
        raise MissingDependencyError(
            f"Reading {path} needs pyarrow: pip install 'vlm3d-gs[parquet]'. Or save the list as .jsonl or .csv."
        )
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputFileError(f"Cannot read {path} as parquet: {error}") from error
    return list(enumerate(table.to_pylist(), 1))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Write rows, whole or not at all.

    Args:
        path: the file.
        rows: by column.
        columns: name -> type of Arrow (`string`, `int64`, `float64`).

    Raises:
        WriteError: the file system refuses.
    """
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in columns.items()])
    table = pyarrow.Table.from_pylist([dict(row) for row in rows], schema)
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")
