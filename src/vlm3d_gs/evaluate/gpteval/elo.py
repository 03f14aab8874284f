"""Elo ratings of methods from pairwise games, by maximum likelihood, exactly.

The loss is GPTEval3D's (Wu et al. 2024, arXiv 2401.04092, after GLIDE, arXiv 2112.10741, appendix A.1), the sum over
games of log(1 + 10^((loser - winner) / 400)), where a draw counts as a win for both. It is convex, so Newton's method
finds its one minimum. Beside the ratings it may fit the advantage of whoever is shown first, in Elo: a judge that
favours a side then moves that number and not the ratings.

Letters: B independent tables of games, N methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

SCALE = np.log(10.0) / 400.0
"""Log-odds of a win for each point of Elo."""
START = 1000.0
"""Rating of a method of which nothing is known."""
REACH = 1000.0
"""Farthest that a rating may move from its start. GPTEval3D's own optimiser takes 10,000 steps of at most about 0.1, so
it ends here too where a method wins all its games and the minimum lies at infinity."""
LONGEST_STEP = 200.0
"""Longest step of Newton's method in one rating."""
STEPS, TOLERANCE = 100, 1e-5
"""Most steps, and the largest change of a rating at which they end; the step before it has squared its error."""


@dataclass(frozen=True, slots=True)
class EloFit:
    """Ratings fitted to B tables of games."""

    ratings: F64
    """[B, N] Elo."""
    first_advantage: F64
    """[B] Elo by which being shown first helps; 0 where it was not fitted."""
    bounded: NDArray[np.bool_]
    """[B, N] ratings that ended at `REACH`: all games won or all lost."""


def fit_elo(
    first_wins: F64,
    second_wins: F64,
    start: F64 | None = None,
    frozen: NDArray[np.bool_] | None = None,
    *,
    order: bool = False,
) -> EloFit:
    """Fit ratings to games.

    Args:
        first_wins: [B, N, N], at (i, j) the games with i shown first and j second that i won, or that were drawn. The
            diagonal is ignored.
        second_wins: [B, N, N], at (i, j) those that j won, or that were drawn.
        start: [N] ratings to begin with; those of frozen methods stay. None is `START` for all.
        frozen: [N] bool. Without any, ratings are only known up to a constant; they then keep the mean of `start`.
        order: fit the advantage of being shown first as well.

    Returns:
        The minimum of the loss within `REACH` of the start.
    """
    tables, count = first_wins.shape[0], first_wins.shape[-1]
    begin = np.full(count, START) if start is None else np.asarray(start, dtype=np.float64)
    free = np.ones(count, dtype=bool) if frozen is None else ~np.asarray(frozen, dtype=bool)

    off_diagonal = 1.0 - np.eye(count)
    games = _Games(first_wins * off_diagonal, second_wins * off_diagonal)
    origin = np.append(begin, 0.0)
    may_move = np.append(free, order)

    values = np.tile(origin, (tables, 1))
    rest = np.arange(tables)
    for _ in range(STEPS):
        step = _newton_step(games.some(rest), values[rest], origin, may_move)
        values[rest] += step
        rest = rest[np.abs(step).max(axis=1) >= TOLERANCE]
        if not rest.size:
            break

    if free.all():
        values[:, :-1] += begin.mean() - values[:, :-1].mean(axis=1, keepdims=True)
    moved = np.abs(values[:, :-1] - begin)
    return EloFit(values[:, :-1], values[:, -1], free & (moved >= REACH - 1e-6))


@dataclass(frozen=True, slots=True)
class _Games:
    first: F64
    second: F64

    def some(self, tables: NDArray[np.intp]) -> _Games:
        return _Games(self.first[tables], self.second[tables])

    def loss(self, values: F64) -> F64:
        """[B] of [B, N + 1]: ratings and the advantage of the first."""
        ahead = _ahead(values)
        terms = self.first * np.logaddexp(0.0, -ahead) + self.second * np.logaddexp(0.0, ahead)
        total: F64 = terms.sum(axis=(1, 2))
        return total

    def derivatives(self, values: F64) -> tuple[F64, F64]:
        """Return gradient [B, N + 1] and Hessian [B, N + 1, N + 1] of the loss, per point of Elo."""
        ahead, total = _ahead(values), self.first + self.second
        chance = 1.0 / (1.0 + np.exp(-ahead))
        slope = SCALE * (total * chance - self.first)
        curve = SCALE**2 * total * chance * (1.0 - chance)

        rows, columns = slope.sum(axis=2), slope.sum(axis=1)
        gradient = np.concatenate([rows - columns, rows.sum(axis=1, keepdims=True)], axis=1)

        rows, columns = curve.sum(axis=2), curve.sum(axis=1)
        size = values.shape[1]
        hessian = np.zeros((*values.shape, size))
        hessian[:, :-1, :-1] = -curve - curve.transpose(0, 2, 1)
        index = np.arange(size - 1)
        hessian[:, index, index] += rows + columns
        hessian[:, :-1, -1] = hessian[:, -1, :-1] = rows - columns
        hessian[:, -1, -1] = rows.sum(axis=1)
        return gradient, hessian


def _ahead(values: F64) -> F64:
    """Return [B, N, N] log-odds that i, shown first, beats j."""
    ratings, advantage = values[:, :-1], values[:, -1]
    difference: F64 = ratings[:, :, None] - ratings[:, None, :] + advantage[:, None, None]
    return SCALE * difference


def _newton_step(games: _Games, values: F64, origin: F64, may_move: NDArray[np.bool_]) -> F64:
    """Return a step [B, N + 1] that lowers the loss and stays within `REACH` of the origin."""
    gradient, hessian = games.derivatives(values)

    # What stands at its bound and would go farther stays there.
    away = values - origin
    stuck = ((away >= REACH) & (gradient < 0)) | ((away <= -REACH) & (gradient > 0))
    moving = may_move & ~stuck

    both = moving[:, :, None] & moving[:, None, :]
    size = values.shape[1]
    # A little of the identity keeps what no game decides where it is.
    ridge = 1e-12 * np.maximum(hessian.max(axis=(1, 2)), 1e-12)
    system = (
        np.where(both, hessian, 0.0) + np.eye(size) * np.where(moving, ridge[:, None], 1.0)[:, None]
    )
    step = -np.asarray(
        np.linalg.solve(system, np.where(moving, gradient, 0.0)[..., None]), dtype=np.float64
    )[..., 0]
    step *= np.minimum(1.0, LONGEST_STEP / np.maximum(np.abs(step).max(axis=1), 1e-300))[:, None]

    before = games.loss(values)
    for _ in range(40):
        step = np.clip(values + step, origin - REACH, origin + REACH) - values
        worse = games.loss(values + step) > before + 1e-12 * np.abs(before)
        if not worse.any():
            break
        step[worse] *= 0.5
    return step
