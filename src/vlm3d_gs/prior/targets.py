"""A diffusion prior as a source of targets: chains of denoising, decoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlm3d_gs.config.reconstruct import Solver
from vlm3d_gs.optimize.guidance import Progress, Views
from vlm3d_gs.optimize.targets import Chain
from vlm3d_gs.prior.chain import Correction, denoise
from vlm3d_gs.prior.conditioning import joint_predictor
from vlm3d_gs.prior.denoiser import Denoiser, decode_latents, encode_images, resized
from vlm3d_gs.prior.guidance import DiffusionPrior
from vlm3d_gs.prior.losses import reconstruction_target
from vlm3d_gs.prior.noise import NoiseSchedule, add_noise
from vlm3d_gs.prior.prediction import Predictor


class PriorTargets:
    """Draws pictures with a `DiffusionPrior`; a `TargetSource` by itself."""

    def __init__(self, prior: DiffusionPrior, solver: Solver = "ddim") -> None:
        self.prior, self.solver = prior, solver
        self.name = prior.name

    def azimuth_range_deg(self, chain: Chain, progress: Progress) -> None:
        """Any."""

    def draw(
        self, views: Views, chain: Chain, progress: Progress
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Return one chain's pictures [C, H, W, 3] of the views, and the noise level for the log."""
        (pictures,) = self.candidates(views, chain, progress, count=1)
        return pictures, {"noise_level": chain.noise_level}

    @torch.no_grad()
    def candidates(
        self,
        views: Views,
        chain: Chain,
        progress: Progress,
        *,
        count: int,
        correct: Correction | None = None,
    ) -> Tensor:
        """Draw several chains from the same renders, in one batch.

        Args:
            views: C renders to start from.
            chain: noise level and steps.
            progress: of the run.
            count: N chains, each with its own noise.
            correct: see `denoise`; gets all N * C latents.

        Returns:
            [N, C, H, W, 3] in 0..1, of the prior's own size.
        """
        latents = self._encode(views)
        noise = torch.cat([self.prior.draw_noise(latents) for _ in range(count)])
        rows = torch.arange(len(latents)).repeat(count)
        pictures = self._follow(latents, rows, noise, views, chain, progress, correct)
        return pictures.unflatten(0, (count, -1))

    @torch.no_grad()
    def candidates_beside_others(
        self, views: Views, chain: Chain, progress: Progress, *, count: int
    ) -> tuple[Tensor, Tensor]:
        """Draw several chains for the first group and one for each other group, all in one batch of the network.

        The noises are those of `candidates` for the first group and of `draw` for the others after it.

        Args:
            views: C renders, V of each group.
            chain: noise level and steps.
            progress: of the run.
            count: N chains for the first group.

        Returns:
            [N, V, H, W, 3] and [C - V, H, W, 3] in 0..1, of the prior's own size.
        """
        latents, n_views = self._encode(views), views.n_views
        first, others = latents[:n_views], latents[n_views:]
        noise = [self.prior.draw_noise(first) for _ in range(count)]
        noise.append(self.prior.draw_noise(others))
        rows = [torch.arange(n_views).repeat(count), torch.arange(n_views, len(latents))]

        pictures = self._follow(
            latents, torch.cat(rows), torch.cat(noise), views, chain, progress, None
        )
        return pictures[: count * n_views].unflatten(0, (count, -1)), pictures[count * n_views :]

    def _encode(self, views: Views) -> Tensor:
        """Return the latents [C, c, h, w] of renders."""
        self.prior.prepare_attention(views.n_views)
        return encode_images(self.prior.denoiser, resized(views.color, self.prior.config.size_px))

    def _follow(
        self,
        latents: Tensor,
        rows: Tensor,
        noise: Tensor,
        views: Views,
        chain: Chain,
        progress: Progress,
        correct: Correction | None,
    ) -> Tensor:
        """Return pictures [R, H, W, 3] of R chains, in one batch.

        Args:
            latents: [C, c, h, w] of the renders.
            rows: [R], which of them each chain begins from.
            noise: [R, c, h, w].
            views: the renders.
            chain: noise level and steps.
            progress: of the run.
            correct: see `denoise`.
        """
        prior = self.prior
        noisy = self._noisy(latents[rows.to(latents.device, non_blocking=True)], noise, chain)
        predictor = prior.predictor(views.cameras.select(rows), progress.fraction)
        return self._follow_noisy(predictor, noisy, views.n_views, chain, correct)

    def _noisy(self, latents: Tensor, noise: Tensor, chain: Chain) -> Tensor:
        """Return where chains begin, [R, c, h, w], from the clean latents and the noise of each."""
        if chain.noise_level >= 1.0:
            return noise
        noise_schedule = self.prior.denoiser.noise_schedule
        index = torch.full((len(noise),), _start(chain, noise_schedule), device=noise.device)
        return add_noise(noise_schedule, latents, noise, index)

    def _follow_noisy(
        self,
        predictor: Predictor,
        noisy: Tensor,
        n_views: int,
        chain: Chain,
        correct: Correction | None = None,
    ) -> Tensor:
        """Return the pictures [R, H, W, 3] at the end of chains; `n_views` is the size of the view groups."""
        prior, denoiser = self.prior, self.prior.denoiser
        prediction = denoise(
            predictor,
            denoiser.noise_schedule,
            noisy,
            _start(chain, denoiser.noise_schedule),
            chain.steps,
            solver=self.solver,
            correct=correct,
        )
        clean = reconstruction_target(
            prediction, prior.config.rescale, prior.n_joint_views(n_views)
        )
        return decode_latents(denoiser, clean)


@torch.no_grad()
def draw_together(
    sources: Sequence[PriorTargets], views: Sequence[Views], chain: Chain, progress: Progress
) -> list[Tensor]:
    """Draw pictures of several objects in one batch of the network, each after its own prompt.

    Each gets the noises that its `draw` would take, so up to rounding the pictures are those of `draw`.

    Args:
        sources: with priors of one denoiser and equal settings.
        views: renders of each object, all in groups of equal size.
        chain: noise level and steps.
        progress: of the run.

    Returns:
        [C, H, W, 3] in 0..1 for each object, of the prior's own size.
    """
    first, n_views = sources[0], views[0].n_views
    prior = first.prior
    prior.prepare_attention(n_views)
    color = torch.cat([each.color for each in views])
    latents = encode_images(prior.denoiser, resized(color, prior.config.size_px))

    counts = [len(each.cameras) for each in views]
    pairs = zip(sources, latents.split(counts), strict=True)
    noise = torch.cat([source.prior.draw_noise(part) for source, part in pairs])
    predictor = joint_predictor(
        [
            (source.prior.conditioning, each.cameras)
            for source, each in zip(sources, views, strict=True)
        ],
        progress.fraction,
    )
    noisy = first._noisy(latents, noise, chain)
    return list(first._follow_noisy(predictor, noisy, n_views, chain).split(counts))


def _start(chain: Chain, noise_schedule: NoiseSchedule) -> int:
    """Return the timestep at which a chain begins."""
    return round(chain.noise_level * (len(noise_schedule) - 1))


def larger_batches_are_free(denoiser: Denoiser) -> bool:
    """Return whether a network takes as long for sixteen pictures as for four.

    On a GPU it does below sixteen, since it waits for its host there: 31 to 33 ms for 4, 8 and 16 pictures of MVDream
    on an H200, recorded 15, 19 and 29 (docs/log/large-models.md).
    """
    return denoiser.device.type == "cuda" and denoiser.plan == "full"
