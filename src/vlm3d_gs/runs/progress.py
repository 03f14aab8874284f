"""Where a run is, for a person: a live line on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

LINES_WITHOUT_TERMINAL = 10
REDRAWS_PER_S = 8


class Progress:
    """Shows step, rate, time left and values, on standard error.

    Args:
        quiet: show nothing.
        console: where to; None is standard error.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._quiet = quiet
        self._console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._first: tuple[int, float] | None = None
        self._drawn_s = -1.0
        self._tenth = -1

    def show(self, step: int, total: int, values: Mapping[str, Any]) -> None:
        """Show that `step` of `total` steps are done; drawn at most a few times a second."""
        if self._quiet:
            return
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        if self._console.is_terminal:
            if step < total and now - self._drawn_s < 1.0 / REDRAWS_PER_S:
                return
            self._drawn_s = now
            self._draw(step, total, self._words(step, total, values, now))
            return
        tenth = step * LINES_WITHOUT_TERMINAL // max(total, 1)
        if tenth != self._tenth:
            self._tenth = tenth
            self._console.print(
                f"step {step}/{total}  {self._words(step, total, values, now)}", soft_wrap=True
            )

    def say(self, text: str) -> None:
        """Print one line above the live line."""
        if not self._quiet:
            self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last state on the screen and give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, step: int, total: int, words: str) -> None:
        row = Table.grid(padding=(0, 1))
        row.add_row(f"{step}/{total}", ProgressBar(total=total, completed=step, width=24), words)
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(row, refresh=True)

    def _words(self, step: int, total: int, values: Mapping[str, Any], now: float) -> str:
        assert self._first is not None
        done, seconds = step - self._first[0], now - self._first[1]
        parts = []
        if done > 0 and seconds > 0:
            parts = [f"{done / seconds:.1f} it/s", f"{clock((total - step) * seconds / done)} left"]
        parts += [f"{name} {_short(value)}" for name, value in values.items()]
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """Return a duration as m:ss, or h:mm:ss from an hour on.

    Example:
        >>> clock(75.2)
        '1:15'
    """
    whole = round(max(seconds, 0.0))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}:{minutes:02d}:{whole % 60:02d}"
    return f"{minutes}:{whole % 60:02d}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
