"""How far the build is: a bar on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import math

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_LINES = 10
"""Lines for a build where there is no terminal."""


class BuildBar:
    """Shows files compiled, time passed and time left on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._bar = Progress(
            *(TextColumn("files"), MofNCompleteColumn(), BarColumn(bar_width=24)),
            *(TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
            console=self._console,
            # The files take unequally long, so all of them count.
            speed_estimate_period=math.inf,
            disable=not self._console.is_interactive,
        )
        self._tenth = -1

    def tell(self, text: str) -> None:
        """Print one line, above the bar."""
        self._console.print(text, markup=False, soft_wrap=True)

    def show(self, done: int, total: int) -> None:
        """Show that `done` of `total` files are compiled."""
        if not self._bar.tasks:
            self._bar.start()
            self._bar.add_task("", total=total)
        self._bar.update(self._bar.task_ids[0], total=total, completed=done)

        tenth = done * PLAIN_LINES // max(total, 1)
        if self._bar.disable and tenth != self._tenth:
            self._tenth = tenth
            left = self._bar.tasks[0].time_remaining
            self.tell(f"files {done}/{total}" + ("" if left is None else f", {left:.0f} s left"))

    def close(self) -> None:
        """Leave the last state on the screen and release the terminal."""
        self._bar.stop()
