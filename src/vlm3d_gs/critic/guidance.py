"""The critic: Yes/No questions about the renders, answered by a vision-language model and differentiated.

The reward of a question is the log-odds of Yes against No at the first answered token (Bai et al. 2025, VLM3D, arXiv
2509.15772). This file turns answers into a gradient on the renders: reward shape, weights, augmentation, clipping. The
model itself is in `vlm`, the questions in `questions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm3d_gs.config import CriticConfig
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.profiling import section
from vlm3d_gs.core.residency import resident
from vlm3d_gs.critic.augment import augment, replace_background
from vlm3d_gs.critic.questions.templates import VIEW_TOLERANCE_DEG, Question, view_name
from vlm3d_gs.critic.qwen.preprocess import resize
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views


def reward_loss(log_odds: Tensor, shape: str) -> Tensor:
    """Turn log-odds of Yes into a loss, elementwise.

    logit: -z, with constant gradient (the paper's); logsigmoid: -log sigmoid(z), whose gradient fades as the answer
    turns to Yes; probability: -tanh(z / 2), the difference of the two probabilities, flat at both ends.

    Raises:
        ConfigError: unknown shape.
    """
    if shape == "logit":
        return -log_odds
    if shape == "logsigmoid":
        return -F.logsigmoid(log_odds)
    if shape == "probability":
        return -torch.tanh(log_odds / 2.0)
    raise ConfigError(
        f"critic.reward must be 'logit', 'logsigmoid' or 'probability', got {shape!r}."
    )


def clip_pixel_gradients(gradient: Tensor, limit: float) -> Tensor:
    """Shorten the gradients of single pixels that stick out.

    Args:
        gradient: [..., 3] on pictures.
        limit: largest length of a pixel's gradient, against the root mean square length over all pixels that have one;
            0 is no limit.
    """
    if limit <= 0.0:
        return gradient
    lengths = gradient.norm(dim=-1, keepdim=True)
    touched = (lengths > 0).sum().clamp_min(1)
    usual = (lengths.square().sum() / touched).sqrt()
    return gradient * (limit * usual / lengths.clamp_min(1e-30)).clamp_max(1.0)


class Critic:
    """The reward of a prompt's questions, as a `Guidance`."""

    name = "critic"

    def __init__(
        self,
        model: YesNoModel,
        questions: Sequence[Question],
        config: CriticConfig,
        generator: torch.Generator,
        *,
        offload: bool = False,
    ) -> None:
        """Keep what every step needs.

        Args:
            model: answers.
            questions: asked at every due step.
            config: see there.
            generator: of the augmentation, on the CPU.
            offload: move the model to its device for each answer, and away afterwards.
        """
        self.model, self.questions, self.config = model, tuple(questions), config
        self.generator, self.offload = generator, offload

    def is_due(self, progress: Progress) -> bool:
        """Every k-th step, k = `critic.every`, while the reward has a weight."""
        return self.config.weight(progress.fraction) > 0.0 and not progress.step % self.config.every

    def azimuth_range_deg(self, progress: Progress) -> tuple[float, float]:
        """Views with a name only."""
        return (-VIEW_TOLERANCE_DEG, VIEW_TOLERANCE_DEG)

    def state_tensors(self) -> dict[str, Tensor]:
        """Nothing beside the streams, which the trainer saves: the critic is frozen."""
        return {}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Nothing to put back."""

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        """Ask all questions about each view group; return the gradient of their weighted loss, and each one's log-odds.

        Groups are asked one after the other, so that only one graph through the model is held at a time. With balance
        `ratio` the strength relative to the prior is weight * k * the mean slope of the reward: a critic that is sure
        of No pushes with the full weight, one that says Yes hardly pushes. With `reuse` the k falls away.
        """
        config, fraction = self.config, progress.fraction
        inputs = [piece.detach().requires_grad_() for piece in self._inputs(views)]
        names = [view_name(float(azimuth)) for azimuth in views.cameras.azimuths_deg]
        home = resident(self.model.network, self.model.device) if self.offload else nullcontext()

        with torch.enable_grad(), home:
            pictures = self._pictures(inputs, views)
            weights = torch.tensor([question.weight for question in self.questions])
            weights = weights.to(pictures.device, non_blocking=True)
            weights = weights / weights.sum().clamp_min(1e-12)

            answers, slopes = [], []
            for index, group in enumerate(pictures.detach().split(views.n_views)):
                places = slice(index * views.n_views, (index + 1) * views.n_views)
                log_odds = self._ask(group.requires_grad_(), names[places], fraction)
                share = (weights * reward_loss(log_odds, config.reward)).sum()
                with section("critic backward"):
                    slopes += torch.autograd.grad(share, group)
                answers.append(log_odds.detach())

            gradients = torch.autograd.grad(pictures, inputs, torch.cat(slopes) / len(answers))

        by_group = torch.stack(answers)
        mean = by_group.mean(0)
        scalars = {q.name: z for q, z in zip(self.questions, mean, strict=True)}
        scalars["loss"] = (weights * reward_loss(by_group, config.reward)).sum(-1).mean()
        scalars["reward"] = (weights * mean).sum()

        weight = config.weight(fraction) * (1 if config.reuse else config.every)
        color, *alpha = (clip_pixel_gradients(gradient, config.clip) for gradient in gradients)
        reused = config.reuse and config.every > 1
        if config.balance == "raw":
            alpha_gradient = weight * alpha[0] if alpha else None
            return GuidanceOutput(weight * color, scalars, alpha_gradient, reused=reused)

        strength = weight * (weights * _slope(mean, config.reward)).sum().double()
        return GuidanceOutput(color, scalars, alpha[0] if alpha else None, strength, reused)

    def _inputs(self, views: Views) -> list[Tensor]:
        """Return what is differentiated: the colours, and the opacities where the background is to be changed."""
        if not self.config.augment.background or views.alpha is None or views.background is None:
            return [views.color]
        return [views.color, views.alpha]

    def _pictures(self, pieces: Sequence[Tensor], views: Views) -> Tensor:
        """Return the pictures that are shown, each group before a colour of its own."""
        if len(pieces) == 1 or views.background is None:
            return pieces[0]
        groups = len(views.cameras) // views.n_views
        drawn = torch.rand(groups, 3, generator=self.generator).to(pieces[0], non_blocking=True)
        new = drawn.repeat_interleave(views.n_views, 0)
        return replace_background(pieces[0], pieces[1], views.background.to(new), new)

    def _ask(self, group: Tensor, names: Sequence[str], fraction: float) -> Tensor:
        """Return the log-odds [K] of the questions about one group [V, H, W, 3]."""
        images = augment(group, self.config.augment, self.generator)
        if self.config.size_px is not None:
            side = round(self.config.size_px(fraction))
            images = resize(images, (side, side))
        return self.model.log_odds(images, names, [question.text for question in self.questions])


def _slope(log_odds: Tensor, shape: str) -> Tensor:
    """Return |d reward / d log-odds|, scaled to at most 1."""
    probe = log_odds.detach().clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(reward_loss(probe, shape).sum(), probe)
    return slope.abs() * (2.0 if shape == "probability" else 1.0)
