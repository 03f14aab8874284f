"""Do two judges, or a judge and people, say the same about the same pairs?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from vlm3d_gs.core.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two raters agree."""

    share: float
    """Of the items on which both say the same."""
    kappa: float | None
    """Cohen's: the agreement beyond chance, 1 is all of it; None where chance alone would agree on everything."""
    items: int
    """Number of items that both rated."""


def agreement(first: Sequence[Hashable], second: Sequence[Hashable]) -> Agreement:
    """Compare two raters.

    Args:
        first: one label for each item.
        second: of the same items, in the same order.

    Raises:
        ShapeError: no items, or not as many labels of both.

    Source: Cohen 1960, Educational and Psychological Measurement 20.
    """
    if not first or len(first) != len(second):
        raise ShapeError(
            f"Needs two labels for each item, got {len(first)} of the first and {len(second)} of the second rater."
        )
    items = len(first)
    same = sum(one == other for one, other in zip(first, second, strict=True)) / items

    labels = set(first) | set(second)
    chance = sum(list(first).count(label) * list(second).count(label) for label in labels)
    chance_share = chance / items**2
    kappa = None if chance_share >= 1.0 else (same - chance_share) / (1.0 - chance_share)
    return Agreement(same, kappa, items)


def weighted_kappa(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Return kappa where a disagreement counts by its distance, for ordered answers such as -1, 0, 1.

    Args:
        first: one whole number for each item.
        second: of the same items.

    Returns:
        1 for full agreement, 0 for chance; None where all answers are one and the same.

    Raises:
        ShapeError: no items, or not as many of both.

    Source: Cohen 1968, Psychological Bulletin 70, with linear weights.
    """
    if not first or len(first) != len(second):
        raise ShapeError(f"Needs two answers for each item, got {len(first)} and {len(second)}.")
    items = len(first)
    seen = sum(abs(one - other) for one, other in zip(first, second, strict=True)) / items
    by_chance = sum(abs(one - other) for one in first for other in second) / items**2
    return None if by_chance == 0 else 1.0 - seen / by_chance
