"""Two readings of a scene by a critic: the questions it is optimised for, and others that it never is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from vlm3d_gs.guidance.memory import resident
from vlm3d_gs.guidance.preprocess import resize
from vlm3d_gs.guidance.questions import Question
from vlm3d_gs.guidance.vlm import YesNoModel


class Judge:
    """Answers a set of questions about rendered views, without gradient."""

    def __init__(
        self,
        model: YesNoModel,
        questions: Sequence[Question],
        *,
        size_px: int | None = None,
        visits: bool = False,
    ) -> None:
        """Keep what every reading needs.

        Args:
            model: answers.
            questions: with weights.
            size_px: side to which views are resized; None is as they come.
            visits: move the model to its device for each reading, and away afterwards.
        """
        self.model, self.questions = model, tuple(questions)
        self.size_px, self.visits = size_px, visits

    @torch.no_grad()
    def answers(self, images: Tensor, names: Sequence[str]) -> dict[str, float]:
        """Return the log-odds of each question about one group of named views [V, H, W, 3]."""
        if self.size_px is not None:
            images = resize(images, (self.size_px, self.size_px))
        home = resident(self.model.network, self.model.device) if self.visits else nullcontext()
        with home:
            odds = self.model.log_odds(images, names, [q.text for q in self.questions])
        return {q.name: float(z) for q, z in zip(self.questions, odds, strict=True)}

    def score(self, images: Tensor, names: Sequence[str]) -> float:
        """Return the weighted mean log-odds over the questions."""
        said = self.answers(images, names)
        weights = {question.name: question.weight for question in self.questions}
        return sum(weights[name] * value for name, value in said.items()) / sum(weights.values())
