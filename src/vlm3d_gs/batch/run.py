"""A batch, from a list to its manifest: what is done is kept, what is left is made, all of it is written down.

read the list, check every row                          prompts.py
lock the folder, see what is done                       manifest.py
have the rest made by workers                           local.py or cluster.py
record each outcome at once                             manifest.py
write manifest and page                                 page.py
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlm3d_gs.batch.display import Counts, displayed
from vlm3d_gs.batch.driver import Driver, Event, Job
from vlm3d_gs.batch.items import Item
from vlm3d_gs.batch.local import LOGS
from vlm3d_gs.batch.manifest import JOURNAL, Manifest, open_manifest
from vlm3d_gs.batch.page import write_index
from vlm3d_gs.batch.prompts import PromptList
from vlm3d_gs.runs.interrupt import stop_requests

if TYPE_CHECKING:
    from vlm3d_gs.batch.store import Store

SEND_EVERY_S = 30.0
"""Between two times that the journal goes to a store, which cannot be added to."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How a batch ended."""

    done: int
    """Assets that are there, from before included."""
    failed: int
    """Prompts without one, from before included."""
    left: int
    """Prompts that were not begun, or were stopped."""
    files: tuple[Path, ...]
    """Manifest and page."""
    signal: int | None = None
    """Number of the signal that interrupted it; None if none did."""
    store: str = ""
    """URL of the batch's folder; empty if it is one of this machine."""

    @property
    def message(self) -> str:
        """What a person should know, as a line."""
        parts = [f"{self.done} assets are there"]
        if self.failed:
            parts.append(f"{self.failed} failed (--retry-failed tries them again)")
        if self.left:
            parts.append(f"{self.left} are left (the same command goes on)")
        page = self.files[-1]
        return f"{', '.join(parts)}; see {f'{self.store}/{page.name}' if self.store else page}"


def run_batch(
    prompts: PromptList,
    job: Job,
    driver: Driver,
    *,
    retry_failed: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> BatchResult:
    """Make what a list asks for and is not there yet.

    Ctrl-C, SIGTERM and SIGHUP end it after the current steps; runs in progress are saved, and the same call goes on.

    Args:
        prompts: the list.
        job: what workers are told.
        driver: has items made.
        retry_failed: try again what failed earlier.
        as_json: events as JSON lines on standard output, instead of a table.
        quiet: neither.

    Raises:
        ConfigError: another batch is at work in the folder, or an id there is that of something else.
        WriteError: the folder cannot be written into.
        Vlm3dGsError: no worker can be started, or what failed would fail for every prompt.
    """
    items = prompts.items
    remote = _Remote(job) if job.store else None
    with open_manifest(job.out) as manifest, stop_requests() as stop_requested:
        find = None if remote is None else remote.find
        pending = manifest.left(items, retry_failed=retry_failed, find=find)
        counts = Counts(len(items), len(items) - len(pending))
        try:
            with displayed(counts, as_json=as_json, quiet=quiet) as display:
                if prompts.repeated:
                    text = f"{prompts.repeated} rows ask for what an earlier row asks for, and are left out"
                    display.show(Event("note", text=text))
                tell = _recording(manifest, display.show, remote)
                if pending:
                    driver.run(pending, job, tell, stop_requested)
        finally:
            files = _written(manifest, items)
            if remote is not None:
                remote.send(files)
        return _result(manifest, items, files, stop_requested.number, job.store)


class _Remote:
    """The part of a batch behind a URL that its driver writes: the manifest, kept here and sent now and then."""

    def __init__(self, job: Job) -> None:
        from vlm3d_gs.batch.store import Store, StoredAssets

        self._out = job.out
        self.store: Store = Store(job.store)
        journal = self.store.read(JOURNAL)
        if journal is not None:
            (job.out / JOURNAL).write_bytes(journal)
        self.find = StoredAssets(self.store)
        self._sent = time.monotonic()

    def keep_up(self) -> None:
        """Send the journal if the last time is long ago."""
        if time.monotonic() - self._sent > SEND_EVERY_S:
            self.store.send(self._out / JOURNAL, JOURNAL)
            self._sent = time.monotonic()

    def send(self, files: Sequence[Path]) -> None:
        """Send manifest, page and logs."""
        for path in (*files, *sorted((self._out / LOGS).glob("*"))):
            self.store.send(path, path.relative_to(self._out).as_posix())


def _recording(
    manifest: Manifest, show: Callable[[Event], None], remote: _Remote | None
) -> Callable[[Event], None]:
    """Return what records outcomes before it shows them."""

    def tell(event: Event) -> None:
        if event.outcome is not None:
            manifest.record(event.outcome)
            if remote is not None:
                remote.keep_up()
        show(event)

    return tell


def _written(manifest: Manifest, items: Sequence[Item]) -> list[Path]:
    files = manifest.close(items)
    rows = [manifest.rows[item.id] for item in items if item.id in manifest.rows]
    return [*files, write_index(manifest.out, rows)]


def _result(
    manifest: Manifest,
    items: Sequence[Item],
    files: Sequence[Path],
    signal: int | None,
    store: str,
) -> BatchResult:
    found = [manifest.rows[item.id].status for item in items if item.id in manifest.rows]
    done, failed = found.count("done"), found.count("failed")
    return BatchResult(done, failed, len(items) - done - failed, tuple(files), signal, store)
