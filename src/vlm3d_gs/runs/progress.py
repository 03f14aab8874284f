"""How far a run is, for a person: a live bar on a terminal, an occasional plain line elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn
from rich.table import Column

PLAIN_LINES = 10
"""Lines per run where there is no terminal."""
REDRAWS_PER_S = 4
WIDEST_BAR, NARROWEST_BAR = 24, 6
NOT_QUESTIONS = ("critic/loss", "critic/reward")
"""What a critic logs beside the log-odds of its questions."""

_IN_DETAIL: ContextVar[bool] = ContextVar("in_detail", default=False)


@contextmanager
def in_detail(detailed: bool = True) -> Iterator[None]:
    """Let runs inside the block tell all that they know: the names and values of their log, and each question."""
    token = _IN_DETAIL.set(detailed)
    try:
        yield
    finally:
        _IN_DETAIL.reset(token)


class ProgressDisplay:
    """Shows steps done, rate, time left and any further values on standard error.

    Args:
        quiet: show nothing.
        console: where to; None is standard error.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._quiet, self._detailed = quiet, _IN_DETAIL.get()
        self._console = console or Console(stderr=True, highlight=False)
        self._verdict = ""
        bar_width = max(NARROWEST_BAR, min(WIDEST_BAR, self._console.width // 6))
        # In detail the values may take several lines; else one line, cut where the terminal ends.
        detailed = self._detailed
        column = Column() if detailed else Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=bar_width),
            TextColumn("{task.fields[status]}", markup=False, table_column=column),
            console=self._console,
            expand=not detailed,
            refresh_per_second=REDRAWS_PER_S,
            # Steps may take minutes, and rich forgets the older ones; it keeps at most a thousand.
            speed_estimate_period=math.inf,
            # It still keeps the time where it draws nothing, and the plain lines read it there.
            disable=quiet or not self._console.is_interactive,
        )
        self._task: TaskID | None = None
        self._tenth = -1
        self._lost = False

    def show(self, step: int, total: int, values: Mapping[str, Any]) -> None:
        """Show that `step` of `total` steps are done.

        Args:
            step: steps done.
            total: steps of the whole run.
            values: further columns, name -> value; they may change from step to step.
        """
        if self._quiet or self._lost:
            return
        with self._surviving():
            self._draw(step, total, values)

    def _draw(self, step: int, total: int, values: Mapping[str, Any]) -> None:
        if self._task is None:
            self._bar.start()
            # One step behind, so that the update below starts the clock; a resumed run's earlier steps do not count.
            self._task = self._bar.add_task("", total=total, completed=max(step - 1, 0), status="")

        self._bar.update(self._task, total=total, completed=step)
        status = self._status(self._bar.tasks[0], values)
        self._bar.update(self._task, status=status)

        tenth = step * PLAIN_LINES // max(total, 1)
        if self._bar.disable and tenth != self._tenth:
            self._tenth = tenth
            self.print(f"step {step}/{total}  {status}")

    def detail(self, text: str) -> None:
        """Print one line that only those want who asked for details."""
        if self._detailed:
            self.print(text)

    def print(self, text: str) -> None:
        """Print one line, above the bar."""
        if not (self._quiet or self._lost):
            with self._surviving():
                # Whole words on a terminal; elsewhere whole lines, whatever their length.
                soft = not self._console.is_terminal
                self._console.print(text, markup=False, soft_wrap=soft)

    def close(self) -> None:
        """Leave the last state on the screen and release the terminal."""
        if self._task is not None:
            with self._surviving():
                self._bar.stop()

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """Fall silent if nobody listens any more: a closed terminal or pipe must not end a run."""
        try:
            yield
        except OSError:
            self._lost = True

    def _status(self, task: Task, values: Mapping[str, Any]) -> str:
        """Return the line beside the bar: time left, what is done, the critic's verdict in words; or all values."""
        if self._detailed:
            return _all_values(task, values)

        # The critic is asked at some steps only, and its word stands until the next.
        self._verdict = verdict(values) or self._verdict
        left = _left(task)
        doing = f"round {values['round']:g}" if "round" in values else "refining"
        parts = [f"{left} left" if left else "", doing, self._verdict]
        return ", ".join(part for part in parts if part)


def verdict(values: Mapping[str, Any]) -> str:
    """Return what a critic says about a step in words; empty if it was not asked.

    Example:
        >>> verdict({"critic/semantic": 2.0, "critic/object_1": -1.0, "critic/reward": 0.5})
        'critic says yes to 1 of 2'
    """
    answers = [
        value
        for name, value in values.items()
        if name.startswith("critic/") and name not in NOT_QUESTIONS and isinstance(value, float)
    ]
    if not answers:
        return ""
    return f"critic says yes to {sum(value > 0.0 for value in answers)} of {len(answers)}"


def _left(task: Task) -> timedelta | None:
    if not task.speed or task.time_remaining is None:
        return None
    return timedelta(seconds=task.time_remaining)


def _all_values(task: Task, values: Mapping[str, Any]) -> str:
    """Return the rate, the time left and the values as one line of text."""
    columns = []
    if left := _left(task):
        columns = [f"{task.speed:.1f} it/s", f"{left} left"]
    for name, value in values.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        columns.append(f"{name} {text}")
    return "  ".join(columns)
