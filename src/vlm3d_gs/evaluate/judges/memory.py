"""A judge that remembers: answers are kept by what was shown, so that nothing is paid for twice, and a limit is kept.

The file is one JSON object a line, added to as answers come, so a program that is killed loses at most the looks that
were under way. Failures are not kept: the next time they are asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.files import make_folder, writing
from vlm3d_gs.evaluate.judges import Answer, Judge, Look

TOGETHER = 16
"""Looks that are asked between two times that answers are written."""
OVER_BUDGET = "not asked: the budget is spent"


@dataclass(slots=True)
class Spent:
    """What a judge has cost."""

    asked: int = 0
    """Looks that were asked anew."""
    remembered: int = 0
    """Looks whose answer was known."""
    failed: int = 0
    """Looks without an answer, though asked."""
    left_out: int = 0
    """Looks that were not asked, because the budget was spent."""
    tokens_in: int = 0
    """Read, by the judge's count, for looks asked anew."""
    tokens_out: int = 0
    """Written, by the judge's count."""
    seconds: float = 0.0
    """Waited for answers."""


class Remembering:
    """Asks a judge only what it has not answered before.

    Args:
        judge: who is asked.
        path: of the file of answers, made at the first one; None keeps them for this process only.
        budget: most looks that are asked anew; None is no limit.
        on_answer: called after each answer.
    """

    def __init__(
        self,
        judge: Judge,
        path: Path | None = None,
        budget: int | None = None,
        on_answer: Callable[[Answer], None] | None = None,
    ) -> None:
        """Read the answers that are there.

        Raises:
            ConfigError: a negative budget.
        """
        if budget is not None and budget < 0:
            raise ConfigError(f"A budget is a number of requests from 0, got {budget}.")
        self.judge, self.path, self.budget, self.on_answer = judge, path, budget, on_answer
        self.spent = Spent()
        self._known = {} if path is None else read_answers(path)
        self._torn = True

    @property
    def name(self) -> str:
        """That of the judge."""
        return self.judge.name

    @property
    def identity(self) -> str:
        """That of the judge."""
        return self.judge.identity

    @property
    def writes(self) -> bool:
        """That of the judge."""
        return self.judge.writes

    def key(self, look: Look) -> str:
        """Return the hash of judge and look by which an answer is kept."""
        return hashlib.sha256(f"{self.judge.identity}\n{look.digest()}".encode()).hexdigest()

    def ask(self, looks: Sequence[Look]) -> list[Answer]:
        """Return the answers, known or new; beyond the budget, failures that say so."""
        keys = [self.key(look) for look in looks]
        new = {key: look for key, look in zip(keys, looks, strict=True) if key not in self._known}
        self.spent.remembered += sum(key in self._known for key in keys)

        found = dict[str, Answer]()
        waiting = list(new.items())
        for start in range(0, len(waiting), TOGETHER):
            some = waiting[start : start + TOGETHER]
            allowed = some if self.budget is None else some[: self.budget - self.spent.asked]
            if not allowed:
                break
            found |= self._ask_some(dict(allowed))

        self.spent.left_out += len(new) - len(found)
        missing = Answer(failure=OVER_BUDGET)
        return [self._known.get(key) or found.get(key, missing) for key in keys]

    def _ask_some(self, looks: dict[str, Look]) -> dict[str, Answer]:
        answers = dict(zip(looks, self.judge.ask(list(looks.values())), strict=True))
        good = {key: answer for key, answer in answers.items() if not answer.failure}
        self._known |= good
        if self.path is not None and good:
            self._add(good)

        self.spent.asked += len(answers)
        self.spent.failed += len(answers) - len(good)
        for answer in answers.values():
            self.spent.tokens_in += answer.tokens_in
            self.spent.tokens_out += answer.tokens_out
            self.spent.seconds += answer.seconds
            if self.on_answer is not None:
                self.on_answer(answer)
        return answers

    def _add(self, answers: dict[str, Answer]) -> None:
        assert self.path is not None
        rows = [{"key": key, "judge": self.name, **asdict(one)} for key, one in answers.items()]
        make_folder(self.path.parent)
        # An empty line ends what a killed program may have torn.
        text = "\n" * self._torn + "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows)
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text)
        self._torn = False


def read_answers(path: Path) -> dict[str, Answer]:
    """Return the answers of a file by their keys; lines that a killed program has torn are left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    known = {}
    for line in lines:
        try:
            row = json.loads(line)
            known[str(row["key"])] = _answer(row)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return known


def _answer(row: dict[str, Any]) -> Answer:
    names = {field.name for field in fields(Answer)}
    values = {name: value for name, value in row.items() if name in names}
    return Answer(**{**values, "choices": tuple(int(one) for one in values.get("choices", ()))})
