"""Ratings: the minimum of their loss, favours for a side, intervals that hold the truth."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.evaluate.gpteval.elo import REACH, fit_elo
from vlm3d_gs.evaluate.gpteval.ratings import Verdict, merge_orders, order_report, rate


def loss(elo: np.ndarray, wins: np.ndarray) -> float:
    """GPTEval3D's loss, term by term."""
    total = 0.0
    for i in range(len(elo)):
        for j in range(len(elo)):
            if i != j:
                total += wins[i, j] * np.log(1.0 + 10.0 ** ((elo[j] - elo[i]) / 400.0))
    return total


def test_the_minimum_is_that_of_a_general_optimiser() -> None:
    source = np.random.default_rng(3)
    wins = source.integers(1, 30, (5, 5)).astype(float)
    start = np.array([1000.0, 1100.0, 900.0, 1000.0, 1000.0])
    frozen = np.array([True, True, False, False, False])

    def of_free(free: np.ndarray) -> float:
        return loss(np.where(frozen, start, np.r_[0, 0, free]), wins)

    best = minimize(of_free, [1000.0] * 3, method="BFGS", options={"gtol": 1e-9}).x
    fit = fit_elo(wins[None], np.zeros((1, 5, 5)), start, frozen)
    assert fit.ratings[0, 2:] == pytest.approx(best, abs=0.01)
    assert fit.ratings[0, :2] == pytest.approx(start[:2])
    # Who was first does not matter where its advantage is not fitted.
    swapped = fit_elo(np.zeros((1, 5, 5)), wins.T[None], start, frozen)
    assert swapped.ratings == pytest.approx(fit.ratings)


def test_two_methods_have_the_ratings_of_the_formula() -> None:
    wins = np.array([[[0.0, 30.0], [10.0, 0.0]]])
    fit = fit_elo(wins, np.zeros_like(wins), frozen=np.array([True, False]))
    assert fit.ratings[0, 1] == pytest.approx(1000.0 - 400.0 * np.log10(3.0), abs=1e-4)
    free = fit_elo(wins, np.zeros_like(wins))
    assert free.ratings.mean() == pytest.approx(1000.0)


def test_a_method_that_never_loses_stops_at_the_bound_and_one_without_games_stays() -> None:
    wins = np.zeros((1, 3, 3))
    wins[0, 0, 1] = 5.0
    fit = fit_elo(wins, np.zeros_like(wins), frozen=np.array([False, True, False]))
    assert fit.ratings[0].tolist() == pytest.approx([1000.0 + REACH, 1000.0, 1000.0])
    assert fit.bounded[0].tolist() == [True, False, False]


def both(first: str, second: str, prompt: int, results: tuple[int, int]) -> list[Verdict]:
    pair = f"{first}{second}{prompt}"
    return [
        Verdict(first, second, prompt, results[0], pair),  # type: ignore[arg-type]
        Verdict(second, first, prompt, results[1], pair),  # type: ignore[arg-type]
    ]


def test_both_orders_of_a_pair_make_one_verdict() -> None:
    verdicts = [
        *both("a", "b", 0, (-1, 1)),
        *both("a", "b", 1, (-1, -1)),
        *both("a", "b", 2, (0, 0)),
    ]
    verdicts += [
        *both("a", "b", 3, (1, 1)),
        Verdict("a", "b", 4, -1, "alone"),
        Verdict("a", "b", 5, 1),
    ]
    assert [one.result for one in merge_orders(verdicts)] == [-1, 0, 0, 0]
    report = order_report(verdicts)
    assert (report.pairs, report.consistent, report.first_share) == (4, 2, 0.5)
    assert report.consistency == 0.5
    assert order_report([]).consistency is None


def test_nothing_to_rate_is_said() -> None:
    with pytest.raises(ConfigError, match="no verdicts"):
        rate([])


def test_one_prompt_gives_no_interval() -> None:
    found = rate(both("a", "b", 0, (-1, 1)) + both("a", "b", 0, (1, 1)), {"a": 1000.0})
    assert found.elo["b"].low is None
    assert found.elo["a"].value == 1000.0


@pytest.fixture
def scripted(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    import scripted_tournaments

    yield scripted_tournaments
    for name in {"harness", "scripted_tournaments"} - before:
        sys.modules.pop(name, None)


def test_intervals_hold_the_truth_of_a_scripted_judge(scripted: Any) -> None:
    plan = scripted.Plan(methods=4, prompts=60, pairs=200)
    row = scripted.summary(scripted.Judge(), plan, tournaments=40, resamples=200)
    assert row["rating_held"] >= 0.93
    assert row["advantage_held"] >= 0.9
    assert row["consistency"] < 0.7


def test_the_favour_for_a_side_is_found_and_removed(scripted: Any) -> None:
    plan = scripted.Plan(methods=3, prompts=60, pairs=400, both_orders=False)
    row = scripted.summary(scripted.Judge(150.0), plan, tournaments=20, resamples=100)
    # The last method is nearly always second.
    assert row["naive_mean_error"][-1] < -60.0
    assert abs(row["mean_error"][-1]) < 20.0
    assert row["advantage_held"] >= 0.85
