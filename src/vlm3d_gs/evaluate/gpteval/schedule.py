"""Which pairs are compared, on which prompts, in which way; each in both orders."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.seeding import stream_seed
from vlm3d_gs.evaluate.gpteval.tournament import Ensemble, Tournament


@dataclass(frozen=True, slots=True)
class Question:
    """One comparison in one order."""

    pair: str
    """Equal for both orders of a pair."""
    first: str
    """Method on the left."""
    second: str
    """Method on the right."""
    prompt_id: int
    """Index of the prompt."""
    ensemble: int
    """Index of the ensemble."""


def schedule(
    tournament: Tournament,
    available: Mapping[str, Sequence[int]],
    new: str | None,
    *,
    budget: int | None = None,
    seed: int = 0,
) -> list[Question]:
    """Plan the comparisons of a tournament.

    As GPTEval3D does, opponents take turns in shuffled rounds, and a pair meets on a prompt at most once, until it has
    met on all. Unlike there, each pair is shown in both orders, and no question is asked twice.

    Args:
        tournament: with the ensembles and how many comparisons each has.
        available: indices of the prompts that each method has pictures of.
        new: compare this method with all others; None compares all with all.
        budget: most questions; fewer than the ensembles ask for shorten all of them alike.
        seed: the same gives the same plan.

    Raises:
        ConfigError: nobody to compare, no common prompt, or a budget that no pair fits into.
    """
    source = random.Random(stream_seed(seed, "schedule"))
    allowed = set(tournament.prompt_ids)
    pairs = _opponents(sorted(available), new)
    common = {
        pair: sorted(allowed & set(available[pair[0]]) & set(available[pair[1]])) for pair in pairs
    }
    playable = [pair for pair in pairs if common[pair]]
    if not playable:
        raise ConfigError(
            f"There is nothing to compare: {len(available)} methods with pictures ({', '.join(sorted(available)[:8])}) "
            f"and no two with a common prompt in {tournament.methods}."
        )

    turns = _turns(playable, source)
    games = _Games(common, source)
    questions: list[Question] = []
    for index, number in enumerate(_numbers(tournament, budget)):
        for pair in games.of(tournament.ensembles[index], number, turns, len(playable)):
            name = f"{len(questions) // 2}"
            one = Question(name, pair[0], pair[1], pair[2], index)
            questions += [one, replace(one, first=one.second, second=one.first)]
    return questions


class _Games:
    """Hands out prompts to pairs: each in turn, and never the same question twice, whose answer would be no news."""

    def __init__(
        self, common: Mapping[tuple[str, str], Sequence[int]], source: random.Random
    ) -> None:
        self.common, self.source = common, source
        self.left: dict[tuple[str, str], list[int]] = {pair: [] for pair in common}
        self.seen = set[tuple[object, ...]]()

    def of(
        self, ensemble: Ensemble, number: int, turns: Iterator[tuple[str, str]], pairs: int
    ) -> Iterator[tuple[str, str, int]]:
        """Yield at most `number` pairs with a prompt; fewer where there are no more."""
        kind = replace(ensemble, comparisons=0)
        idle = 0
        while number > 0 and idle < pairs:
            pair = next(turns)
            prompt = self._prompt(pair, kind)
            idle = idle + 1 if prompt is None else 0
            if prompt is not None:
                number -= 1
                yield (*pair, prompt)

    def _prompt(self, pair: tuple[str, str], kind: Ensemble) -> int | None:
        new = {one for one in self.common[pair] if (pair, kind, one) not in self.seen}
        if not new:
            return None
        if not new & set(self.left[pair]):
            self.left[pair] = self.source.sample(list(self.common[pair]), len(self.common[pair]))
        place = next(index for index, one in enumerate(self.left[pair]) if one in new)
        prompt = self.left[pair].pop(place)
        self.seen.add((pair, kind, prompt))
        return prompt


def _opponents(methods: Sequence[str], new: str | None) -> list[tuple[str, str]]:
    if new is None:
        return list(combinations(methods, 2))
    return [(new, other) for other in methods if other != new]


def _turns(pairs: Sequence[tuple[str, str]], source: random.Random) -> Iterator[tuple[str, str]]:
    while True:
        yield from source.sample(list(pairs), len(pairs))


def _numbers(tournament: Tournament, budget: int | None) -> list[int]:
    """Return how many pairs each ensemble gets, two questions each, within the budget."""
    wanted = [ensemble.comparisons for ensemble in tournament.ensembles]
    if budget is None or budget >= 2 * sum(wanted):
        return wanted
    pairs = budget // 2
    if pairs < 1:
        raise ConfigError(f"A pair takes two questions, one in each order; the budget is {budget}.")

    # Largest remainders, so that the sum is met exactly.
    shares = [pairs * number / sum(wanted) for number in wanted]
    numbers = [int(share) for share in shares]
    order = sorted(range(len(wanted)), key=lambda index: numbers[index] - shares[index])
    for index in order[: pairs - sum(numbers)]:
        numbers[index] += 1
    return numbers
