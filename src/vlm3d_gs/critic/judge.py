"""Scores of a scene without gradient: by the questions that a run optimises, or by others that it does not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from vlm3d_gs.core.residency import resident
from vlm3d_gs.critic.questions.templates import Question
from vlm3d_gs.critic.qwen.preprocess import resize
from vlm3d_gs.critic.qwen.yes_no import YesNoModel


class Judge:
    """Answers a set of questions about rendered views, without gradient."""

    def __init__(
        self,
        model: YesNoModel,
        questions: Sequence[Question],
        *,
        size_px: int | None = None,
        offload: bool = False,
    ) -> None:
        """Store what every reading needs.

        Args:
            model: answers the questions.
            questions: with weights.
            size_px: side to which views are resized; None keeps their size.
            offload: keep the model off its device between readings.
        """
        self.model, self.questions = model, tuple(questions)
        self.size_px, self.offload = size_px, offload

    def answers(self, images: Tensor, names: Sequence[str]) -> dict[str, float]:
        """Return the log-odds of each question about one group of named views [V, H, W, 3]."""
        log_odds = self._log_odds(images[None], names)[0].tolist()
        return {question.name: z for question, z in zip(self.questions, log_odds, strict=True)}

    def score(self, images: Tensor, names: Sequence[str]) -> float:
        """Return the weighted mean log-odds over the questions about one group of named views [V, H, W, 3]."""
        return self.scores(images[None], names)[0]

    def scores(self, images: Tensor, names: Sequence[str]) -> list[float]:
        """Return the weighted mean log-odds over the questions, of each scene of [S, V, H, W, 3]."""
        weights = torch.tensor([question.weight for question in self.questions])
        scores: list[float] = (self._log_odds(images, names) @ weights / weights.sum()).tolist()
        return scores

    @torch.no_grad()
    def _log_odds(self, images: Tensor, names: Sequence[str]) -> Tensor:
        """Return [S, K] log-odds of K questions about S scenes [S, V, H, W, 3], on the CPU."""
        if self.size_px is not None:
            small = resize(images.flatten(0, 1), (self.size_px, self.size_px))
            images = small.unflatten(0, images.shape[:2])

        texts = [question.text for question in self.questions]
        network, device = self.model.network, self.model.device
        with resident(network, device) if self.offload else nullcontext():
            return self.model.scene_log_odds(images, names, texts).cpu()
