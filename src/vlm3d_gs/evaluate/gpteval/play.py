"""Asking a judge the questions of a tournament, and turning its numbers into verdicts on each criterion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.evaluate.gpteval.grids import comparison
from vlm3d_gs.evaluate.gpteval.ratings import Result, Verdict
from vlm3d_gs.evaluate.gpteval.schedule import Question
from vlm3d_gs.evaluate.gpteval.tournament import Tournament, read_instruction
from vlm3d_gs.evaluate.judges import Answer, Judge, Look

RESULTS: dict[int, Result] = {1: -1, 2: 1, 3: 0}
"""Number in an answer (1 left, 2 right, 3 cannot tell) -> GPTEval3D's code of the result."""
TOGETHER = 16
"""Questions whose pictures are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Played:
    """What a judge said to all questions."""

    verdicts: dict[int, list[Verdict]]
    """By the number of the criterion."""
    failures: list[tuple[Question, str]]
    """Questions without an answer, and why."""


def play(
    tournament: Tournament,
    questions: Sequence[Question],
    judge: Judge,
    places: dict[str, Path],
    on_question: Callable[[Question, Answer], None] | None = None,
) -> Played:
    """Ask all questions.

    Args:
        tournament: with ensembles and prompts.
        questions: what is asked.
        judge: who is asked; wrap it in `Remembering` to be able to resume.
        places: folder of each method.
        on_question: called after each question.

    Raises:
        ConfigError: the judge answers by Yes or No alone.
        InputFileError: pictures are missing or damaged.
        ModelError: a server refuses.
    """
    if not judge.writes:
        raise ConfigError(
            f"{judge.name} answers by Yes or No alone and cannot compare two pictures. "
            "Choose a judge that writes: a server, or a model of transformers."
        )
    instructions = [read_instruction(ensemble) for ensemble in tournament.ensembles]
    verdicts: dict[int, list[Verdict]] = {index: [] for index in range(len(tournament.criteria))}
    failures: list[tuple[Question, str]] = []

    for start in range(0, len(questions), TOGETHER):
        some = questions[start : start + TOGETHER]
        looks = [_look(tournament, one, instructions[one.ensemble], places) for one in some]
        for question, answer in zip(some, judge.ask(looks), strict=True):
            if answer.failure:
                failures.append((question, answer.failure))
            else:
                _count(verdicts, tournament, question, answer)
            if on_question is not None:
                on_question(question, answer)
    return Played(verdicts, failures)


def _look(
    tournament: Tournament, question: Question, instruction: str, places: dict[str, Path]
) -> Look:
    ensemble = tournament.ensembles[question.ensemble]
    folders = [
        places[name] / str(question.prompt_id) / "0" for name in (question.first, question.second)
    ]
    text = (
        f"{instruction.rstrip()}\n\nBoth 3D objects were made from this text: "
        f'"{tournament.prompts[question.prompt_id]}"\nCompare them as described above.'
    )
    picture = comparison(folders[0], folders[1], ensemble)
    return Look(text, (picture,), choices=len(ensemble.dimensions))


def _count(
    verdicts: dict[int, list[Verdict]], tournament: Tournament, question: Question, answer: Answer
) -> None:
    dimensions = tournament.ensembles[question.ensemble].dimensions
    for dimension, number in zip(dimensions, answer.choices, strict=True):
        verdicts[dimension].append(
            Verdict(
                question.first, question.second, question.prompt_id, RESULTS[number], question.pair
            )
        )


def comparisons_json(played: Played, tournament: Tournament) -> dict[str, list[dict[str, Any]]]:
    """Return the verdicts as GPTEval3D stores them: by the number of the criterion, with -1, 0 or 1."""
    return {
        str(dimension): [
            {
                "m1": one.first,
                "m2": one.second,
                "prompt": tournament.prompts[one.prompt_id],
                "result": one.result,
            }
            for one in verdicts
        ]
        for dimension, verdicts in played.verdicts.items()
    }
