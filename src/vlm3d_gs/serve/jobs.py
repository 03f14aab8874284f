"""The jobs of a service: accepted ones are written down first, so that no end of the process loses one.

Requests come in the thread of the server, outcomes in that of the driver; a lock guards what both touch.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from vlm3d_gs.batch.driver import Event
from vlm3d_gs.batch.items import Item
from vlm3d_gs.batch.manifest import Manifest, open_manifest, read_lines
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.files import writing

ACCEPTED = "accepted.jsonl"
"""Items in the order in which they were accepted."""
Listener = Callable[[dict[str, Any]], None]
"""Called with each event of an item, in the driver's thread."""


class Jobs:
    """What was asked for, and what became of it.

    Args:
        manifest: outcomes; its folder holds everything.
        most_waiting: items that may wait.
    """

    def __init__(self, manifest: Manifest, most_waiting: int) -> None:
        self.out = manifest.out
        self.feed: SimpleQueue[Item] = SimpleQueue()
        self.counts: Counter[str] = Counter()
        """Outcomes since the start, by status."""
        self.seconds = 0.0
        """That assets took since the start, in sum."""
        self.running: dict[str, Event] = {}
        """Last event of each item in progress."""
        self._manifest, self._most_waiting = manifest, most_waiting
        self._items: dict[str, Item] = {}
        self._listeners: dict[str, list[Listener]] = {}
        self._lock = threading.Lock()

        # A line torn by a crash was never answered for.
        accepted = list(read_lines(self.out / ACCEPTED, Item.from_plain))
        with writing(self.out / ACCEPTED):
            self._accepted = (self.out / ACCEPTED).open("ab")
        for item in manifest.left(accepted, retry_failed=False):
            self._items[item.id] = item
            self.feed.put(item)

    @property
    def waiting(self) -> int:
        """Items that nobody works on yet."""
        return self.feed.qsize()

    def accept(self, item: Item) -> str:
        """Take an item unless the same was taken before; return its status.

        Raises:
            ConfigError: the queue is full.
            WriteError: it cannot be written down.
        """
        with self._lock:
            status = self._status(item.id)
            if status not in ("", "failed", "stopped"):
                return status
            if self.waiting >= self._most_waiting:
                raise ConfigError(f"{self.waiting} prompts wait already. Ask again later.")

            with writing(self.out / ACCEPTED):
                self._accepted.write(json.dumps(item.plain()).encode() + b"\n")
                self._accepted.flush()
            self._items[item.id] = item
            self.feed.put(item)
            return "waiting"

    def describe(self, id: str) -> dict[str, Any] | None:
        """Return what is known of an item; None if nothing is."""
        with self._lock:
            status = self._status(id)
            if not status:
                return None
            if status in ("waiting", "running"):
                item, last = self._items[id], self.running.get(id)
                far = {"step": last.step, "steps": last.steps} if last is not None else {}
                return {"id": id, "prompt": item.prompt, "status": status, **far}
            return self._manifest.rows[id].plain()

    def tell(self, event: Event) -> None:
        """Take an event of the driver."""
        if event.item is None:
            return
        id = event.item.id
        with self._lock:
            if event.outcome is None:
                self.running[id] = event
            else:
                self._manifest.record(event.outcome)
                self.running.pop(id, None)
                # What was stopped goes on after the next start.
                self._items.pop(id, None)
                self.counts[event.outcome.status] += 1
                self.seconds += event.outcome.seconds
            listeners = list(self._listeners.get(id, ()))
        for listener in listeners:
            listener(event.plain())

    @contextmanager
    def listening(self, id: str, listener: Listener) -> Iterator[None]:
        """Have a listener called with each event of an item inside the block."""
        with self._lock:
            self._listeners.setdefault(id, []).append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners[id].remove(listener)
                if not self._listeners[id]:
                    del self._listeners[id]

    def close(self) -> None:
        """Close the list of accepted items."""
        self._accepted.close()

    def _status(self, id: str) -> str:
        if id in self.running:
            return "running"
        if id in self._items:
            return "waiting"
        row = self._manifest.rows.get(id)
        return row.status if row is not None else ""


@contextmanager
def open_jobs(out: Path, most_waiting: int) -> Iterator[Jobs]:
    """Open a service's folder, with what an earlier service left to do there.

    Raises:
        ConfigError: another service or batch is at work there.
        WriteError: the folder cannot be written into.
    """
    with open_manifest(out) as manifest:
        jobs = Jobs(manifest, most_waiting)
        try:
            yield jobs
        finally:
            jobs.close()
