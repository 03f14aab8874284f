"""The manifest of a batch: a journal to which each outcome is added at once, written anew in order at the end.

A killed driver loses nothing: the journal holds what it had heard of, and the sidecars in the assets' folders the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from filelock import FileLock, Timeout

from vlm3d_gs.batch.items import Item
from vlm3d_gs.batch.outcome import COLUMNS, Outcome, as_columns, read_sidecar
from vlm3d_gs.batch.parquet import can_parquet, write_rows
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.files import atomic_path, make_folder, writing

JOURNAL, PARQUET = "manifest.jsonl", "manifest.parquet"
LOCK = ".lock"

T = TypeVar("T")
Find = Callable[[Item, Outcome | None], Outcome | None]
"""Looks for a whole asset, given its row."""


class Manifest:
    """Outcomes by id; one process at a time (`open_manifest`).

    Args:
        out: folder of the batch.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows = {row.id: row for row in read_journal(out / JOURNAL)}
        with writing(out / JOURNAL):
            self._journal = (out / JOURNAL).open("a+b")
            _end_line(self._journal)

    def record(self, outcome: Outcome) -> None:
        """Add an outcome; it is in the file when this returns, and replaces an earlier one of the id.

        Raises:
            WriteError: the file system refuses.
        """
        self.rows[outcome.id] = outcome
        line = json.dumps(outcome.plain(), ensure_ascii=False, allow_nan=False) + "\n"
        with writing(self.out / JOURNAL):
            self._journal.write(line.encode())
            self._journal.flush()

    def left(
        self, items: Iterable[Item], *, retry_failed: bool, find: Find | None = None
    ) -> list[Item]:
        """Return what is still to be made, in order; assets that are whole without a row get theirs.

        Args:
            items: the list.
            retry_failed: whether to make those that failed once more.
            find: looks for an asset; None looks into the folder.

        Raises:
            ConfigError: an id is that of an asset made of something else.
        """
        find = find or self._find
        pending = []
        for item in items:
            row = self.rows.get(item.id)
            if row is not None and row.content != item.content:
                raise ConfigError(
                    f"{self.out} has an asset {item.id!r} of another prompt or other settings ({row.prompt[:60]!r}). "
                    "Give the row another id, or choose another --out."
                )

            if row is not None and row.status == "failed" and not retry_failed:
                continue
            found = find(item, row)
            if found is None:
                pending.append(item)
            elif row is None or row.status != "done":
                self.record(found)
        return pending

    def _find(self, item: Item, row: Outcome | None) -> Outcome | None:
        return read_sidecar(self.out / item.folder, item.content)

    def release(self) -> None:
        """Close the journal; may be called again."""
        self._journal.close()

    def close(self, order: Sequence[Item]) -> list[Path]:
        """Write the manifest anew, one row an id: first the list in its order, then what earlier lists asked for.

        Returns:
            The files.

        Raises:
            WriteError: the file system refuses.
        """
        self.release()
        listed = [self.rows[item.id] for item in order if item.id in self.rows]
        known = {row.id for row in listed}
        rows = [*listed, *(row for row in self.rows.values() if row.id not in known)]

        with atomic_path(self.out / JOURNAL) as temporary, temporary.open("w") as file:
            for row in rows:
                file.write(json.dumps(row.plain(), ensure_ascii=False, allow_nan=False) + "\n")
        if not can_parquet():
            return [self.out / JOURNAL]
        write_rows(self.out / PARQUET, [as_columns(row) for row in rows], COLUMNS)
        return [self.out / JOURNAL, self.out / PARQUET]


@contextmanager
def open_manifest(out: Path) -> Iterator[Manifest]:
    """Make a batch's folder and keep other batches out of it inside the block.

    Raises:
        ConfigError: another batch is at work there.
        WriteError: the folder cannot be made or written into.
    """
    make_folder(out)
    lock = FileLock(out / LOCK, timeout=0)
    with writing(out):
        try:
            lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"Another batch is writing into {out} at this moment. Wait for it or end it, or choose another --out."
            ) from error
    try:
        manifest = Manifest(out)
        try:
            yield manifest
        finally:
            manifest.release()
    finally:
        lock.release()


def read_journal(path: Path) -> Iterator[Outcome]:
    """Yield the rows of a journal in order, as `read_lines` does."""
    yield from read_lines(path, Outcome.from_plain)


def read_lines(path: Path, from_plain: Callable[[Any], T]) -> Iterator[T]:
    """Yield what the JSON lines of a file hold, in order; a line torn by a crash, or damaged, is left out.

    Args:
        path: the file; absent is empty.
        from_plain: makes one of a line's data.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield from_plain(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue


def _end_line(journal: BinaryIO) -> None:
    """End the last line of a journal if a crash has torn it, so that the next row begins its own."""
    size = journal.seek(0, 2)
    if size:
        journal.seek(size - 1)
        if journal.read(1) != b"\n":
            journal.write(b"\n")
