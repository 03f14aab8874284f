from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from vlm3d_gs.runs.progress import ProgressDisplay, in_detail


def printed(
    *,
    terminal: bool,
    steps: int = 100,
    quiet: bool = False,
    detailed: bool = True,
    width: int = 120,
) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, color_system=None)
    with in_detail(detailed):
        progress = ProgressDisplay(quiet=quiet, console=console)
    for step in range(steps + 1):
        progress.show(step, steps, {"loss": 0.123456, "gaussians": step, **words(step, steps)})
    progress.print("[done] with brackets")
    progress.close()
    return stream.getvalue()


def words(step: int, steps: int) -> dict[str, float]:
    """A run in rounds, at every tenth step of which a critic answers; then it is refined."""
    values = {"round": float(step // 10)} if step < steps else {}
    if step % 10 == 0:
        values |= {"critic/a": step - 30.0, "critic/b": -1.0, "critic/reward": 3.0}
    return values


def test_a_person_is_told_what_is_done_and_the_critics_verdict_in_words() -> None:
    lines = printed(terminal=False, detailed=False).splitlines()
    assert lines[0] == "step 0/100  round 0, critic says yes to 0 of 2"
    assert lines[5].endswith("left, round 5, critic says yes to 1 of 2")
    assert lines[10].endswith("refining, critic says yes to 1 of 2")
    assert "loss" not in "".join(lines)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_bar_stays_on_one_line_of_any_terminal(width: int) -> None:
    text = printed(terminal=True, detailed=False, width=width)
    frames = [line for line in re.split(r"\r|\n|\x1b\[[0-9;?]*[A-Za-z]", text) if line.strip()]
    assert any("100/100" in line for line in frames)
    assert max(len(line) for line in frames) <= width
    assert any("left" in line or "refining" in line for line in frames)


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
    with in_detail():
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
