"""A batch for a person: a live table on a terminal, lines elsewhere, or JSON lines for a program."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vlm3d_gs.batch.driver import Event

REDRAWS_PER_S = 4
LAST = 6
"""Assets shown that ended last."""
LINE_EVERY_S = 30.0
"""Without a terminal."""
WIDTH = 60
"""Letters of a prompt."""


class Display(Protocol):
    """Shows what happens."""

    def show(self, event: Event) -> None:
        """Take an event."""

    def close(self) -> None:
        """Leave the last state and release the terminal."""


class Counts:
    """How far a batch is.

    Args:
        total: items of the list.
        kept: of them, done or failed before.
    """

    def __init__(self, total: int, kept: int) -> None:
        self.total, self.kept = total, kept
        self.done = self.failed = self.stopped = 0
        self._began = time.monotonic()

    def take(self, event: Event) -> None:
        """Count an event."""
        if event.outcome is not None:
            status = event.outcome.status
            self.done += status == "done"
            self.failed += status == "failed"
            self.stopped += status == "stopped"

    @property
    def left(self) -> int:
        """Items that are not done, nor failed."""
        return self.total - self.kept - self.done - self.failed

    def line(self) -> str:
        """Return all of it as a line."""
        ended, passed = self.done + self.failed, time.monotonic() - self._began
        parts = [f"{self.done} done", f"{self.failed} failed", f"{self.left} left"]
        if self.kept:
            parts.append(f"{self.kept} from before")
        if ended and passed > 0:
            parts.append(f"{ended / passed * 3600:.0f} an hour")
            if self.left:
                parts.append(f"{timedelta(seconds=round(self.left * passed / ended))} left")
        return ", ".join(parts)


class TableDisplay:
    """A live table on standard error; plain lines if that is no terminal.

    Args:
        counts: updated here.
        console: where to; None is standard error.
    """

    def __init__(self, counts: Counts, console: Console | None = None) -> None:
        self._counts = counts
        self._console = console or Console(stderr=True, highlight=False)
        self._workers: dict[str, Event] = {}
        self._last: deque[Event] = deque(maxlen=LAST)
        self._told = time.monotonic()
        self._live: Live | None = None
        if self._console.is_interactive:
            self._live = Live(
                get_renderable=self.table,
                console=self._console,
                refresh_per_second=REDRAWS_PER_S,
                transient=True,
            )
            self._live.start()

    def show(self, event: Event) -> None:
        """Take an event."""
        self._counts.take(event)
        if event.kind == "note":
            self._print(event.text)
        elif event.kind == "end":
            self._workers.pop(event.worker, None)
            self._last.append(event)
            if event.outcome is not None and event.outcome.status == "failed":
                self._print(f"failed: {_short(event)}: {event.outcome.reason}")
        else:
            self._workers[event.worker] = event

        now = time.monotonic()
        if self._live is None and now - self._told > LINE_EVERY_S:
            self._told = now
            self._print(self._counts.line())

    def table(self) -> Table:
        """Return the table: who does what, what ended last, and how far it is."""
        table = Table(box=None, pad_edge=False, show_header=False)
        for column in ("who", "how far", "what"):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        for name in sorted(self._workers):
            event = self._workers[name]
            far = f"{event.step}/{event.steps}" if event.steps else "begins"
            table.add_row(Text(name, "cyan"), far, Text(_short(event)))
        for event in self._last:
            assert event.outcome is not None
            good = event.outcome.status == "done"
            style = "green" if good else "red"
            seconds = f"{event.outcome.seconds:.1f} s"
            table.add_row(Text(event.outcome.status, style), seconds, Text(_short(event)))
        table.add_row(Text("all", "bold"), "", Text(self._counts.line(), "bold"))
        return table

    def close(self) -> None:
        """Leave how far it is on the screen."""
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()

    def _print(self, text: str) -> None:
        with suppress(OSError):
            self._console.print(text, markup=False, soft_wrap=True)


class JsonDisplay:
    """Each event as one JSON object a line on standard output.

    Args:
        counts: updated here.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def show(self, event: Event) -> None:
        """Write an event."""
        self._counts.take(event)
        with suppress(OSError):
            sys.stdout.write(json.dumps(event.plain(), ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def close(self) -> None:
        """Do nothing."""


class NoDisplay:
    """Counts only.

    Args:
        counts: updated here.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def show(self, event: Event) -> None:
        """Count an event."""
        self._counts.take(event)

    def close(self) -> None:
        """Do nothing."""


@contextmanager
def displayed(counts: Counts, *, as_json: bool, quiet: bool) -> Iterator[Display]:
    """Show a batch inside the block."""
    display: Display
    if as_json:
        display = JsonDisplay(counts)
    else:
        display = NoDisplay(counts) if quiet else TableDisplay(counts)
    try:
        yield display
    finally:
        display.close()


def _short(event: Event) -> str:
    """Return the prompt of an event, cut."""
    if event.item is None:
        return ""
    prompt = "".join(letter if letter.isprintable() else "?" for letter in event.item.prompt)
    return prompt if len(prompt) <= WIDTH else f"{prompt[: WIDTH - 1]}…"
