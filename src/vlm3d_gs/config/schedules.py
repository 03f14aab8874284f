"""Schedules: numbers that change over a run.

A schedule maps the fraction of the run that is done, in [0, 1], to a value. It never sees a step number, so a run with
twice the steps takes twice as long over the same schedule. Pure Python, no torch.

Text form, for JSON and the command line: `0.01` is constant; `linear:0.98@0,0.5@1` is 0.98 at fraction 0 and 0.5 at
fraction 1; without fractions the values are spread evenly over the run, so `linear:0.98,0.5` means the same.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, get_args

from vlm3d_gs.core.errors import ConfigError

Kind = Literal["constant", "linear", "cosine", "exponential", "piecewise"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Values at fractions of the run, and how to interpolate between them.

    Before the first point the first value holds, after the last point the last one.

    Raises:
        ConfigError: an unknown kind, no points, fractions outside [0, 1] or not increasing, a
            value that is not finite, or an exponential schedule through a value that is not
            positive.
    """

    kind: Kind
    """Between points: `linear`, `cosine` (half a wave, flat at both ends) or `exponential` (linear in the logarithm);
    `piecewise` holds each value until the next point; `constant` has one point."""
    points: tuple[tuple[float, float], ...]
    """(fraction of the run in [0, 1], value) with increasing fractions."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"Unknown schedule {self.kind!r}. Available: {', '.join(KINDS)}.")

        if not self.points or (self.kind == "constant" and len(self.points) != 1):
            raise ConfigError(
                f"A {self.kind} schedule cannot have {len(self.points)} points; give 1 to a "
                f"constant, 2 or more to the others, e.g. 'linear:1.0@0,0.1@0.5'."
            )

        fractions = [fraction for fraction, _ in self.points]
        if not all(0.0 <= f <= 1.0 for f in fractions) or sorted(set(fractions)) != fractions:
            raise ConfigError(
                f"Schedule fractions must increase within [0, 1], got {fractions}. "
                f"They are fractions of the run, not step numbers."
            )

        for _, value in self.points:
            if not math.isfinite(value):
                raise ConfigError(f"Schedule values must be finite, got {value}.")
            if self.kind == "exponential" and value <= 0.0:
                raise ConfigError(
                    f"An exponential schedule needs values above 0, got {value}. Use linear."
                )

    def __call__(self, fraction: float) -> float:
        """Return the value at a fraction of the run; fractions outside [0, 1] are clamped.

        Example:
            >>> linear(1.0, 0.0)(0.25)
            0.75
        """
        done = min(max(fraction, 0.0), 1.0)

        # The first point that lies after `done`.
        after = bisect_right(self.points, (done, math.inf))
        if after == 0:
            return self.points[0][1]
        if after == len(self.points) or self.kind == "piecewise":
            return self.points[after - 1][1]

        (f0, v0), (f1, v1) = self.points[after - 1], self.points[after]
        u = (done - f0) / (f1 - f0)
        if self.kind == "exponential":
            return math.exp((1.0 - u) * math.log(v0) + u * math.log(v1))
        if self.kind == "cosine":
            u = 0.5 - 0.5 * math.cos(math.pi * u)
        return (1.0 - u) * v0 + u * v1

    def __str__(self) -> str:
        """Return the text form; `parse` restores the same schedule from it."""
        if self.kind == "constant":
            return repr(self.points[0][1])
        return f"{self.kind}:" + ",".join(
            f"{value!r}@{fraction!r}" for fraction, value in self.points
        )

    @property
    def low(self) -> float:
        """Smallest value over the run."""
        return min(value for _, value in self.points)

    @property
    def high(self) -> float:
        """Largest value over the run."""
        return max(value for _, value in self.points)


def constant(value: float) -> Schedule:
    """Return the schedule that is always `value`."""
    return Schedule("constant", ((0.0, float(value)),))


def linear(first: float, last: float, start: float = 0.0, stop: float = 1.0) -> Schedule:
    """Return a straight line from `first` at fraction `start` to `last` at fraction `stop`."""
    return Schedule("linear", ((float(start), float(first)), (float(stop), float(last))))


def cosine(first: float, last: float, start: float = 0.0, stop: float = 1.0) -> Schedule:
    """Return half a cosine wave from `first` at fraction `start` to `last` at fraction `stop`."""
    return Schedule("cosine", ((float(start), float(first)), (float(stop), float(last))))


def exponential(first: float, last: float, start: float = 0.0, stop: float = 1.0) -> Schedule:
    """Return a geometric decay or growth; both values must be positive."""
    return Schedule("exponential", ((float(start), float(first)), (float(stop), float(last))))


def piecewise(*points: tuple[float, float]) -> Schedule:
    """Return steps: each (fraction, value) holds until the next fraction."""
    return Schedule("piecewise", tuple((float(f), float(v)) for f, v in points))


def parse(value: Schedule | float | str) -> Schedule:
    """Return the schedule that a number or a text means.

    Args:
        value: a schedule (returned as it is), a number, or text such as `0.01`, `cosine:1,0.1` or
            `linear:0.98@0,0.5@0.6`.

    Raises:
        ConfigError: the text is neither a number nor a known schedule.

    Example:
        >>> parse("linear:0.98,0.5")(1.0)
        0.5
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, int | float):
        return constant(value)

    kind, colon, body = value.strip().partition(":")
    try:
        if not colon:
            return constant(float(kind))

        pieces = [piece.partition("@") for piece in body.split(",")]
        last = max(len(pieces) - 1, 1)
        points = tuple(
            (float(at) if at_sign else index / last, float(number))
            for index, (number, at_sign, at) in enumerate(pieces)
        )
    except ValueError:
        raise ConfigError(
            f"Cannot read {str(value)[:100]!r} as a schedule. Give a number, or KIND:VALUE@FRACTION,... with "
            f"KIND one of {', '.join(KINDS)}, e.g. 'linear:0.98@0,0.5@1'."
        ) from None
    return Schedule(kind.strip(), points)  # type: ignore[arg-type]  # checked in __post_init__
