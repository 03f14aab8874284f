"""The critic: Yes/No questions about the renders, answered by a vision-language model and differentiated.

The reward of a question is the log-odds of Yes against No at the first answered token (Bai et al. 2025, VLM3D, arXiv
2509.15772). This file turns answers into a gradient on the renders: reward shape, weights, augmentation, clipping. The
model is in `qwen`, the questions are in `questions`.
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
from vlm3d_gs.critic.questions.templates import Question, azimuth_range_deg, view_names
from vlm3d_gs.critic.qwen.preprocess import resize
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views


def reward_loss(log_odds: Tensor, shape: str) -> Tensor:
    """Turn log-odds of Yes into a loss, elementwise.

    logit: -z, with constant gradient, as in the paper; logsigmoid: -log sigmoid(z), whose gradient vanishes as the
    answer becomes Yes; probability: -tanh(z / 2), the difference of the two probabilities, flat at both ends.

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
    """Limit the norm of the gradient at each pixel.

    Args:
        gradient: [..., C] on images.
        limit: largest norm of a pixel's gradient, relative to the root mean square norm over all pixels whose gradient
            is not zero; 0 is no limit.
    """
    if limit <= 0.0:
        return gradient

    lengths = gradient.norm(dim=-1, keepdim=True)
    nonzero = (lengths > 0).sum().clamp_min(1)
    rms = (lengths.square().sum() / nonzero).sqrt()

    return gradient * (limit * rms / lengths.clamp_min(1e-30)).clamp_max(1.0)


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
        """Store what every step needs.

        Args:
            model: answers the questions.
            questions: all of them are asked at every due step.
            config: interval, weight, shape of the reward, augmentation.
            generator: of the augmentation, on the CPU.
            offload: keep the model off its device between answers.
        """
        self.model, self.questions, self.config = model, tuple(questions), config
        self.generator, self.offload = generator, offload

    def is_due(self, progress: Progress) -> bool:
        """Return true at every k-th step, k = `critic.every`, while the reward has a weight."""
        return self.config.weight(progress.fraction) > 0.0 and not progress.step % self.config.every

    def azimuth_range_deg(self, progress: Progress) -> tuple[float, float] | None:
        """Return the offsets within which views have names; None for any."""
        return azimuth_range_deg(self.config.view_names)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return nothing: the model is frozen, and the trainer saves the state of `generator`."""
        return {}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Do nothing: see `state_tensors`."""

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        """Return the gradient of the questions' weighted loss on the views, and each question's log-odds.

        With balance `ratio` the strength relative to the prior is weight * k * the mean slope of the reward: a critic
        that is sure of No has the full weight, one that says Yes has hardly any. With `reuse` the factor k is dropped,
        since the gradient is applied at the k - 1 steps between as well.
        """
        config, fraction = self.config, progress.fraction
        inputs = [tensor.detach().requires_grad_() for tensor in self._inputs(views)]
        network, device = self.model.network, self.model.device

        with torch.enable_grad(), resident(network, device) if self.offload else nullcontext():
            images = self._images(inputs, views)
            weights = torch.tensor([question.weight for question in self.questions])
            weights = weights.to(images.device, non_blocking=True)
            weights = weights / weights.sum().clamp_min(1e-12)

            log_odds, image_gradient = self._ask_groups(images.detach(), views, weights, fraction)

            # Not as a third argument: torch would import sympy to compare its shape.
            gradients = torch.autograd.grad((images * image_gradient).sum(), inputs)

        mean = log_odds.mean(0)
        scalars = {question.name: z for question, z in zip(self.questions, mean, strict=True)}
        scalars["loss"] = (weights * reward_loss(log_odds, config.reward)).sum(-1).mean()
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
        """Return what is differentiated: the colours, and the opacities if the background is replaced."""
        if not self.config.augment.background or views.alpha is None or views.background is None:
            return [views.color]

        return [views.color, views.alpha]

    def _images(self, inputs: Sequence[Tensor], views: Views) -> Tensor:
        """Return the images [G * V, H, W, 3] for the critic, each group in front of a random colour."""
        if len(inputs) == 1 or views.background is None:
            return inputs[0]

        color, alpha = inputs
        n_groups = len(views.cameras) // views.n_views
        drawn = torch.rand(n_groups, 3, generator=self.generator).to(color, non_blocking=True)
        background = drawn.repeat_interleave(views.n_views, 0)

        return replace_background(color, alpha, views.background.to(background), background)

    def _ask_groups(
        self, images: Tensor, views: Views, weights: Tensor, fraction: float
    ) -> tuple[Tensor, Tensor]:
        """Return log-odds [G, K] and the gradient of the groups' mean loss on the images [G * V, H, W, 3].

        Each group's graph is differentiated before the next group is read, so that memory holds only one; with
        `together` all of them are one group.
        """
        size = len(views.cameras) if self.config.together else views.n_views
        names = view_names(views.cameras.azimuths_deg, self.config.view_names)
        answers, gradients = [], []

        for start, group in zip(range(0, len(names), size), images.split(size), strict=True):
            group_names = names[start : start + size]
            log_odds = self._ask(group.requires_grad_(), group_names, fraction)
            loss = (weights * reward_loss(log_odds, self.config.reward)).sum()
            with section("critic backward"):
                gradients += torch.autograd.grad(loss, group)
            answers.append(log_odds.detach())

        return torch.stack(answers), torch.cat(gradients) / len(answers)

    def _ask(self, group: Tensor, names: Sequence[str], fraction: float) -> Tensor:
        """Return the log-odds [K] of the questions about one group [V, H, W, 3]."""
        images = augment(group, self.config.augment, self.generator)
        if self.config.size_px is not None:
            side = round(self.config.size_px(fraction))
            images = resize(images, (side, side))

        # The model may be on another device.
        texts = [question.text for question in self.questions]
        return self.model.log_odds(images, names, texts).to(group.device)


def _slope(log_odds: Tensor, shape: str) -> Tensor:
    """Return |d reward / d log-odds|, scaled to at most 1."""
    probe = log_odds.detach().clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(reward_loss(probe, shape).sum(), probe)

    # The slope of tanh(z / 2) is at most 1/2, that of the other shapes at most 1.
    return slope.abs() * (2.0 if shape == "probability" else 1.0)
