"""Do the intervals of our ratings hold the truth, and is a judge's favour for a side found and removed?

    python benchmarks/scripted_tournaments.py --tournaments 200

A scripted judge of known preferences stands in for a model: its chance to prefer the first shown is
1 / (1 + 10^(-(difference of ratings + taste in this prompt + favour for the first) / 400)), and it sometimes cannot
tell. Tournaments are drawn, judged, and rated as any other. The truth that an interval should hold is the minimum of
the expected loss: that of infinitely many games on infinitely many prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from harness import arguments, record

from vlm3d_gs.evaluate.gpteval.elo import SCALE, fit_elo
from vlm3d_gs.evaluate.gpteval.ratings import Result, Verdict, order_report, rate


@dataclass(frozen=True)
class Judge:
    """What the scripted judge is like."""

    favour: float = 80.0
    """Elo by which it favours what is shown first."""
    cannot_tell: float = 0.1
    """Share of the pairs on which it gives no preference."""
    taste: float = 60.0
    """Standard deviation of a method's rating from prompt to prompt, Elo."""


@dataclass(frozen=True)
class Plan:
    """What a tournament is like."""

    methods: int = 6
    prompts: int = 110
    pairs: int = 400
    both_orders: bool = True
    """Show each pair in both orders; else the method that comes first in the list is first in four of five."""


def play(judge: Judge, plan: Plan, seed: int) -> tuple[np.ndarray, list[Verdict]]:
    """Return the ratings of a drawn tournament, and its verdicts."""
    source = np.random.default_rng(seed)
    ratings = 1000.0 + source.normal(0.0, 120.0, plan.methods)
    tastes = source.normal(0.0, judge.taste, (plan.prompts, plan.methods))

    verdicts = []
    for pair in range(plan.pairs):
        one, other = sorted(source.choice(plan.methods, 2, replace=False).tolist())
        prompt = int(source.integers(plan.prompts))
        if not plan.both_orders and source.random() < 0.2:
            one, other = other, one
        for first, second in ((one, other), (other, one))[: 1 + plan.both_orders]:
            ahead = (
                ratings[first] - ratings[second] + tastes[prompt, first] - tastes[prompt, second]
            )
            wins = source.random() < chance(ahead + judge.favour)
            result: Result = 0 if source.random() < judge.cannot_tell else (-1 if wins else 1)
            verdicts.append(Verdict(str(first), str(second), prompt, result, f"{pair}"))
    return ratings, verdicts


def chance(ahead: np.ndarray | float) -> np.ndarray | float:
    """Return the chance of a win at a difference in Elo."""
    return 1.0 / (1.0 + np.exp(-SCALE * ahead))


def truth(judge: Judge, ratings: np.ndarray, order: bool) -> tuple[np.ndarray, float]:
    """Return ratings (relative to that of method 0) and advantage at the minimum of the expected loss."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    tastes = np.sqrt(2.0) * judge.taste * nodes
    ahead = ratings[:, None] - ratings[None] + judge.favour
    wins = (chance(ahead[..., None] + tastes) * weights).sum(-1) / weights.sum()

    tells, cannot = 1.0 - judge.cannot_tell, judge.cannot_tell
    fit = fit_elo((tells * wins + cannot)[None], (tells * (1 - wins) + cannot)[None], order=order)
    return fit.ratings[0] - fit.ratings[0, 0], float(fit.first_advantage[0])


@dataclass(frozen=True)
class Outcome:
    """One tournament against its truth."""

    held: tuple[bool, ...]
    """Whether the interval of each method but the first holds the truth."""
    advantage_held: bool
    errors: tuple[float, ...]
    """Elo minus truth, with the favour removed."""
    naive_errors: tuple[float, ...]
    """Elo minus the ratings that a judge without favour would lead to, without removing it."""
    consistency: float | None


def outcomes(judge: Judge, plan: Plan, tournaments: int, resamples: int) -> Iterator[Outcome]:
    """Yield one outcome a tournament; method 0 is frozen at 0 differences, the others are judged."""
    for seed in range(tournaments):
        ratings, verdicts = play(judge, plan, seed)
        relative, advantage = truth(judge, ratings, order=True)
        fair, _ = truth(Judge(0.0, judge.cannot_tell, judge.taste), ratings, order=False)

        found = rate(verdicts, {"0": 1000.0}, resamples=resamples, seed=seed)
        naive = rate(verdicts, {"0": 1000.0}, order=False, resamples=2, seed=seed)
        names = [str(index) for index in range(1, plan.methods)]
        spans = [(found.elo[name].low, found.elo[name].high) for name in names]
        true = 1000.0 + relative[1:]

        low, high = found.first_advantage.low, found.first_advantage.high
        yield Outcome(
            tuple(a <= t <= b for (a, b), t in zip(spans, true, strict=True)),
            low <= advantage <= high,
            tuple(found.elo[n].value - t for n, t in zip(names, true, strict=True)),
            tuple(naive.elo[n].value - 1000.0 - f for n, f in zip(names, fair[1:], strict=True)),
            order_report(verdicts).consistency,
        )


def summary(judge: Judge, plan: Plan, tournaments: int, resamples: int) -> dict[str, object]:
    """Return one row of the table."""
    done = list(outcomes(judge, plan, tournaments, resamples))
    held = np.array([one.held for one in done])
    consistent = [one.consistency for one in done if one.consistency is not None]
    return {
        "favour": judge.favour,
        "cannot_tell": judge.cannot_tell,
        "taste": judge.taste,
        "both_orders": plan.both_orders,
        "pairs": plan.pairs,
        "tournaments": tournaments,
        "resamples": resamples,
        "rating_held": float(held.mean()),
        "advantage_held": float(np.mean([one.advantage_held for one in done])),
        "mean_abs_error": float(np.mean([np.abs(one.errors).mean() for one in done])),
        "mean_error": [float(x) for x in np.mean([one.errors for one in done], axis=0).round(1)],
        "naive_mean_error": [
            float(x) for x in np.mean([one.naive_errors for one in done], axis=0).round(1)
        ],
        "consistency": float(np.mean(consistent)) if consistent else None,
    }


def main() -> None:
    """Run all cases and write the rows."""
    parser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("--tournaments", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=1000)
    given = parser.parse_args()

    cases = [
        (Judge(0.0, 0.0, 0.0), Plan()),
        (Judge(), Plan()),
        (Judge(200.0, 0.1, 60.0), Plan()),
        (Judge(), Plan(pairs=120)),
        (Judge(), Plan(both_orders=False, pairs=800)),
    ]
    rows = []
    for judge, plan in cases:
        row = summary(judge, plan, given.tournaments, given.resamples)
        rows.append(row)
        print(row, flush=True)
    print(record("scripted_tournaments", rows, given.out))


if __name__ == "__main__":
    main()
