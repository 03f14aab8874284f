"""From verdicts on pairs to ratings with intervals, with what the order of a pair did to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.evaluate.gpteval.elo import START, EloFit, fit_elo
from vlm3d_gs.evaluate.statistics.bootstrap import (
    F64,
    Interval,
    percentile_interval,
    prompt_weights,
)

Result = Literal[-1, 0, 1]
"""-1: the first shown is better, 1: the second, 0: cannot tell; GPTEval3D's code."""
RESAMPLES = 1000
"""Resamples of the prompts for an interval of ratings."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer about one pair in one order."""

    first: str
    """Method shown first (left)."""
    second: str
    """Method shown second (right)."""
    prompt_id: int
    """Index of the prompt."""
    result: Result
    """Who is better."""
    pair: str = ""
    """Equal for both orders of a pair; empty for a verdict without its swap."""

    @property
    def winner(self) -> str | None:
        """The better method, None for neither."""
        return {-1: self.first, 0: None, 1: self.second}[self.result]


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings of methods, with intervals over prompts."""

    elo: dict[str, Interval]
    """By method; frozen ones have their given rating as both ends."""
    first_advantage: Interval
    """Elo by which being shown first helps; 0 without favour."""
    unbounded: tuple[str, ...]
    """Methods that won or lost all their games: their rating is only a bound."""
    verdicts: int
    """Number of verdicts."""


@dataclass(frozen=True, slots=True)
class OrderReport:
    """What showing each pair in both orders says about a judge."""

    pairs: int
    """Pairs with a verdict in both orders."""
    consistent: int
    """Those with the same winner in both, or none in both."""
    first_share: float | None
    """Share of the pairs with a different winner that went to whoever was first both times; 0.5 is no favour."""

    @property
    def consistency(self) -> float | None:
        """Share of consistent pairs; None without pairs."""
        return self.consistent / self.pairs if self.pairs else None


def rate(
    verdicts: Sequence[Verdict],
    frozen: Mapping[str, float] | None = None,
    *,
    order: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ratings:
    """Fit ratings to verdicts.

    Args:
        verdicts: at least one.
        frozen: known ratings, which stay; without any, the mean of all is `START`.
        order: also fit the advantage of the first shown, which takes a judge's favour for a side out of the ratings.
            GPTEval3D's own ratings are those without it.
        resamples: of the prompts, for the intervals.
        seed: the same gives the same intervals.

    Raises:
        ConfigError: no verdicts.
    """
    if not verdicts:
        raise ConfigError("There are no verdicts to rate methods by. Ask a judge first.")
    known = dict(frozen or {})
    names = sorted({*known, *(name for one in verdicts for name in (one.first, one.second))})
    start = np.array([known.get(name, START) for name in names])
    stays = np.array([name in known for name in names])

    prompts, first, second = _tables(verdicts, names)
    point = fit_elo(first.sum(0)[None], second.sum(0)[None], start, stays, order=order)
    weights = prompt_weights(len(prompts), resamples, seed)
    again = _refit(first, second, weights, start, stays, order)

    elo = {
        name: percentile_interval(float(point.ratings[0, i]), again.ratings[:, i], len(prompts))
        for i, name in enumerate(names)
    }
    advantage = percentile_interval(
        float(point.first_advantage[0]), again.first_advantage, len(prompts)
    )
    unbounded = tuple(name for i, name in enumerate(names) if point.bounded[0, i])
    return Ratings(elo, advantage, unbounded, len(verdicts))


def _tables(verdicts: Sequence[Verdict], names: Sequence[str]) -> tuple[list[int], F64, F64]:
    """Return the prompts, and the wins of first and second of each, [prompts, N, N]."""
    place = {name: index for index, name in enumerate(names)}
    prompts = sorted({one.prompt_id for one in verdicts})
    row = {prompt: index for index, prompt in enumerate(prompts)}

    first = np.zeros((len(prompts), len(names), len(names)))
    second = np.zeros_like(first)
    for one in verdicts:
        at = (row[one.prompt_id], place[one.first], place[one.second])
        # A draw counts as a win for both.
        first[at] += one.result <= 0
        second[at] += one.result >= 0
    return prompts, first, second


def _refit(
    first: F64, second: F64, weights: F64, start: F64, stays: NDArray[np.bool_], order: bool
) -> EloFit:
    flat = (first.reshape(len(first), -1), second.reshape(len(second), -1))
    shape = (len(weights), *first.shape[1:])
    wins = [(weights @ one).reshape(shape) for one in flat]
    return fit_elo(wins[0], wins[1], start, stays, order=order)


def merge_orders(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return one verdict for each pair shown in both orders: its winner if both agree, or else none.

    Verdicts without their swap are left out.
    """
    merged = []
    for one, other in _swapped(verdicts):
        same = one.winner is not None and one.winner == other.winner
        result: Result = one.result if same else 0
        merged.append(Verdict(one.first, one.second, one.prompt_id, result, one.pair))
    return merged


def order_report(verdicts: Iterable[Verdict]) -> OrderReport:
    """Return how far both orders of the pairs agree."""
    pairs = _swapped(verdicts)
    consistent = sum(one.winner == other.winner for one, other in pairs)
    sided = [one.result for one, other in pairs if one.result == other.result != 0]
    share = sum(result == -1 for result in sided) / len(sided) if sided else None
    return OrderReport(len(pairs), consistent, share)


def _swapped(verdicts: Iterable[Verdict]) -> list[tuple[Verdict, Verdict]]:
    """Return the pairs of verdicts that differ only in the order."""
    waiting: dict[tuple[str, str, str, int], Verdict] = {}
    found = []
    for one in verdicts:
        if not one.pair:
            continue
        other = waiting.pop((one.pair, one.second, one.first, one.prompt_id), None)
        if other is None:
            waiting[one.pair, one.first, one.second, one.prompt_id] = one
        else:
            found.append((other, one))
    return found
