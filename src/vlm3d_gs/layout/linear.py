"""Linear programs over the unknowns of a layout: demands that hold exactly, choices, and a compact arrangement.

Without choices it is a linear program. With them it is a mixed-integer one: a binary unknown for each alternative,
whose demands are relaxed by more than any layout could need while it is not chosen. Most choices are easy, though: the
alternative that a solution without them misses least is taken, and only where that leads nowhere the mixed-integer
program decides. Its choices are then solved once more as a linear program, so that no demand is met up to the
relaxation's rounding only. Both by HiGHS, which is deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize

from vlm3d_gs.layout.unknowns import F64, Row, Unknowns

Choice = Sequence[Sequence[Row]]
"""Sets of demands, one of which must hold."""

FARTHEST = 30.0
"""Bound of all places, in units."""
RELAXED = 8.0 * FARTHEST
"""More than any demand can be missed by."""

WIDTH, WIDTHS, HEIGHT = 1.0, 0.3, 0.05
"""Cost of the larger side of the floor that is covered, of both sides, and of the height."""
WISH, SIZE_WISH, LATER = 3.0, 30.0, 0.02
"""Cost of an unfulfilled wish, of a size that is not the preferred one, and of an alternative that is not the first."""
LOW, HIGH, TOP, SIDE = (0, 1), (2, 3), 4, 5
"""Further unknowns: least and largest x and y of any thing, the largest z, and the larger side; then distances from
each wish."""


class Compact:
    """Finds the most compact solution of demands on the places and sizes of objects.

    Args:
        unknowns: the places and sizes.
        sizes: least and largest size of each object, in units.
        preferred: the size of each object that should be, if it can.
        wishes: expressions that should be near 0.
    """

    def __init__(
        self,
        unknowns: Unknowns,
        sizes: Sequence[tuple[float, float]],
        preferred: Sequence[float],
        wishes: Sequence[F64],
    ) -> None:
        self.unknowns = unknowns
        differences = [
            unknowns.size(index) - unknowns.constant(size) for index, size in enumerate(preferred)
        ]
        self._wishes = [*wishes, *differences]
        self._first = unknowns.count
        self._width = unknowns.count + SIDE + 1 + len(self._wishes)
        self._matrix, self._least = self._definitions()
        self._bounds = self._ranges(sizes)
        self._costs = self._cost(len(wishes))

    def solve(self, rows: Sequence[Row]) -> F64 | None:
        """Return the unknowns, and after them what else the program needed; None if there is no solution."""
        matrix, least, most = self._demands(rows, self._width)
        return _run(
            self._costs,
            np.concatenate([self._matrix, matrix]),
            np.concatenate([self._least, least]),
            np.concatenate([np.full(len(self._least), np.inf), most]),
            self._bounds,
            0,
        )

    def decide(
        self, rows: Sequence[Row], values: F64, choices: Sequence[Choice]
    ) -> tuple[list[Row], F64] | None:
        """Make choices that the present solution suggests; None if that leads nowhere, which proves nothing.

        Args:
            rows: demands that hold.
            values: their solution.
            choices: choices to make.

        Returns:
            All demands, those of the chosen alternatives among them, and their solution.
        """
        ranked = [_ranked(choice, values) for choice in choices]
        nearest = [*rows, *(row for order in ranked for row in order[0])]
        together = self.solve(nearest)
        if together is not None:
            return nearest, together

        # One after the other, each as near to what the earlier ones led to as can be.
        taken = list(rows)
        for choice in choices:
            for alternative in _ranked(choice, values):
                closer = self.solve([*taken, *alternative])
                if closer is not None:
                    taken, values = [*taken, *alternative], closer
                    break
            else:
                return None
        return taken, values

    def decide_exactly(
        self, rows: Sequence[Row], choices: Sequence[Choice]
    ) -> tuple[list[Row], F64] | None:
        """Make choices so that a solution exists; None if there is none. Returns what `decide` returns."""
        binaries = sum(len(choice) for choice in choices)
        width = self._width + binaries
        matrix, least, most = self._demands(rows, width)
        lines, bounds, equal = [np.pad(self._matrix, ((0, 0), (0, binaries))), matrix], [], []
        bounds += [self._least, least]
        equal += [np.full(len(self._least), np.inf), most]

        column = self._width
        for choice in choices:
            one_of = np.zeros((1, width))
            one_of[0, column : column + len(choice)] = 1.0
            lines, bounds, equal = [*lines, one_of], [*bounds, np.ones(1)], [*equal, np.ones(1)]

            for number, alternative in enumerate(choice):
                expressions = np.stack(_inequalities(alternative))
                relaxed = np.zeros((len(expressions), width))
                relaxed[:, : self._first] = expressions[:, :-1]
                relaxed[:, column + number] = -RELAXED
                lines.append(relaxed)
                bounds.append(-expressions[:, -1] - RELAXED)
                equal.append(np.full(len(expressions), np.inf))
            column += len(choice)

        later = [LATER * np.arange(len(choice)) for choice in choices]
        low, high = self._bounds
        solution = _run(
            np.concatenate([self._costs, *later]),
            np.concatenate(lines),
            np.concatenate(bounds),
            np.concatenate(equal),
            (np.pad(low, (0, binaries)), np.pad(high, (0, binaries), constant_values=1.0)),
            binaries,
        )
        if solution is None:
            return None

        taken, rest = list(rows), solution[self._width :]
        for choice in choices:
            taken += choice[int(np.argmax(rest[: len(choice)]))]
            rest = rest[len(choice) :]
        exact = self.solve(taken)
        return None if exact is None else (taken, exact)

    def _demands(self, rows: Sequence[Row], width: int) -> tuple[F64, F64, F64]:
        """Return demands as a matrix, and the least and most that its products may be."""
        matrix = np.zeros((len(rows), width))
        if not rows:
            return matrix, np.zeros(0), np.zeros(0)
        expressions = np.stack([row.expression for row in rows])
        matrix[:, : self._first] = expressions[:, :-1]
        least = -expressions[:, -1]
        return matrix, least, np.where([row.equal for row in rows], least, np.inf)

    def _definitions(self) -> tuple[F64, F64]:
        """Return demands that define the sides of the floor, the height, and the distance from each wish."""
        unknowns, lines, least = self.unknowns, [], []

        def line(expression: F64, **extra: float) -> None:
            row = np.zeros(self._width)
            row[: self._first] = expression[:-1]
            for name, value in extra.items():
                row[self._first + int(name[1:])] = value
            lines.append(row)
            least.append(-expression[-1])

        for index in range(len(unknowns.objects)):
            for axis in (0, 1):
                middle, half = unknowns.middle(index, axis), unknowns.group_half(index, axis)
                line(middle - half, **{f"c{LOW[axis]}": -1.0})
                line(-middle - half, **{f"c{HIGH[axis]}": 1.0})
            line(-unknowns.middle(index, 2) - unknowns.half(index, 2), **{f"c{TOP}": 1.0})

        nothing = unknowns.constant(0.0)
        for axis in (0, 1):
            line(nothing, **{f"c{SIDE}": 1.0, f"c{LOW[axis]}": 1.0, f"c{HIGH[axis]}": -1.0})
        for number, wish in enumerate(self._wishes, SIDE + 1):
            line(wish, **{f"c{number}": 1.0})
            line(-wish, **{f"c{number}": 1.0})
        return np.stack(lines), np.array(least)

    def _ranges(self, sizes: Sequence[tuple[float, float]]) -> tuple[F64, F64]:
        # Sides and distances may be wider than places.
        low, high = np.full(self._width, -2.0 * FARTHEST), np.full(self._width, 2.0 * FARTHEST)
        low[: self._first], high[: self._first] = -FARTHEST, FARTHEST
        for index, (least, most) in enumerate(sizes):
            low[4 * index + 3], high[4 * index + 3] = least, most
        low[4 * len(sizes) : self._first] = 0.0

        # The arrangement may be moved as a whole: its first object stands in the middle.
        low[:2] = high[:2] = 0.0
        return low, high

    def _cost(self, wishes: int) -> F64:
        costs = np.zeros(self._width)
        first, distances = self._first, self._first + SIDE + 1
        costs[4 * len(self.unknowns.objects) : first] = WISH
        for axis in (0, 1):
            costs[first + LOW[axis]], costs[first + HIGH[axis]] = -WIDTHS, WIDTHS
        costs[first + TOP], costs[first + SIDE] = HEIGHT, WIDTH
        costs[distances : distances + wishes] = WISH
        costs[distances + wishes :] = SIZE_WISH
        return costs


def _run(
    costs: F64, matrix: F64, least: F64, most: F64, bounds: tuple[F64, F64], binaries: int
) -> F64 | None:
    """Minimise costs @ values with least <= matrix @ values <= most; the last values are binary."""
    result = optimize.milp(
        costs,
        constraints=optimize.LinearConstraint(matrix, least, most),
        bounds=optimize.Bounds(*bounds),
        integrality=np.arange(len(costs)) >= len(costs) - binaries,
    )
    values: F64 | None = result.x
    return values


def _ranked(choice: Choice, values: F64) -> list[Sequence[Row]]:
    """Return the alternatives of a choice, those first that a solution misses least."""
    missed = [_missed(alternative, values) for alternative in choice]
    order = sorted(range(len(choice)), key=lambda index: (round(missed[index], 6), index))
    return [choice[index] for index in order]


def _missed(rows: Sequence[Row], values: F64) -> float:
    """Return by how much the demand that is missed most is missed."""
    expressions = np.stack([row.expression for row in rows])
    products = expressions[:, :-1] @ values[: expressions.shape[1] - 1] + expressions[:, -1]
    missed = np.where([row.equal for row in rows], np.abs(products), -products)
    return max(0.0, float(missed.max()))


def _inequalities(alternative: Sequence[Row]) -> list[F64]:
    """Return demands as expressions of 0 or more; an equation is two."""
    expressions = []
    for row in alternative:
        expressions.append(row.expression)
        if row.equal:
            expressions.append(-row.expression)
    return expressions
