"""Score distillation with one diffusion or flow model, as a `Guidance`.

A step: encode the renders, draw noise levels, and hand the loss a predictor, the denoiser conditioned on texts and
cameras (`conditioning`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlm3d_gs.config import PriorConfig
from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.errors import ConfigError, ShapeError
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views, color_gradient
from vlm3d_gs.prior.conditioning import Conditioning
from vlm3d_gs.prior.denoiser import Denoiser, TextEmbedding, encode_images, resized
from vlm3d_gs.prior.losses import (
    DistillationStep,
    loss_named,
    reconstruction_target,
    target_loss,
)
from vlm3d_gs.prior.noise import add_noise
from vlm3d_gs.prior.prediction import Prediction, Predictor
from vlm3d_gs.prior.timesteps import descend_timesteps, draw_timesteps

if TYPE_CHECKING:
    from vlm3d_gs.prior.lora import ScoreAdapter


@dataclass(frozen=True)
class Candidate:
    """Where one noise would lead."""

    residual: Tensor
    """[B, C, h, w] latents minus the target of the loss."""
    unguided_residual: Tensor
    """[B, C, h, w] the same from the prediction with the prompt alone, without guidance."""
    clean: Tensor
    """[B, C, h, w] the guided clean latents."""


class DiffusionPrior:
    """Draws the renders to what a frozen text-to-image or text-to-views model would generate."""

    def __init__(
        self,
        name: str,
        denoiser: Denoiser,
        texts: TextEmbedding,
        config: PriorConfig,
        generator: torch.Generator,
        adapter: ScoreAdapter | None = None,
    ) -> None:
        """Keep what every step needs.

        Args:
            name: prefix in the log.
            denoiser: the model.
            texts: the embedded texts of `conditioning.prompt_texts`.
            config: loss, guidance scale, noise levels.
            generator: source of noise and timesteps, on the CPU.
            adapter: the LoRA of `vsd`, None for the other losses.

        Raises:
            ConfigError: the network knows no cameras, but the config's family does; the loss is unknown, or trains a
                LoRA and there is none.
        """
        self.name, self.denoiser, self.config = name, denoiser, config
        self.generator, self.adapter = generator, adapter
        self.loss = loss_named(config.loss)
        if self.loss.trains_lora and adapter is None:
            raise ConfigError(
                f"prior.loss {config.loss!r} trains a LoRA, but got no adapter. "
                "Build the prior by assembly.priors.build_prior."
            )
        if adapter is not None and not self.loss.trains_lora:
            raise ConfigError(f"prior.loss {config.loss!r} trains no LoRA, but got an adapter.")

        self.conditioning = Conditioning(denoiser, texts, config)
        self.joins_views = self.conditioning.joins_views

    def is_due(self, progress: Progress) -> bool:
        """Every step."""
        return True

    def azimuth_range_deg(self, progress: Progress) -> None:
        """Any."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold beside the noise's generator: the LoRA, if there is one."""
        return {} if self.adapter is None else self.adapter.state_tensors()

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned."""
        if self.adapter is not None:
            self.adapter.load_state_tensors(tensors)

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        """Return the gradient of the views' distillation loss, weighted by its schedule.

        Raises:
            ShapeError: the number of images is no multiple of the group size.
        """
        fraction = progress.fraction
        color = views.color.detach().requires_grad_()
        latents, timesteps = self.begin(color, views, fraction)

        noise = self._distillation_noise(latents)
        step = self._step(
            latents.detach(), timesteps, noise, views.cameras, views.n_views, fraction
        )
        loss = target_loss(latents, self.loss.target(step), self.config.reduction)

        scalars = step.scalars | {"loss": loss.detach(), "t": timesteps.float().mean()}
        gradient = color_gradient(self.config.weight(fraction) * loss, color, self.name)
        return GuidanceOutput(gradient, scalars)

    def begin(self, color: Tensor, views: Views, fraction: float) -> tuple[Tensor, Tensor]:
        """Encode the renders and draw their noise levels.

        Args:
            color: the colours of `views`, a leaf if the latents are to be differentiated.
            views: the renders.
            fraction: of the run.

        Returns:
            Latents [B, C, h, w] on the graph of `color`, and timesteps [B].

        Raises:
            ShapeError: the number of images is no multiple of the group size.
        """
        n_images, n_views = len(views.cameras), views.n_views
        if n_images % n_views:
            raise ShapeError(f"{n_images} images do not divide into groups of {n_views} views.")

        self.prepare_attention(n_views)
        latents = encode_images(self.denoiser, resized(color, self.config.size_px))
        timesteps = self._draw_timesteps(n_images, n_views, fraction)
        return latents, timesteps.to(latents.device, non_blocking=True)

    def draw_candidates(
        self,
        latents: Tensor,
        timesteps: Tensor,
        views: Views,
        fraction: float,
        *,
        steps: int = 1,
        count: int = 1,
    ) -> list[Candidate]:
        """Draw noises and find where each leads, for losses that a critic can rank (`losses.RANKING_LOSSES`).

        All noises share one batch of the network, except under the plan `sequential`.

        Args:
            latents: [B, C, h, w] of the renders.
            timesteps: [B] int64, their noise levels.
            views: the renders.
            fraction: of the run.
            steps: deterministic DDIM steps from there down to clean images. One step gives the mean of all images that
                the noisy one may be, which at high noise is a blur of every layout; several give one of them. The
                residual of a loss that does not look ahead is that of the first step in any case.
            count: noises.
        """
        noises = [self._distillation_noise(latents) for _ in range(count)]
        at_once = 1 if self.denoiser.plan == "sequential" else count

        cameras = views.cameras.select(torch.arange(len(latents)).repeat(at_once))
        repeated, levels = latents.detach().repeat(at_once, 1, 1, 1), timesteps.repeat(at_once)

        candidates: list[Candidate] = []
        for start in range(0, count, at_once):
            noise = torch.cat(noises[start : start + at_once])
            step = self._step(repeated, levels, noise, cameras, views.n_views, fraction)
            candidates += _split(self._candidate(step, steps), len(latents))
        return candidates

    def predictor(self, cameras: Cameras, fraction: float) -> Predictor:
        """Return the guided denoiser for these cameras; see `Conditioning.predictor`."""
        return self.conditioning.predictor(cameras, fraction)

    def _step(
        self,
        latents: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        cameras: Cameras,
        n_views: int,
        fraction: float,
    ) -> DistillationStep:
        """Gather what a loss may read; `n_views` is the size of the view groups."""
        lora = None
        if self.adapter is not None:
            lora = partial(
                self._run_lora,
                latents=latents,
                timesteps=timesteps,
                cameras=cameras,
                n_views=n_views,
            )

        return DistillationStep(
            config=self.config,
            fraction=fraction,
            noise_schedule=self.denoiser.noise_schedule,
            latents=latents,
            noise=noise,
            timesteps=timesteps,
            n_views=self.n_joint_views(n_views),
            predictor=self.predictor(cameras, fraction),
            inversion_predictor=partial(self.conditioning.predict_inversion, cameras=cameras),
            lora=lora,
        )

    def _run_lora(
        self,
        noisy: Tensor,
        *,
        latents: Tensor,
        timesteps: Tensor,
        cameras: Cameras,
        n_views: int,
    ) -> tuple[Tensor, float]:
        """Return the noise that the LoRA predicts; then train it on the latents, and return the loss of that."""
        assert self.adapter is not None
        text = self.conditioning.plain_embeddings(len(cameras))
        camera_matrices = self.conditioning.camera_matrices(cameras)
        _, noise_pred = self.adapter.predict_noise(noisy, timesteps, text, camera_matrices)
        lora_loss = self.adapter.train_step(
            latents, text, camera_matrices, self.generator, n_views=self.n_joint_views(n_views)
        )
        return noise_pred, lora_loss

    def _candidate(self, step: DistillationStep, n_steps: int) -> Candidate:
        """Follow the noise of a step down `n_steps` DDIM steps, and return where the loss then leads."""
        first = last = step.predictor(step.noisy, step.timesteps)
        for remaining in range(n_steps - 1, 0, -1):
            lower = step.timesteps * remaining // n_steps
            noisy = add_noise(step.noise_schedule, last.clean_pred, last.noise_pred, lower)
            last = step.predictor(noisy, lower)

        def residual(prediction: Prediction) -> Tensor:
            # The loss evaluates its predictor once, and that is known already.
            known = replace(step, predictor=lambda noisy, timesteps: prediction)
            return step.latents - self.loss.target(known)

        prediction = last if self.loss.looks_ahead else first
        clean = reconstruction_target(last, self.config.rescale, step.n_views)
        return Candidate(residual(prediction), residual(prediction.unguided), clean)

    def draw_noise(self, latents: Tensor) -> Tensor:
        """Draw noise on the CPU, so that it is the same for every device."""
        noise = torch.randn(latents.shape, generator=self.generator)
        return noise.to(latents.device, non_blocking=True)

    def _distillation_noise(self, latents: Tensor) -> Tensor:
        """Draw the noise of a step, with `offset_noise`."""
        noise = self.draw_noise(latents)
        if self.config.offset_noise == 0.0:
            return noise
        offset = torch.randn(1, latents.shape[1], 1, 1, generator=self.generator).to(noise.device)
        return noise + self.config.offset_noise * offset

    def _draw_timesteps(self, n_images: int, n_views: int, fraction: float) -> Tensor:
        """Return [n_images] int64 timesteps on the CPU, as `prior.timesteps` says."""
        config, n_train = self.config, len(self.denoiser.noise_schedule)
        if config.timesteps == "uniform":
            low, high = config.t_min(fraction), config.t_max(fraction)
            joint = n_images if config.shared_timestep else self.n_joint_views(n_views)
            return draw_timesteps(low, high, n_images // joint, joint, n_train, self.generator)
        if config.timesteps == "descend":
            low, high = config.t_min(1.0), config.t_max(0.0)
            return descend_timesteps(low, high, fraction, n_images, n_train)
        raise ConfigError(
            f"prior.timesteps must be 'uniform' or 'descend', got {config.timesteps!r}."
        )

    def prepare_attention(self, n_views: int) -> None:
        """Make a multi-view network attend over groups of `n_views` views, or over each view alone."""
        self.denoiser.join_views(self.n_joint_views(n_views))

    def n_joint_views(self, n_views: int) -> int:
        """Return how many adjacent views the network denoises together, of groups of `n_views`: all or 1."""
        return n_views if self.joins_views else 1


def _split(batch: Candidate, size: int) -> list[Candidate]:
    """Return the candidates of `size` images each that are joined in a batch."""
    columns = (
        tensor.split(size) for tensor in (batch.residual, batch.unguided_residual, batch.clean)
    )
    return [Candidate(*tensors) for tensors in zip(*columns, strict=True)]
