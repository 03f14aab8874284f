"""Networks whose batches are divided among processes: the prior's pictures, and scenes that a critic compares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlm3d_gs.core.residency import Plan
from vlm3d_gs.prior.denoiser import Denoiser, TextEmbedding
from vlm3d_gs.prior.noise import NoiseSchedule
from vlm3d_gs.spread.ranks import Ranks, joined
from vlm3d_gs.spread.rows import by_rows

if TYPE_CHECKING:
    from vlm3d_gs.critic.best_of_n import Scorer


class DividedDenoiser:
    """A `Denoiser` each process of which computes whole view groups, or single pictures where those suffice."""

    def __init__(self, denoiser: Denoiser, ranks: Ranks) -> None:
        """Divide the work of `denoiser`; noise is drawn by whoever calls it, the same in all processes."""
        self._denoiser, self._ranks, self._n_views = denoiser, ranks, 1

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """As that of the denoiser."""
        return self._denoiser.noise_schedule

    @property
    def plan(self) -> Plan:
        """As that of the denoiser."""
        return self._denoiser.plan

    @property
    def device(self) -> torch.device:
        """Of this process."""
        return self._denoiser.device

    @property
    def runtime(self) -> str:
        """As that of the denoiser."""
        return self._denoiser.runtime

    @property
    def is_multiview(self) -> bool:
        """As that of the denoiser."""
        return self._denoiser.is_multiview

    @property
    def latent_factor(self) -> int:
        """As that of the denoiser."""
        return self._denoiser.latent_factor

    def join_views(self, n_views: int) -> None:
        """As that of the denoiser; groups stay whole."""
        self._n_views = n_views
        self._denoiser.join_views(n_views)

    def at_work(self) -> AbstractContextManager[object]:
        """As that of the denoiser."""
        return self._denoiser.at_work()

    def encode(self, color: Tensor) -> Tensor:
        """As that of the denoiser."""
        return by_rows(lambda rows, _: self._denoiser.encode(rows), color, self._ranks)

    def decode(self, latents: Tensor) -> Tensor:
        """As that of the denoiser."""
        return by_rows(lambda rows, _: self._denoiser.decode(rows), latents, self._ranks)

    def evaluate(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextEmbedding,
        camera_matrices: Tensor | None = None,
    ) -> Tensor:
        """As that of the denoiser; differentiable in `noisy` alone."""

        def compute(rows: Tensor, places: slice) -> Tensor:
            pooled = None if text.pooled is None else text.pooled[places]
            own = TextEmbedding(text.tokens[places], pooled)
            matrices = None if camera_matrices is None else camera_matrices[places]
            return self._denoiser.evaluate(rows, timesteps[places], own, matrices)

        return by_rows(compute, noisy, self._ranks, self._n_views)


class DividedScorer:
    """A `Scorer` each process of which looks at some of the scenes."""

    def __init__(self, scorer: Scorer, ranks: Ranks) -> None:
        self._scorer, self._ranks = scorer, ranks

    def scores(self, images: Tensor, names: Sequence[str]) -> Sequence[float] | None:
        """As those of the scorer; None if one process got no answer."""
        ranks = self._ranks
        if not ranks.is_connected or len(images) < 2:
            return self._scorer.scores(images, names)

        shares = ranks.shares(len(images))
        own = images[shares[ranks.rank]]
        found = self._scorer.scores(own, names) if len(own) else []
        told = [math.nan] * len(own) if found is None else list(found)
        together = ranks.gathered(torch.tensor(told, dtype=torch.float64), shares)
        unanswered = ranks.gathered(
            torch.full((len(own),), float(found is None), dtype=torch.float64), shares
        )
        return None if bool(unanswered.any()) else together.tolist()


def divided_denoiser(denoiser: Denoiser) -> Denoiser:
    """Return the denoiser of a run, which several processes share if it has them."""
    ranks = joined()
    return denoiser if ranks is None else DividedDenoiser(denoiser, ranks)


def divided_scorer(scorer: Scorer) -> Scorer:
    """Return what scores the scenes of a run, which several processes share if it has them."""
    ranks = joined()
    return scorer if ranks is None else DividedScorer(scorer, ranks)
