"""A prior whose noises are weighted by a critic that gives no gradient.

At a due step several noises are drawn. Each leads the denoiser to other clean images; the critic scores those. Noises
with better images get more weight (best-of-n), or the scene moves towards the better of two and away from the worse
(pairwise). A prior that denoises the views of a group together is scored by groups; one that denoises each view alone,
by views, since there a noise has no influence on the other views. Any scorer works: a model behind a server, a person.

Sources: RewardSDS (Chachy et al. 2025, arXiv 2503.09601); DreamDPO (Zhou et al. 2025, arXiv 2502.04370).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from vlm3d_gs.config import CriticConfig
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.critic.questions.templates import azimuth_range_deg, view_names
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views, color_gradient
from vlm3d_gs.prior.denoiser import decode_latents
from vlm3d_gs.prior.guidance import Candidate, DiffusionPrior
from vlm3d_gs.prior.losses import RANKING_LOSSES, residual_loss

SHARPNESS = 2.0
"""Inverse temperature of the softmax over standardised scores: one standard deviation is a factor of e^2."""
SINGLE_VIEW_LOOK_AHEAD = 4
"""Default of `critic.look_ahead` for views that are denoised alone: at high noise, one step gives a mean over all sides
of an object, which hardly depends on the noise."""
MIN_SCORE_GAP = 0.1
"""Log-odds by which two noises must differ for the scene to move away from the worse one."""


class Scorer(Protocol):
    """Anything that scores scenes by groups of named views; larger is better."""

    def scores(self, images: Tensor, names: Sequence[str]) -> Sequence[float] | None:
        """Return one number per scene, for views [S, V, H, W, 3] with the same names in all scenes.

        None if there is no answer this time: the scenes then count alike.
        """


class BestOfN:
    """A `DiffusionPrior` that draws several noises at due steps and weights them by the critic's scores."""

    def __init__(
        self,
        prior: DiffusionPrior,
        scorer: Scorer,
        config: CriticConfig,
        until_step: int | None = None,
    ) -> None:
        """Store the prior and the scorer.

        Args:
            prior: with a loss of `losses.RANKING_LOSSES`, which evaluate the denoiser once per noise.
            scorer: scores clean images.
            config: mode, number of noises, interval.
            until_step: noises are compared before this step only; None is always.

        Raises:
            ConfigError: the prior has another loss.
        """
        if not prior.loss.can_rank:
            raise ConfigError(
                f"critic.mode {config.mode!r} needs prior.loss {' or '.join(RANKING_LOSSES)}, "
                f"got {prior.config.loss!r}."
            )

        self.prior, self.scorer, self.config = prior, scorer, config
        self.until_step = until_step
        self.name = prior.name

    def is_due(self, progress: Progress) -> bool:
        """Return true: the prior works at every step, the critic at every k-th."""
        return True

    def azimuth_range_deg(self, progress: Progress) -> tuple[float, float] | None:
        """Return the offsets within which views have names, at steps of the critic."""
        return azimuth_range_deg(self.config.view_names) if self.compares(progress) else None

    def compares(self, progress: Progress) -> bool:
        """Return whether the critic compares several noises at this step."""
        early = self.until_step is None or progress.step < self.until_step
        return early and progress.step % self.config.every == 0

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the prior."""
        return self.prior.state_tensors()

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned."""
        self.prior.load_state_tensors(tensors)

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        """Return the prior's gradient for the noises weighted by the critic; between due steps for a single noise."""
        if not self.compares(progress):
            return self.prior(views, progress)

        fraction = progress.fraction
        color = views.color.detach().requires_grad_()
        count = 2 if self.config.mode == "pairwise" else self.config.n_noises
        joint_views = self.prior.n_joint_views(views.n_views)

        latents, timesteps = self.prior.begin(color, views, fraction)
        ahead = self.config.look_ahead or (1 if self.prior.joins_views else SINGLE_VIEW_LOOK_AHEAD)
        candidates = self.prior.draw_candidates(
            latents, timesteps, views, fraction, steps=ahead, count=count
        )
        scores, judged = self._scores(candidates, views, joint_views)
        if self.config.mode == "pairwise":
            residual = pairwise_residual(candidates, scores, joint_views)
        else:
            residual = best_of_n_residual(candidates, scores, joint_views)

        loss = residual_loss(latents, residual, self.prior.config.reduction)
        scalars: dict[str, float | Tensor] = {
            "loss": loss.detach(),
            "t": timesteps.float().mean(),
        }
        if judged.any():
            heard = scores[:, judged]
            scalars["score"] = float(heard.mean())
            scalars["score_spread"] = float((heard.amax(0) - heard.amin(0)).mean())

        gradient = color_gradient(self.prior.config.weight(fraction) * loss, color, self.name)
        return GuidanceOutput(gradient, scalars)

    @torch.no_grad()
    def _scores(
        self, candidates: Sequence[Candidate], views: Views, joint_views: int
    ) -> tuple[Tensor, Tensor]:
        """Return scores [N, G] of N noises' clean images, in groups of `joint_views` views, and whether [G] have any.

        The scores of a group without an answer are equal.
        """
        images = torch.stack(
            [decode_latents(self.prior.denoiser, candidate.clean) for candidate in candidates]
        )
        names = view_names(views.cameras.azimuths_deg, self.config.view_names)
        groups = [
            self.scorer.scores(group, names[number * joint_views : (number + 1) * joint_views])
            for number, group in enumerate(images.split(joint_views, 1))
        ]

        equal = [0.0] * len(candidates)
        scores = torch.tensor([equal if group is None else group for group in groups]).T
        return scores, torch.tensor([group is not None for group in groups])


def best_of_n_residual(candidates: Sequence[Candidate], scores: Tensor, n_views: int) -> Tensor:
    """Return the mean of the noises' residuals, weighted by a softmax of their scores in each group.

    Args:
        candidates: N candidates of G * V views.
        scores: [N, G]; standardised over the noises, so that the scale of a critic does not matter.
        n_views: V.
    """
    spread = scores.std(0, keepdim=True).clamp_min(1e-6)
    weights = torch.softmax(SHARPNESS * (scores - scores.mean(0, keepdim=True)) / spread, 0)
    view_weights = weights.repeat_interleave(n_views, 1)[..., None, None, None]
    residuals = torch.stack([candidate.residual for candidate in candidates])

    return (view_weights.to(residuals) * residuals).sum(0)


def pairwise_residual(candidates: Sequence[Candidate], scores: Tensor, n_views: int) -> Tensor:
    """Return the better noise's residual minus the worse one's without classifier-free guidance.

    Where the scores differ by less than `MIN_SCORE_GAP`, nothing is subtracted: the choice would be noise.

    Args:
        candidates: two candidates of G * V views.
        scores: [2, G].
        n_views: V.
    """
    first = (scores[0] >= scores[1]).repeat_interleave(n_views)[:, None, None, None]
    apart = ((scores[0] - scores[1]).abs() >= MIN_SCORE_GAP).repeat_interleave(n_views)
    first = first.to(candidates[0].residual.device)
    better = torch.where(first, candidates[0].residual, candidates[1].residual)
    worse = torch.where(first, candidates[1].unguided_residual, candidates[0].unguided_residual)

    return better - apart.to(better)[:, None, None, None] * worse
