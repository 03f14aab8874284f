from __future__ import annotations

import io

from rich.console import Console

from vlm3d_gs.runs.progress import ProgressDisplay


def printed(*, terminal: bool, steps: int = 100, quiet: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, color_system=None)
    progress = ProgressDisplay(quiet=quiet, console=console)
    for step in range(steps + 1):
        progress.show(step, steps, {"loss": 0.123456, "gaussians": step})
    progress.print("[done] with brackets")
    progress.close()
    return stream.getvalue()


def test_without_a_terminal_there_is_a_plain_line_at_each_tenth() -> None:
    lines = printed(terminal=False).splitlines()
    assert len(lines) == 12
    assert lines[5].startswith("step 50/100  ")
    assert "it/s" in lines[5]
    assert "left" in lines[5]
    assert "loss 0.1235" in lines[5]
    assert lines[-1] == "[done] with brackets"
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_a_live_line_that_ends_complete() -> None:
    text = printed(terminal=True)
    assert "100/100" in text
    assert "gaussians 100" in text


def test_a_short_run_shows_every_step() -> None:
    assert len(printed(terminal=False, steps=3).splitlines()) == 5


def test_the_rate_of_a_resumed_run_counts_its_own_steps_only() -> None:
    stream = io.StringIO()
    now_s = 0.0
    console = Console(file=stream, width=120, color_system=None, get_time=lambda: now_s)
    progress = ProgressDisplay(console=console)
    for step in range(501, 701):
        now_s += 0.5
        progress.show(step, 1000, {})
    first, *later = stream.getvalue().splitlines()
    assert first.split("  ") == ["step 501/1000", ""]
    assert later[-1].split("  ") == ["step 700/1000", "2.0 it/s", "0:02:30 left"]


def test_quiet_says_nothing() -> None:
    assert printed(terminal=True, quiet=True) == printed(terminal=False, quiet=True) == ""


def test_a_closed_terminal_silences_the_display_and_ends_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    display = ProgressDisplay(console=Console(file=Gone()))
    display.print("hello")
    display.show(1, 2, {"loss": 1.0})
    display.close()
