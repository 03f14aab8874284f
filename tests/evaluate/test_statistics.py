"""Intervals, paired tests and agreement, against scipy, scikit-learn's answers and known cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap, wilcoxon

from vlm3d_gs.core.errors import ShapeError
from vlm3d_gs.evaluate.statistics.agreement import agreement, weighted_kappa
from vlm3d_gs.evaluate.statistics.bootstrap import mean_interval, statistic_interval
from vlm3d_gs.evaluate.statistics.paired import holm, sign_flip_p, sign_test_p

ORACLE = json.loads((Path(__file__).parent / "agreement_answers.json").read_text())
"""Kappas by scikit-learn; `made_by` says by which version and how."""


@pytest.mark.parametrize("case", ORACLE["cases"], ids=lambda case: str(len(case["first"])))
def test_kappa_is_that_of_scikit_learn(case: dict[str, list[int]]) -> None:
    found = agreement(case["first"], case["second"])
    assert found.kappa == pytest.approx(case["kappa"])
    assert weighted_kappa(case["first"], case["second"]) == pytest.approx(case["linear"])
    assert found.share == np.mean(np.equal(case["first"], case["second"]))


def test_unequal_lists_are_refused() -> None:
    for function in (agreement, weighted_kappa):
        with pytest.raises(ShapeError, match="2 .* 1"):
            function([1, 2], [1])
    with pytest.raises(ShapeError, match="at least one"):
        sign_flip_p([])
    with pytest.raises(ShapeError, match="3 values and 2"):
        mean_interval([1.0, 2.0, 3.0], ["a", "b"])


def test_the_interval_is_that_of_scipy_where_prompts_have_one_run() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 40)
    ours = mean_interval(values.tolist(), list(range(40)), resamples=9999)
    theirs = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(2))
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.06)
    assert ours.value == pytest.approx(values.mean())


def test_runs_of_one_prompt_count_once() -> None:
    values, prompts = [0.0] * 30 + [1.0, 1.0], ["a"] * 30 + ["b", "c"]
    found = mean_interval(values, prompts)
    assert (found.value, found.prompts) == (pytest.approx(2 / 3), 3)
    alone = mean_interval([1.0, 0.0], ["a", "a"])
    assert (alone.value, alone.low, alone.high) == (0.5, None, None)


def test_any_statistic_of_weights_has_an_interval() -> None:
    values = np.array([1.0, 2.0, 3.0, 5.0, 10.0])
    mean = statistic_interval(lambda weights: float(weights @ values / weights.sum()), 5)
    plain = mean_interval(values.tolist(), list(range(5)))
    assert (mean.low, mean.high) == pytest.approx((plain.low, plain.high))


def test_p_values() -> None:
    # Of the 2^5 ways to give signs, two have a mean as far from 0 as this one.
    assert sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 32)
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([3.0]) == 1.0
    source = np.random.default_rng(4)
    values = source.normal(0.4, 1.0, 60)
    assert sign_flip_p(values.tolist()) == pytest.approx(float(wilcoxon(values).pvalue), abs=0.03)
    assert sign_test_p(5, 0) == pytest.approx(2 / 32)
    assert sign_test_p(0, 0) == 1.0


def test_holm_by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_false_alarms_are_as_rare_as_the_level_says() -> None:
    source = np.random.default_rng(5)
    alarms = [sign_flip_p(source.choice([-1.0, 0.0, 1.0], 8).tolist()) <= 0.05 for _ in range(150)]
    assert np.mean(alarms) <= 0.08
