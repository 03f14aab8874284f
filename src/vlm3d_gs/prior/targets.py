"""A diffusion prior as a source of targets: chains of denoising, decoded once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vlm3d_gs.config.reconstruct import Solver
from vlm3d_gs.optimize.guidance import Progress, Views
from vlm3d_gs.optimize.targets import Chain
from vlm3d_gs.prior.chain import Correction, denoise
from vlm3d_gs.prior.denoiser import decode_latents, encode_images, resized
from vlm3d_gs.prior.guidance import DiffusionPrior
from vlm3d_gs.prior.losses import reconstruction_target
from vlm3d_gs.prior.noise import add_noise


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
        prior = self.prior
        denoiser, noise_schedule = prior.denoiser, prior.denoiser.noise_schedule
        prior.prepare_attention(views.n_views)
        latents = encode_images(denoiser, resized(views.color, prior.config.size_px))

        start = round(chain.noise_level * (len(noise_schedule) - 1))
        noise = torch.cat([prior.draw_noise(latents) for _ in range(count)])
        if chain.noise_level >= 1.0:
            noisy = noise
        else:
            index = torch.full((len(noise),), start, device=noise.device)
            noisy = add_noise(noise_schedule, latents.repeat(count, 1, 1, 1), noise, index)

        cameras = views.cameras.select(torch.arange(len(latents)).repeat(count))
        predictor = prior.predictor(cameras, progress.fraction)
        prediction = denoise(
            predictor,
            noise_schedule,
            noisy,
            start,
            chain.steps,
            solver=self.solver,
            correct=correct,
        )
        n_views = prior.n_joint_views(views.n_views)
        clean = reconstruction_target(prediction, prior.config.rescale, n_views)
        return decode_latents(denoiser, clean).unflatten(0, (count, -1))
