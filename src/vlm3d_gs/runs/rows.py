"""A file of JSON rows that outlives a full disk, a deleted folder and a crash: rows are whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vlm3d_gs.core.errors import WriteError
from vlm3d_gs.core.files import atomic_path, writing


class Rows:
    """Appends rows to a file, each on the disk's side of this process at once.

    Args:
        path: the file; replaced.
        rows: what it holds at first, whole lines.

    Raises:
        WriteError: the file system refuses.
    """

    def __init__(self, path: Path, rows: Sequence[str] = ()) -> None:
        self._path, self._descriptor = path, -1
        self._waiting = b""
        self.replace(path, rows)

    def keep(self, line: str) -> None:
        """Let a row wait for the next `flush`."""
        self._waiting += line.encode()

    def flush(self) -> None:
        """Write the rows that wait.

        Raises:
            WriteError: the file system refuses; what it did not take goes on waiting.
            ValueError: the file is closed.
        """
        if self._descriptor < 0:
            raise ValueError(f"{self._path} is closed.")
        while self._waiting:
            with writing(self._path):
                done = os.write(self._descriptor, self._waiting)
            self._waiting = self._waiting[done:]

    def replace(self, path: Path, rows: Sequence[str]) -> None:
        """Write a new file with these rows, and go on with it; rows that wait go on waiting.

        Raises:
            WriteError: the file system refuses.
        """
        with atomic_path(path) as temporary:
            temporary.write_text("".join(rows), encoding="utf-8")
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0))
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._path, self._descriptor = path, descriptor

    def content(self) -> list[str]:
        """Return the rows that were written, even if the file has been deleted."""
        size = os.fstat(self._descriptor).st_size
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        parts = []
        while size > 0 and (part := os.read(self._descriptor, size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts).decode(errors="replace").splitlines(keepends=True)

    def close(self) -> None:
        """Write what waits, if the file system takes it now, and close the file; may be called again."""
        if self._descriptor >= 0:
            with suppress(WriteError):
                self.flush()
            os.close(self._descriptor)
            self._descriptor = -1


def rows_up_to(path: Path, step: int) -> list[str]:
    """Return the whole rows up to a step; a row torn by a crash, or damaged, ends the record."""
    rows: list[str] = []
    if not path.is_file():
        return rows

    text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines(keepends=True):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        done = row.get("step") if isinstance(row, dict) else None
        if not isinstance(done, int) or not line.endswith("\n"):
            break
        if done <= step:
            rows.append(line)
    return rows
