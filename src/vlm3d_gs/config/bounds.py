"""Ranges of settings: written once, in the annotation of the field; checks, help and listings read them there.

    radius: Annotated[float, Range(0.0, 1.0)] = 0.6

A field's range holds for every value that it can take: for both ends of a pair, for a schedule over the whole run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from vlm3d_gs.config.schedules import Schedule
from vlm3d_gs.core.errors import ConfigError

EXPONENT_FROM = 1e9
MOST_INDEX_DIGITS = 3
"""Of a CUDA device's number; torch counts modulo 256 beyond."""


@dataclass(frozen=True, slots=True)
class Range:
    """A closed interval of numbers."""

    low: float
    """Smallest value allowed."""
    high: float = math.inf
    """Largest value allowed."""

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{self.low:g} or more"
        return f"in [{_plain(self.low)}, {_plain(self.high)}]"


def _plain(number: float) -> str:
    """Return a bound as people write it: ten million in digits."""
    whole = float(number).is_integer() and abs(number) < EXPONENT_FROM
    return str(int(number)) if whole else f"{number:g}"


@cache
def ranges(settings: type) -> dict[str, Range]:
    """Return the ranges that the fields of a dataclass are annotated with, by field name."""
    hints = get_type_hints(settings, include_extras=True)
    return {
        name: extra
        for name, hint in hints.items()
        if get_origin(hint) is Annotated
        for extra in get_args(hint)[1:]
        if isinstance(extra, Range)
    }


def check_ranges(settings: Any, section: str) -> None:
    """Raise ConfigError if a field of the dataclass `settings` is outside the range of its annotation.

    Args:
        settings: the dataclass; fields that are None are skipped.
        section: its dotted path in `Config`, for the message.
    """
    kind: type = type(settings)
    for field, allowed in ranges(kind).items():
        check(f"{section}.{field}", getattr(settings, field), allowed)


def check(name: str, value: float | tuple[float, float] | Schedule | None, allowed: Range) -> None:
    """Raise ConfigError if a value, an end of a pair, or a schedule at any time is outside `allowed`."""
    low, high = allowed.low, allowed.high

    if isinstance(value, Schedule):
        if not low <= value.low <= value.high <= high:
            raise ConfigError(f"{name} must stay {allowed}, got {value}.")
    elif isinstance(value, tuple):
        if not low <= value[0] <= value[1] <= high:
            raise ConfigError(f"{name} must be two numbers, smaller first, {allowed}, got {value}.")
    elif value is not None and not low <= value <= high:
        raise ConfigError(f"{name} must be {allowed}, got {value}.")


def _is_index(text: str) -> bool:
    """Return whether a text is the number of a device: up to three digits."""
    return text.isascii() and text.isdigit() and len(text) <= MOST_INDEX_DIGITS


def check_device(name: str, setting: str = "device") -> None:
    """Raise ConfigError unless `name` is a device: auto, cpu, cuda or cuda:N; `setting` is named in the message."""
    kind, colon, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and not (kind == "cuda" and _is_index(index))):
        raise ConfigError(f"{setting} must be auto, cpu, cuda or cuda:N, got {name[:40]!r}.")
