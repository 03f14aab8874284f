"""Why a layout has no solution: the smallest set of its sentences that cannot hold together.

First the deletion filter of Chinneck and Dravnieks (1991): leave out one sentence after the other for good if the rest
still has no solution. What remains is irreducible: without any one of its sentences it has a solution. Then all smaller
sets are tried while there are not too many, so that the set is the smallest, too.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, islice

from vlm3d_gs.layout.arrange import SizeRanges, arrange, sentences_of
from vlm3d_gs.layout.contact import settle
from vlm3d_gs.layout.graph import SceneGraph

MOST_TRIES = 400
"""Smaller sets that are tried at most."""


def smallest_conflict(graph: SceneGraph, sizes: SizeRanges) -> list[int]:
    """Return the numbers (as in `sentences_of`) of the fewest sentences that cannot hold together.

    Empty if the objects have no place at all, whatever is said of them. Call it for a graph without a solution only;
    arguments as in `arrange`.
    """
    kept = list(range(len(sentences_of(graph))))
    for number in list(kept):
        rest = [one for one in kept if one != number]
        if not _possible(graph, sizes, rest):
            kept = rest

    every = range(len(sentences_of(graph)))
    smaller = (list(some) for length in range(1, len(kept)) for some in combinations(every, length))
    for some in islice(smaller, MOST_TRIES):
        if not _possible(graph, sizes, some):
            return some
    return kept


def _possible(graph: SceneGraph, sizes: SizeRanges, kept: list[int]) -> bool:
    """Return whether some sentences of a graph have a solution, true contacts included."""
    found = arrange(graph, sizes, kept)
    if found is None:
        return False
    relations = tuple(one for index, one in enumerate(graph.relations) if index in kept)
    return settle(replace(graph, relations=relations), found) is not None
