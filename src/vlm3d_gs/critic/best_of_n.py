"""A prior whose noises are weighed by a critic that gives no gradient.

At a due step several noises are drawn. Each leads the denoiser to other clean pictures; the critic scores those, and
the noises that led to better ones pull more (best-of-n), or the better of two pulls and the worse one pushes
(pairwise). A prior that draws the views of a group together is scored by groups; one that draws each view alone, by
views, since there a noise says nothing about the other views. Any scorer will do: a model behind a server, a person.

Sources: RewardSDS (Chachy et al. 2025, arXiv 2503.09601); DreamDPO (Zhou et al. 2025, arXiv 2502.04370).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from vlm3d_gs.config import CriticConfig
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.critic.questions.templates import VIEW_TOLERANCE_DEG, view_name
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views, color_gradient
from vlm3d_gs.prior.denoiser import decode_latents
from vlm3d_gs.prior.distillation import residual_loss
from vlm3d_gs.prior.guidance import Candidate, DiffusionPrior

SHARPNESS = 2.0
"""Of the weights over standardised scores: at 2, one standard deviation more weighs e^2 times as much."""
SINGLE_VIEW_LOOK_AHEAD = 4
"""Denoising steps of `critic.look_ahead` where the views are drawn alone: what one step shows at high noise is a mean
over all sides from which an object can be seen, and hardly depends on the noise."""
MIN_SCORE_GAP = 0.1
"""Log-odds by which two noises must differ for the worse one to push away."""


class Scorer(Protocol):
    """Anything that scores scenes by groups of named views; larger is better."""

    def scores(self, images: Tensor, names: Sequence[str]) -> Sequence[float]:
        """Return one number a scene, of views [S, V, H, W, 3] that have the same names in all of them."""


class BestOfN:
    """A `DiffusionPrior` that draws several noises at due steps and follows the critic's choice among them."""

    def __init__(
        self,
        prior: DiffusionPrior,
        scorer: Scorer,
        config: CriticConfig,
        until_step: int | None = None,
    ) -> None:
        """Keep both.

        Args:
            prior: must use a loss of one evaluation a noise: recon or sds.
            scorer: says which clean pictures are better.
            config: mode, number of noises, interval.
            until_step: noises are compared before this step only; None is always.

        Raises:
            ConfigError: another loss.
        """
        if prior.config.loss not in ("recon", "sds"):
            raise ConfigError(
                f"critic.mode {config.mode!r} needs prior.loss recon or sds, got {prior.config.loss!r}."
            )
        self.prior, self.scorer, self.config = prior, scorer, config
        self.until_step = until_step
        self.name = prior.name

    def is_due(self, progress: Progress) -> bool:
        """Every step; the critic is asked at every k-th."""
        return True

    def azimuth_range_deg(self, progress: Progress) -> tuple[float, float] | None:
        """Where the critic is asked, views with a name only."""
        return (-VIEW_TOLERANCE_DEG, VIEW_TOLERANCE_DEG) if self.compares(progress) else None

    def compares(self, progress: Progress) -> bool:
        """Tell whether the critic is asked about several noises at this step."""
        early = self.until_step is None or progress.step < self.until_step
        return early and progress.step % self.config.every == 0

    def state_tensors(self) -> dict[str, Tensor]:
        """Return those of the prior."""
        return self.prior.state_tensors()

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state_tensors` returned."""
        self.prior.load_state_tensors(tensors)

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        """Return the prior's gradient for the critic's choice among the noises; between due steps for a single one."""
        if not self.compares(progress):
            return self.prior(views, progress)

        fraction = progress.fraction
        color = views.color.detach().requires_grad_()
        count = 2 if self.config.mode == "pairwise" else self.config.n_noises
        together = views.n_views if self.prior.joins_views else 1
        latents, timesteps = self.prior.begin(color, views, fraction)
        ahead = self.config.look_ahead or (1 if self.prior.joins_views else SINGLE_VIEW_LOOK_AHEAD)
        candidates = self.prior.draw_candidates(
            latents, timesteps, views, fraction, steps=ahead, count=count
        )
        scores = self._scores(candidates, views, together)
        if self.config.mode == "pairwise":
            residual = pairwise_residual(candidates, scores, together)
        else:
            residual = best_of_n_residual(candidates, scores, together)
        loss = residual_loss(latents, residual)
        scalars: dict[str, float | Tensor] = {
            "loss": loss.detach(),
            "t": timesteps.float().mean(),
            "score": float(scores.mean()),
            "score_spread": float((scores.amax(0) - scores.amin(0)).mean()),
        }
        gradient = color_gradient(self.prior.config.weight(fraction) * loss, color, self.name)
        return GuidanceOutput(gradient, scalars)

    @torch.no_grad()
    def _scores(self, candidates: Sequence[Candidate], views: Views, together: int) -> Tensor:
        """Return [N, G] scores of the clean pictures that N noises lead to, a group `together` views."""
        pictures = torch.stack(
            [decode_latents(self.prior.denoiser, candidate.clean) for candidate in candidates]
        )
        names = [view_name(float(azimuth)) for azimuth in views.cameras.azimuths_deg]
        groups = [
            self.scorer.scores(group, names[k * together : (k + 1) * together])
            for k, group in enumerate(pictures.split(together, 1))
        ]
        return torch.tensor(groups).T


def best_of_n_residual(candidates: Sequence[Candidate], scores: Tensor, n_views: int) -> Tensor:
    """Return the mean of the noises' residuals, weighted by a softmax of their scores in each group.

    Args:
        candidates: N candidates of G * V views.
        scores: [N, G]; standardised over the noises, so that the scale of a critic does not matter.
        n_views: V.
    """
    spread = scores.std(0, keepdim=True).clamp_min(1e-6)
    weights = torch.softmax(SHARPNESS * (scores - scores.mean(0, keepdim=True)) / spread, 0)
    each = weights.repeat_interleave(n_views, 1)[..., None, None, None]
    residuals = torch.stack([candidate.residual for candidate in candidates])
    return (each.to(residuals) * residuals).sum(0)


def pairwise_residual(candidates: Sequence[Candidate], scores: Tensor, n_views: int) -> Tensor:
    """Return the better noise's residual minus the worse one's without guidance, where the scores differ enough.

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
