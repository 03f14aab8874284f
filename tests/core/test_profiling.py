"""Parts of a step are timed only while a clock listens, and inner parts do not count twice."""

from __future__ import annotations

import time

import pytest
import torch

from vlm3d_gs.core.profiling import SectionClock, listening, section


@section("inner")
def inner(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


def test_a_clock_tells_inner_from_outer_parts() -> None:
    clock = SectionClock(torch.device("cpu"))
    with listening(clock), section("outer"):
        time.sleep(0.02)
        assert inner(0.05) == "done"
        inner(0.05)
    assert clock.seconds["inner"] >= 0.1
    assert 0.02 <= clock.seconds["outer"] < 0.1


def test_nothing_is_kept_when_nobody_listens() -> None:
    clock = SectionClock(torch.device("cpu"))
    inner(0.0)
    with listening(clock):
        pass
    inner(0.0)
    assert clock.seconds == {}


def test_a_part_that_fails_is_closed() -> None:
    clock = SectionClock(torch.device("cpu"))
    with listening(clock):
        with pytest.raises(ValueError, match="no"), section("bad"):
            raise ValueError("no")
        with section("good"):
            pass
    assert set(clock.seconds) == {"bad", "good"}
