"""What a critic answered about a finished scene, as a run records it and a person reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One Yes/No question and its answer."""

    name: str
    """Of the question, as `vlm3d-gs questions` lists it."""
    question: str
    """As it was asked."""
    log_odds: float
    """Of Yes."""

    @property
    def yes(self) -> bool:
        """Whether Yes is likelier."""
        return self.log_odds > 0.0

    @property
    def confidence(self) -> float:
        """Probability of the answer given, 0.5 to 1."""
        return 1.0 / (1.0 + math.exp(-min(abs(self.log_odds), 700.0)))

    def __str__(self) -> str:
        return f"{'Yes' if self.yes else 'No'} ({self.confidence:.0%})"


def to_plain(answers: tuple[Answer, ...]) -> list[dict[str, Any]]:
    """Return the answers for JSON."""
    return [
        {"name": item.name, "question": item.question, "log_odds": round(item.log_odds, 4)}
        for item in answers
    ]


def from_summary(summary: Mapping[str, Any]) -> tuple[Answer, ...]:
    """Return the answers in a run's summary.json; what is damaged, or of an older version, is left out."""
    rows = summary.get("answers")
    return tuple(
        Answer(str(row["name"]), str(row["question"]), float(row["log_odds"]))
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
        and {"name", "question"} <= row.keys()
        and isinstance(row.get("log_odds"), int | float)
        and math.isfinite(row["log_odds"])
    )
