"""Is one method better than another on the same prompts? Exact and permutation tests, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import binomtest, permutation_test

from vlm3d_gs.core.errors import ShapeError
from vlm3d_gs.core.seeding import stream_seed

PERMUTATIONS = 9999
"""Permutations of signs; below 14 prompts all of them are taken."""


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Return the two-sided p-value of a mean difference of 0 under exchange of both methods' names.

    Args:
        differences: one for each prompt (the mean over its seeds): a method minus another.
        seed: the same gives the same p.

    Raises:
        ShapeError: no differences.

    Source: Fisher 1935; Phipson and Smyth 2010 for the +1 in both counts, which `scipy` adds.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size == 0:
        raise ShapeError("A paired test needs at least one difference.")
    if not values.any() or values.size == 1:
        return 1.0

    source = np.random.default_rng(stream_seed(seed, "permutations"))
    found = permutation_test(
        (values,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        rng=source,
    )
    return float(found.pvalue)


def sign_test_p(wins: int, losses: int) -> float:
    """Return the two-sided p-value of `wins` against `losses` if each were as likely; ties are left out."""
    if wins + losses == 0:
        return 1.0
    return float(binomtest(wins, wins + losses, 0.5).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for testing all of them at once, by the same names.

    Source: Holm 1979, Scandinavian Journal of Statistics 6: the k-th smallest of m, from 0, times m - k, and never
    below an earlier one.
    """
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(ordered):
        highest = max(highest, min(1.0, p * (len(ordered) - rank)))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}
