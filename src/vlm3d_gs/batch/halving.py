"""Seeds within a budget of seconds: many run a little, the better half goes on, and one is finished.

Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943), with the critic's answers to held-out questions as
the measure. With n = 2^k seeds, 2^(k-j) of them are left after round j, which ends at the fraction 0.4 * 2^(j-k) of the
run: eight seeds cost 2.2 runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from vlm3d_gs.app.selection import candidate_config, copy_run, go_on
from vlm3d_gs.assembly.start import read_prompt
from vlm3d_gs.config import Config, replace_path
from vlm3d_gs.core.errors import CheckpointError, ConfigError
from vlm3d_gs.core.files import make_folder
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.optimize.trainer import Observer
from vlm3d_gs.pipeline import GenerateResult, generate
from vlm3d_gs.runs.folder import CANDIDATES, CHECKPOINT, check_run_folder, run_folder
from vlm3d_gs.runs.log import write_config, write_json

LAST_ROUND = 0.4
"""Fraction of the run after which one seed is left; as the default of `generate --pick-at`."""
MOST_ROUNDS = 4
"""So that a first round is long enough to tell seeds apart: a fortieth of the run at least."""
STATE = "halving.json"
"""In the folder of the candidates: seeds, and the scores of each round."""


@dataclass
class Rate:
    """Seconds of a step, as measured in this process so far."""

    step_s: float | None = None
    """None before the first measurement."""

    def learn(self, step_s: float) -> None:
        """Take a measurement into account; the newest counts most, since machines are shared."""
        self.step_s = step_s if self.step_s is None else 0.5 * (self.step_s + step_s)


def generate_within(
    config: Config,
    budget_s: float,
    n_seeds: int | None,
    rate: Rate,
    *,
    overwrite: bool = False,
    resume: bool = False,
    observe: Observer | None = None,
    tell: Callable[[int], None] = lambda seeds: None,
) -> GenerateResult:
    """Generate the best of as many seeds as a budget allows; at least one, however long that takes.

    The first seed is `train.seed`. How many there are depends on the speed of the machine, and is recorded; equal
    numbers of seeds give equal files.

    Args:
        config: the run.
        budget_s: seconds for the steps of all seeds.
        n_seeds: at most so many; None is 16.
        rate: seconds of a step; measured here if it is not known.
        overwrite: replace an earlier run in the folder.
        resume: go on where an interrupted choice stopped.
        observe: called after each step of each seed.
        tell: called with the number of seeds.

    Raises:
        ConfigError: no critic with weights here.
        CheckpointError: there is nothing to resume.
    """
    if not config.critic.enabled or config.critic.family == "server":
        raise ConfigError("--budget needs a critic with weights here to compare seeds. Enable one.")
    read_prompt(config.prompt, config.priors, config.critic)
    check_run_folder(config.out, overwrite=overwrite, resume=resume)
    timed = _Timed(observe)

    with run_folder(config.out, overwrite=overwrite, resume=resume) as folder:
        state = _read(config.out / CANDIDATES / STATE) if resume else {}
        if resume and not state:
            raise CheckpointError(f"The run in {config.out} does not choose within a budget.")
        write_config(folder.path, config)
        folder.stand()
        make_folder(config.out / CANDIDATES)

        if not state:
            probe = _probe(config, rate, timed)
            if probe is not None:
                return probe
            assert rate.step_s is not None
            most = min(n_seeds or 2**MOST_ROUNDS, 2**MOST_ROUNDS)
            state = {"rounds": _rounds(budget_s, rate.step_s * config.train.steps, most)}
            state["scores"] = [{} for _ in range(state["rounds"])]
            write_json(config.out / CANDIDATES / STATE, state)
        tell(2 ** state["rounds"])

        best = _compete(config, state, timed)
        if isinstance(best, GenerateResult):
            return best
        chosen = replace_path(config, "train.seed", best)
        if not (config.out / CHECKPOINT).is_file():
            copy_run(candidate_config(config.out, config, best).out, config.out)
        result = generate(chosen, resume=True, quiet=True, observe=timed)

    timed.teach(rate)
    return result


def cost(rounds: int) -> float:
    """Return how many whole runs it costs to choose among 2^rounds seeds and to finish one.

    Example:
        >>> cost(0), round(cost(3), 3)
        (1.0, 2.2)
    """
    ends = [0.0, *(_end(index, rounds) for index in range(rounds)), 1.0]
    runs = [2 ** (rounds - index) for index in range(rounds + 1)]
    return sum(n * (end - begin) for n, (begin, end) in zip(runs, pairwise(ends), strict=True))


def _end(index: int, rounds: int) -> float:
    """Return the fraction of the run after which a round ends."""
    return LAST_ROUND * 2.0 ** (index + 1 - rounds)


def _rounds(budget_s: float, run_s: float, most: int) -> int:
    """Return the largest number of rounds that a budget pays."""
    possible = [k for k in range(MOST_ROUNDS + 1) if 2**k <= most and cost(k) * run_s <= budget_s]
    return max(possible, default=0)


def _probe(config: Config, rate: Rate, timed: _Timed) -> GenerateResult | None:
    """Measure a step where that is not known, with steps that the first seed needs in any case.

    Returns:
        None, or what was made until somebody stopped it.
    """
    if rate.step_s is not None:
        return None
    first = candidate_config(config.out, config, config.train.seed)
    until = max(3, round(_end(0, MOST_ROUNDS) * config.train.steps))
    until = min(until, config.train.steps)
    result = go_on(first, quiet=True, until=until, observe=timed)
    if result.signal is not None or result.steps < until:
        return result
    timed.teach(rate)
    return None


def _compete(config: Config, state: dict[str, Any], timed: _Timed) -> int | GenerateResult:
    """Run the rounds that are left; return the best seed, or what was made until somebody stopped it."""
    rounds, first = state["rounds"], config.train.seed
    left = list(range(first, first + 2**rounds))
    for index in range(rounds):
        scores = {int(seed): score for seed, score in state["scores"][index].items()}
        until = max(1, round(_end(index, rounds) * config.train.steps))
        for seed in left:
            if seed in scores:
                continue
            result = go_on(
                candidate_config(config.out, config, seed), quiet=True, until=until, observe=timed
            )
            if result.signal is not None or result.steps < until:
                return result
            assert result.held_out is not None
            scores[seed] = result.held_out
            state["scores"][index] = {str(each): score for each, score in scores.items()}
            write_json(config.out / CANDIDATES / STATE, state)

        # Of equal scores the earlier seed goes on, so that nothing depends on chance.
        left = sorted(left, key=lambda seed: (-scores[seed], seed))[: len(left) // 2]
    return left[0]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rounds, scores = found["rounds"], found["scores"]
        sound = 0 <= rounds <= MOST_ROUNDS and len(scores) == rounds
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return {"rounds": rounds, "scores": scores} if sound else {}


class _Timed:
    """Passes steps on and measures how long they take, without what lies between two runs."""

    def __init__(self, observe: Observer | None) -> None:
        self._observe = observe
        self._last: tuple[int, float] | None = None
        self._seconds, self._steps = 0.0, 0

    def __call__(
        self, state: TrainState, scalars: Mapping[str, float], stop_requested: Callable[[], bool]
    ) -> bool:
        now = time.monotonic()
        if self._last is not None and state.step == self._last[0] + 1:
            self._seconds += now - self._last[1]
            self._steps += 1
        self._last = (state.step, now)
        return self._observe is not None and self._observe(state, scalars, stop_requested)

    def teach(self, rate: Rate) -> None:
        """Tell what was measured."""
        if self._steps:
            rate.learn(self._seconds / self._steps)
