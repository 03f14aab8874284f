"""Targets chosen or guided by a critic: the best of several chains is kept, and each follows the reward's gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlm3d_gs.config.critic import ViewNames
from vlm3d_gs.config.schedules import Schedule
from vlm3d_gs.critic.best_of_n import Scorer
from vlm3d_gs.critic.questions.templates import azimuth_range_deg, view_names
from vlm3d_gs.optimize.guidance import Guidance, Progress, Views
from vlm3d_gs.optimize.targets import Chain
from vlm3d_gs.prior.chain import Correction
from vlm3d_gs.prior.denoiser import pull_back
from vlm3d_gs.prior.targets import PriorTargets, draw_together, larger_batches_are_free


class CriticTargets:
    """A `TargetSource` that draws with a prior and lets a critic choose.

    A prior that denoises the views of a group together is scored by groups; one that denoises each view alone, by
    views, since there a noise has no influence on the other views.
    """

    def __init__(
        self,
        targets: PriorTargets,
        scorer: Scorer | None = None,
        critic: Guidance | None = None,
        strength: Schedule | None = None,
        names: ViewNames = "four",
    ) -> None:
        """Store what every round needs.

        Args:
            targets: draws the candidates.
            scorer: chooses among them; None draws one chain per group.
            critic: guides the chains by its gradient; None does not.
            strength: of that guidance, over the run: step length on the predicted clean latents, in norms of theirs.
            names: of the views in the critic's message.
        """
        self.targets, self.scorer = targets, scorer
        self.critic, self.strength, self.names = critic, strength, names
        self.name = targets.name

    def azimuth_range_deg(self, chain: Chain, progress: Progress) -> tuple[float, float] | None:
        """Return the offsets within which views have names, if the critic takes part."""
        return azimuth_range_deg(self.names) if self.takes_part(chain, progress) else None

    def draw(
        self, views: Views, chain: Chain, progress: Progress
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Return the best images [C, H, W, 3], and the scores for the log.

        The critic judges the first group. The other groups, whose views need no name, are drawn once.
        """
        scalars: dict[str, float | Tensor] = {"noise_level": chain.noise_level}
        if not self.takes_part(chain, progress):
            images, _ = self.targets.draw(views, chain, progress)
            return images, scalars

        first, count = views.group(0), self._count(chain)
        correct = self._correction(first, chain, progress)
        more, other_images = len(views.cameras) > views.n_views, None
        if more and correct is None and larger_batches_are_free(self.targets.prior.denoiser):
            candidates, other_images = self.targets.candidates_beside_others(
                views, chain, progress, count=count
            )
        else:
            candidates = self.targets.candidates(
                first, chain, progress, count=count, correct=correct
            )
        images = candidates[0]
        if len(candidates) > 1 and self.scorer is not None:
            images, scores = self._choose(candidates, first)
            if len(scores) > 0:
                scalars["score"] = float(scores.amax(1).mean())
                scalars["score_spread"] = float((scores.amax(1) - scores.amin(1)).mean())

        if more and other_images is None:
            others = views.select(slice(views.n_views, None))
            other_images, _ = self.targets.draw(others, chain, progress)
        return images if other_images is None else torch.cat([images, other_images]), scalars

    def _choose(self, candidates: Tensor, views: Views) -> tuple[Tensor, Tensor]:
        """Return the best of [N, V, H, W, 3] candidates, as a group or view by view, and the scores [groups, N].

        A group about which there is no answer has no scores, and its first candidate is taken.
        """
        assert self.scorer is not None
        joint_views = views.n_views if self.targets.prior.joins_views else 1
        names = view_names(views.cameras.azimuths_deg, self.names)

        chosen, scores = [], []
        for start in range(0, len(names), joint_views):
            places = slice(start, start + joint_views)
            images = candidates[:, places]
            answer = self.scorer.scores(images, names[places])
            if answer is None:
                chosen.append(images[0])
                continue
            finite = images.isfinite().flatten(1).all(1).cpu()
            score = torch.where(finite, torch.tensor(answer), -torch.inf)
            chosen.append(images[int(score.argmax())])
            scores.append(score)

        empty = torch.empty(0, len(candidates))
        return torch.cat(chosen), torch.stack(scores) if scores else empty

    def takes_part(self, chain: Chain, progress: Progress) -> bool:
        """Return whether the critic chooses or guides in a chain."""
        return self._count(chain) > 1 or self._step_length(progress) > 0.0

    def _count(self, chain: Chain) -> int:
        return 1 if self.scorer is None else chain.candidates

    def _step_length(self, progress: Progress) -> float:
        if self.critic is None or self.strength is None:
            return 0.0
        return self.strength(progress.fraction)

    def _correction(self, views: Views, chain: Chain, progress: Progress) -> Correction | None:
        """Return the step along the reward that a chain takes at each prediction, after classifier guidance.

        Sources: Dhariwal and Nichol 2021 (arXiv 2105.05233), section 4; on the predicted clean latents as in Bansal et
        al. 2023 (universal guidance, arXiv 2302.07121), section 3.2, backward guidance with one step.
        """
        length, critic = self._step_length(progress), self.critic
        if length == 0.0 or critic is None:
            return None

        denoiser, size = self.targets.prior.denoiser, len(views.cameras)

        def correct(clean: Tensor) -> Tensor:
            moved = []
            # Several chains are denoised as one batch; the critic reads the views of one at a time.
            for latents in clean.split(size):

                def image_gradient(images: Tensor) -> Tensor:
                    decoded = Views(images, views.cameras, views.n_views)
                    return critic(decoded, progress).color_gradient

                gradient = pull_back(denoiser, latents, image_gradient)
                scale = latents.norm() / gradient.norm().clamp_min(1e-12)
                moved.append(latents - length * scale * gradient)

            return torch.cat(moved)

        return correct


def draw_objects(
    sources: Sequence[CriticTargets], views: Sequence[Views], chain: Chain, progress: Progress
) -> list[tuple[Tensor, Mapping[str, float | Tensor]]]:
    """Draw pictures of several objects, in one batch where no critic looks at those of each.

    Args:
        sources: one for each object; the denoiser and the settings of all are the same.
        views: renders of each object.
        chain: how the pictures are drawn.
        progress: of the run.

    Returns:
        For each object what its source's `draw` returns.
    """
    if any(source.takes_part(chain, progress) for source in sources):
        return [
            source.draw(each, chain, progress) for source, each in zip(sources, views, strict=True)
        ]
    pictures = draw_together([source.targets for source in sources], views, chain, progress)
    return [(images, {"noise_level": chain.noise_level}) for images in pictures]
