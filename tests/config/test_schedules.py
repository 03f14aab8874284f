from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm3d_gs.config import schedules
from vlm3d_gs.config.schedules import (
    Schedule,
    constant,
    cosine,
    exponential,
    linear,
    parse,
    piecewise,
)
from vlm3d_gs.core.errors import ConfigError

FRACTIONS = st.floats(0.0, 1.0)
POSITIVE = st.floats(1e-4, 1e4)


def points(values: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[tuple[float, float], ...]]:
    pairs = st.dictionaries(FRACTIONS, values, min_size=2, max_size=5)
    return pairs.map(lambda d: tuple(sorted(d.items())))


@given(points(POSITIVE), st.sampled_from(["linear", "cosine", "exponential", "piecewise"]))
def test_a_schedule_passes_through_its_points(where: tuple, kind: str) -> None:
    schedule = Schedule(kind, where)
    for fraction, value in where:
        assert schedule(fraction) == pytest.approx(value, rel=1e-12)


@given(points(POSITIVE), st.sampled_from(["linear", "cosine", "exponential"]), FRACTIONS)
def test_a_schedule_never_leaves_its_bounds(where: tuple, kind: str, fraction: float) -> None:
    schedule = Schedule(kind, where)
    assert schedule.low * (1 - 1e-9) <= schedule(fraction) <= schedule.high * (1 + 1e-9)


@given(points(POSITIVE), st.sampled_from(schedules.KINDS[1:]))
def test_the_text_form_reads_back_exactly(where: tuple, kind: str) -> None:
    schedule = Schedule(kind, where)
    assert parse(str(schedule)) == schedule


def test_middle_values_against_closed_forms() -> None:
    assert linear(1.0, 0.0)(0.25) == 0.75
    assert cosine(1.0, 0.0)(0.5) == pytest.approx(0.5)
    assert cosine(1.0, 0.0)(0.25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert exponential(1.0, 0.01)(0.5) == pytest.approx(0.1)
    assert linear(300.0, 1.0, stop=0.5)(0.25) == pytest.approx(150.5)


def test_values_hold_outside_the_points() -> None:
    schedule = linear(2.0, 4.0, start=0.25, stop=0.75)
    assert schedule(0.0) == schedule(-1.0) == 2.0
    assert schedule(1.0) == schedule(9.0) == 4.0


def test_piecewise_holds_until_the_next_point() -> None:
    schedule = piecewise((0.0, 64), (0.5, 128))
    assert [schedule(f) for f in (0.0, 0.499, 0.5, 1.0)] == [64, 64, 128, 128]


def test_values_without_fractions_are_spread_evenly() -> None:
    assert parse("linear:1,3,2") == Schedule("linear", ((0.0, 1.0), (0.5, 3.0), (1.0, 2.0)))


def test_a_number_is_constant() -> None:
    assert parse(3) == parse("3") == parse("3.0") == constant(3.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fast", "Cannot read 'fast'"),
        ("quad:1,2", "Unknown schedule 'quad'"),
        ("linear:1@0.5,2@0.1", "must increase"),
        ("linear:1@0,2@300", "not step numbers"),
        ("linear:1@0,2@0", "must increase"),
        ("exponential:1,0", "above 0"),
        ("linear:1,inf", "finite"),
        ("constant:1,2", "cannot have 2 points"),
        ("linear:", "Cannot read"),
    ],
)
def test_a_bad_schedule_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(text)
