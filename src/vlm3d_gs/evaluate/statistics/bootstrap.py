"""Intervals by resampling prompts.

Answers about one prompt resemble each other, whatever the seed, the pair or the judge. So what is drawn again is
prompts, each with all that belongs to it (the cluster bootstrap: Field and Welsh 2007, JRSS B 69).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.errors import ShapeError
from vlm3d_gs.core.seeding import stream_seed

F64 = NDArray[np.float64]

RESAMPLES = 2000
"""Resamples of an interval; its ends are then known to a tenth of its width."""
FEWEST_PROMPTS = 5
"""Of fewer prompts no interval is given: there are too few ways to draw them again."""
LEVEL = 0.95
"""Coverage of every interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, and the interval that covers the truth in `LEVEL` of all samples of prompts."""

    value: float
    """Of the sample itself."""
    low: float | None
    """None with fewer than `FEWEST_PROMPTS`, of which little follows about others."""
    high: float | None
    """As `low`."""
    prompts: int
    """Number of prompts it rests on."""


def prompt_weights(prompts: int, resamples: int = RESAMPLES, seed: int = 0) -> F64:
    """Return how often each prompt occurs in each resample, [resamples, prompts]; each row sums to `prompts`."""
    if prompts < 1:
        raise ShapeError(f"A bootstrap needs at least 1 prompt, got {prompts}.")
    source = np.random.default_rng(stream_seed(seed, "bootstrap"))
    drawn: F64 = source.multinomial(prompts, [1.0 / prompts] * prompts, resamples).astype(float)
    return drawn


def percentile_interval(value: float, samples: F64, prompts: int) -> Interval:
    """Return the percentile interval of an estimate from its resamples [R]; NaN among them are left out."""
    finite = samples[np.isfinite(samples)]
    if prompts < FEWEST_PROMPTS or len(finite) < 2:
        return Interval(value, None, None, prompts)
    edge = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(finite, [edge, 1.0 - edge]).tolist()
    return Interval(value, low, high, prompts)


def mean_interval(
    values: Sequence[float], prompts: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean over prompts of the mean of each, with its interval.

    Args:
        values: one for each run, pair or answer.
        prompts: the prompt of each.
        resamples: of the prompts.
        seed: the same gives the same interval.

    Raises:
        ShapeError: no values, or not one prompt for each.
    """
    means = prompt_means(values, prompts)
    weights = prompt_weights(len(means), resamples, seed)
    return percentile_interval(float(means.mean()), weights @ means / len(means), len(means))


def prompt_means(values: Sequence[float], prompts: Sequence[Hashable]) -> F64:
    """Return the mean value of each prompt, in the order in which prompts first occur.

    Raises:
        ShapeError: no values, or not one prompt for each.
    """
    if not values or len(values) != len(prompts):
        raise ShapeError(
            f"Needs one prompt for each value, got {len(values)} values and {len(prompts)} prompts."
        )
    grouped: dict[Hashable, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        grouped.setdefault(prompt, []).append(float(value))
    return np.array([sum(group) / len(group) for group in grouped.values()])


def statistic_interval(
    statistic: Callable[[F64], float], prompts: int, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the interval of any statistic that takes weights of prompts.

    Args:
        statistic: a function of [prompts] weights; all ones is the sample itself. NaN where it is not defined.
        prompts: number of prompts.
        resamples: of the prompts.
        seed: the same gives the same interval.
    """
    weights = prompt_weights(prompts, resamples, seed)
    samples = np.array([statistic(row) for row in weights])
    return percentile_interval(statistic(np.ones(prompts)), samples, prompts)
