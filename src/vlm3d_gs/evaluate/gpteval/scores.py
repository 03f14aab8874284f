"""The result of a tournament: ratings in three ways, what orders did, judges against each other, costs, refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from vlm3d_gs.evaluate.gpteval.play import Played
from vlm3d_gs.evaluate.gpteval.ratings import (
    OrderReport,
    Ratings,
    Verdict,
    merge_orders,
    order_report,
    rate,
)
from vlm3d_gs.evaluate.gpteval.tournament import Tournament
from vlm3d_gs.evaluate.judges.memory import Spent
from vlm3d_gs.evaluate.statistics.agreement import Agreement, agreement

ANCHOR = "dreamfusion"
"""Method that GPTEval3D keeps at 1000 where all methods are rated anew."""


@dataclass(frozen=True, slots=True)
class CriterionScores:
    """Ratings on one criterion by one judge."""

    criterion: str
    """Its name."""
    published: Ratings
    """As GPTEval3D rates: every verdict counts. Comparable with its numbers."""
    fair: Ratings
    """The same with the judge's favour for a side taken out."""
    consistent: Ratings | None
    """Of the pairs shown in both orders; a pair without the same winner in both counts as a draw. None without any."""
    order: OrderReport
    """What the order did."""


@dataclass(frozen=True, slots=True)
class JudgeScores:
    """Everything one judge led to."""

    judge: str
    """Its name."""
    criteria: dict[int, CriterionScores]
    """By number; criteria without a verdict are absent."""
    spent: Spent
    """What it cost."""
    refusals: dict[str, int]
    """How often each reason for no answer occurred."""


def score(
    tournament: Tournament,
    judge: str,
    played: Played,
    spent: Spent,
    new: str | None,
    *,
    seed: int = 0,
) -> JudgeScores:
    """Rate methods by what one judge said.

    Args:
        tournament: with the frozen ratings.
        judge: its name.
        played: what it said.
        spent: what it cost.
        new: the method that is rated against the frozen ones; None rates all anew, with `ANCHOR` at 1000 if it plays.
        seed: of the intervals.
    """
    criteria = {}
    for number, verdicts in played.verdicts.items():
        if not verdicts:
            continue
        frozen = _frozen(tournament.frozen[number], verdicts, new)
        merged = merge_orders(verdicts)
        criteria[number] = CriterionScores(
            criterion=tournament.criteria[number],
            published=rate(verdicts, frozen, order=False, seed=seed),
            fair=rate(verdicts, frozen, seed=seed),
            consistent=rate(merged, frozen, order=False, seed=seed) if merged else None,
            order=order_report(verdicts),
        )

    refusals: dict[str, int] = {}
    for _, reason in played.failures:
        refusals[reason] = refusals.get(reason, 0) + 1
    return JudgeScores(judge, criteria, spent, refusals)


def _frozen(
    published: Mapping[str, float], verdicts: Sequence[Verdict], new: str | None
) -> dict[str, float]:
    """Return the ratings that stay."""
    playing = {name for one in verdicts for name in (one.first, one.second)}
    if new is None:
        return {ANCHOR: 1000.0} if ANCHOR in playing else {}
    return {name: elo for name, elo in published.items() if name in playing and name != new}


def judges_agree(played: Mapping[str, Played]) -> dict[str, dict[int, Agreement]]:
    """Return, for each two judges and each criterion, how far their merged verdicts on common pairs agree."""
    found: dict[str, dict[int, Agreement]] = {}
    for one, other in combinations(played, 2):
        for number, verdicts in played[one].verdicts.items():
            theirs = {_pair(v): v.winner for v in merge_orders(played[other].verdicts[number])}
            both = [
                (v.winner, theirs[_pair(v)]) for v in merge_orders(verdicts) if _pair(v) in theirs
            ]
            if both:
                first, second = zip(*both, strict=True)
                found.setdefault(f"{one} and {other}", {})[number] = agreement(first, second)
    return found


def _pair(verdict: Verdict) -> tuple[str, int, str]:
    return verdict.pair, verdict.prompt_id, min(verdict.first, verdict.second)


def scores_json(scores: JudgeScores) -> dict[str, Any]:
    """Return the published ratings in the layout of GPTEval3D's scores.json."""
    layout = {}
    for number, one in scores.criteria.items():
        elo = {name: interval.value for name, interval in one.published.elo.items()}
        ranking = sorted(elo.items(), key=lambda item: -item[1])
        layout[str(number)] = {"scores": elo, "methods": list(elo), "ranking": ranking}
    return layout


def report_json(
    all_scores: Sequence[JudgeScores], agreements: Mapping[str, Mapping[int, Agreement]]
) -> dict[str, Any]:
    """Return everything as plain data."""
    return {
        "judges": [
            {
                "judge": one.judge,
                "criteria": {
                    str(number): {**asdict(item), "consistency": item.order.consistency}
                    for number, item in one.criteria.items()
                },
                "spent": asdict(one.spent),
                "refusals": one.refusals,
            }
            for one in all_scores
        ],
        "agreement": {
            names: {str(number): asdict(item) for number, item in found.items()}
            for names, found in agreements.items()
        },
    }


def scores_text(scores: JudgeScores, show: Sequence[str]) -> str:
    """Return a table for the terminal, of some methods or, with none given, of all."""
    lines = [f"{scores.judge}:"]
    for one in scores.criteria.values():
        share = one.order.consistency
        orders = "" if share is None else f", orders agree {share:.0%}"
        advantage = one.fair.first_advantage
        lines.append(
            f"  {one.criterion} ({one.published.verdicts} verdicts{orders}, "
            f"first shown {advantage.value:+.0f} Elo)"
        )
        for name in show or sorted(one.published.elo, key=lambda n: -one.published.elo[n].value):
            if name in one.published.elo:
                lines.append(
                    f"    {name:<24} {_elo(one.published, name)}  fair {_elo(one.fair, name)}"
                )
    spent = scores.spent
    lines.append(
        f"  {spent.asked} asked ({spent.remembered} remembered), {spent.failed} without an answer, "
        f"{spent.left_out} left out; {spent.tokens_in} tokens in, {spent.tokens_out} out, {spent.seconds:.0f} s"
    )
    return "\n".join(lines)


def _elo(ratings: Ratings, name: str) -> str:
    found = ratings.elo[name]
    span = "" if found.low is None else f" [{found.low:.0f}, {found.high:.0f}]"
    bound = " (a bound: all won or all lost)" if name in ratings.unbounded else ""
    return f"{found.value:.0f}{span}{bound}"
