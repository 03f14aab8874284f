"""A batch, from a list to its manifest: what is done is kept, what is left is made, all of it is written down.

read the list, check every row                          prompts.py
lock the folder, see what is done                       manifest.py
have the rest made by workers                           local.py or cluster.py
record each outcome at once                             manifest.py
write manifest and page                                 page.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm3d_gs.batch.display import Counts, displayed
from vlm3d_gs.batch.driver import Driver, Event, Job
from vlm3d_gs.batch.items import Item
from vlm3d_gs.batch.manifest import Manifest, open_manifest
from vlm3d_gs.batch.page import write_index
from vlm3d_gs.batch.prompts import PromptList
from vlm3d_gs.runs.interrupt import stop_requests


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

    @property
    def message(self) -> str:
        """What a person should know, as a line."""
        parts = [f"{self.done} assets are there"]
        if self.failed:
            parts.append(f"{self.failed} failed (--retry-failed tries them again)")
        if self.left:
            parts.append(f"{self.left} are left (the same command goes on)")
        return f"{', '.join(parts)}; see {self.files[-1]}"


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
    with open_manifest(job.out) as manifest, stop_requests() as stop_requested:
        pending = manifest.left(items, retry_failed=retry_failed)
        counts = Counts(len(items), len(items) - len(pending))
        try:
            with displayed(counts, as_json=as_json, quiet=quiet) as display:
                if prompts.repeated:
                    text = f"{prompts.repeated} rows ask for what an earlier row asks for, and are left out"
                    display.show(Event("note", text=text))
                tell = _recording(manifest, display.show)
                if pending:
                    driver.run(pending, job, tell, stop_requested)
        finally:
            files = _written(manifest, items)
        return _result(manifest, items, files, stop_requested.number)


def _recording(manifest: Manifest, show: Callable[[Event], None]) -> Callable[[Event], None]:
    """Return what records outcomes before it shows them."""

    def tell(event: Event) -> None:
        if event.outcome is not None:
            manifest.record(event.outcome)
        show(event)

    return tell


def _written(manifest: Manifest, items: Sequence[Item]) -> list[Path]:
    files = manifest.close(items)
    rows = [manifest.rows[item.id] for item in items if item.id in manifest.rows]
    return [*files, write_index(manifest.out, rows)]


def _result(
    manifest: Manifest, items: Sequence[Item], files: Sequence[Path], signal: int | None
) -> BatchResult:
    found = [manifest.rows[item.id].status for item in items if item.id in manifest.rows]
    done, failed = found.count("done"), found.count("failed")
    return BatchResult(done, failed, len(items) - done - failed, tuple(files), signal)
