"""Who judges pictures: one protocol, and behind it servers, networks in this process, and scripted stand-ins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Look:
    """One question about pictures."""

    text: str
    """The question, as the judge gets it."""
    pictures: tuple[bytes, ...]
    """PNG files, in the order in which they are shown."""
    names: tuple[str, ...] = ()
    """One for each picture, written before it; empty for none."""
    choices: int = 0
    """Numbers of 1 to 3 that the last line of the answer must hold; 0 asks for Yes or No."""

    def digest(self) -> str:
        """Return a hash of everything that a judge is shown."""
        parts = [self.text.encode(), str(self.choices).encode(), *map(str.encode, self.names)]
        total = hashlib.sha256()
        for part in (*parts, *self.pictures):
            total.update(hashlib.sha256(part).digest())
        return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a judge said to one look."""

    log_odds: float | None = None
    """Of Yes against No; None for an answer in numbers, or a failure."""
    choices: tuple[int, ...] = ()
    """Numbers of 1 to 3, as many as were asked for; empty for a Yes or No, or a failure."""
    text: str = ""
    """The words, where there are any."""
    probability: float | None = None
    """Of the word Yes among all words, where the judge knows it; VQAScore."""
    tokens_in: int = 0
    """Tokens of question and pictures, where the judge counts them."""
    tokens_out: int = 0
    """Tokens of the answer."""
    seconds: float = 0.0
    """Until the answer was there, shared among looks that were asked together."""
    failure: str = ""
    """Why there is no answer; empty for an answer."""


class Judge(Protocol):
    """Answers questions about pictures."""

    @property
    def name(self) -> str:
        """What reports call it; equal names with equal `identity` give equal answers."""

    @property
    def identity(self) -> str:
        """Everything that decides its answers beside the look: model, revision, settings."""

    @property
    def writes(self) -> bool:
        """Whether it answers in numbers, too, and not by Yes or No alone."""

    def ask(self, looks: Sequence[Look]) -> list[Answer]:
        """Return one answer for each look; a failure is an answer, too."""
