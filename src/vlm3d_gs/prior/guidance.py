"""Score distillation with one diffusion or flow model, as a `Guidance`.

A step: encode the renders, draw noise levels, and hand `losses` a predictor, the denoiser under this prior's texts
(view prompts, Perp-Neg), cameras and guidance scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlm3d_gs.config import PriorConfig
from vlm3d_gs.core.cameras import Cameras, mvdream_camera_matrices
from vlm3d_gs.core.errors import ConfigError, ShapeError
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views, color_gradient
from vlm3d_gs.prior.denoiser import (
    Denoiser,
    TextEmbedding,
    encode_images,
    require_multiview,
    resized,
    run_branches,
)
from vlm3d_gs.prior.losses import DistillationStep, loss_named, reconstruction_target, target_loss
from vlm3d_gs.prior.multiview import join_views
from vlm3d_gs.prior.noise import add_noise
from vlm3d_gs.prior.perp_neg import perp_neg_guidance, perp_neg_weights
from vlm3d_gs.prior.prediction import (
    Prediction,
    Predictor,
    as_prediction,
    classifier_free_guidance,
)
from vlm3d_gs.prior.timesteps import descend_timesteps, draw_timesteps
from vlm3d_gs.prior.view_prompts import mix_texts, view_weights

if TYPE_CHECKING:
    from vlm3d_gs.prior.lora import ScoreAdapter

MULTIVIEW_FAMILIES = ("mini", "mvdream")
NEGATIVE, PROMPT = 0, 1
"""Rows of a prior's texts: the negative prompt, then the prompt, or its versions for `view_prompts.VIEWS`."""


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
            texts: the embedded negative prompt, then the prompt, or its front, side, back and overhead versions.
            config: loss, guidance scale, noise levels.
            generator: source of noise and timesteps, on the CPU.
            adapter: the LoRA of `vsd`, None for the other losses.

        Raises:
            ConfigError: the network knows no cameras, but the config's family does; the loss is unknown, or trains a
                LoRA and there is none.
        """
        self.name, self.denoiser, self.texts, self.config = name, denoiser, texts, config
        self.generator, self.adapter = generator, adapter
        self.loss = loss_named(config.loss)
        if self.loss.trains_lora and adapter is None:
            raise ConfigError(
                f"prior.loss {config.loss!r} trains a LoRA, but got no adapter. "
                "Build the prior by assembly.objective.build_prior."
            )

        self.joins_views = config.family in MULTIVIEW_FAMILIES and config.use_cameras
        if self.joins_views:
            require_multiview(denoiser)

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

        noise = self.draw_noise(latents)
        step = self._step(
            latents.detach(), timesteps, noise, views.cameras, views.n_views, fraction
        )
        loss = target_loss(latents, self.loss.target(step))

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
        noises = [self.draw_noise(latents) for _ in range(count)]
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
        """Return the denoiser as a function of noisy latents [B, C, h, w] and timesteps [B] alone.

        Texts, cameras and guidance scale are those of this prior, of B cameras, and of the fraction of the run. At a
        scale of exactly 1 guidance changes nothing, so for losses that do not read the unconditional prediction the
        network is run with the prompt only, at half the cost; the unconditional fields are then those of the prompt.
        """
        n, scale = len(cameras), self.config.guidance_scale(fraction)
        noise_schedule = self.denoiser.noise_schedule
        camera_matrices = self._network_cameras(cameras)
        texts = (self.texts.rows([NEGATIVE] * n), self._prompt_embeddings(cameras))

        # Perp-Neg: only the views that are a negative of some camera cost a branch.
        weights = torch.zeros(n, 0)
        if self.config.perp_neg:
            weights = perp_neg_weights(cameras)
        used = [view for view in range(weights.shape[1]) if bool((weights[:, view] != 0).any())]
        negative_texts = [self.texts.rows([PROMPT + view] * n) for view in used]

        prompt_only = scale == 1.0 and not used and not self.loss.reads_uncond

        def predict(noisy: Tensor, timesteps: Tensor) -> Prediction:
            if prompt_only:
                (text,) = run_branches(self.denoiser, noisy, timesteps, texts[1:], camera_matrices)
                return as_prediction(noise_schedule, noisy, timesteps, text, text, text)

            uncond, text, *negatives = run_branches(
                self.denoiser, noisy, timesteps, (*texts, *negative_texts), camera_matrices
            )
            if negatives:
                used_weights = weights[:, used].to(noisy, non_blocking=True)
                guided = perp_neg_guidance(
                    uncond, text, torch.stack(negatives), used_weights, scale
                )
            else:
                guided = classifier_free_guidance(uncond, text, scale)
            return as_prediction(noise_schedule, noisy, timesteps, guided, text, uncond)

        return predict

    def _predict_uncond(self, noisy: Tensor, timesteps: Tensor, *, cameras: Cameras) -> Prediction:
        """Predict with the negative prompt alone, at half the cost; all fields are those of that prompt."""
        text = self.texts.rows([NEGATIVE] * len(cameras))
        (output,) = run_branches(
            self.denoiser, noisy, timesteps, (text,), self._network_cameras(cameras)
        )
        return as_prediction(self.denoiser.noise_schedule, noisy, timesteps, output, output, output)

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
            uncond_predictor=partial(self._predict_uncond, cameras=cameras),
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
        text, camera_matrices = self._prompt_embeddings(cameras), self._camera_matrices(cameras)
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

    def _draw_timesteps(self, n_images: int, n_views: int, fraction: float) -> Tensor:
        """Return [n_images] int64 timesteps on the CPU, as `prior.timesteps` says."""
        config, n_train = self.config, len(self.denoiser.noise_schedule)
        if config.timesteps == "uniform":
            low, high, joint = (
                config.t_min(fraction),
                config.t_max(fraction),
                self.n_joint_views(n_views),
            )
            return draw_timesteps(low, high, n_images // joint, joint, n_train, self.generator)
        if config.timesteps == "descend":
            low, high = config.t_min(1.0), config.t_max(0.0)
            return descend_timesteps(low, high, fraction, n_images, n_train)
        raise ConfigError(
            f"prior.timesteps must be 'uniform' or 'descend', got {config.timesteps!r}."
        )

    def prepare_attention(self, n_views: int) -> None:
        """Make a multi-view network attend over groups of `n_views` views, or over each view alone."""
        if self.denoiser.is_multiview:
            join_views(self.denoiser.network, self.n_joint_views(n_views))

    def n_joint_views(self, n_views: int) -> int:
        """Return how many adjacent views the network denoises together, of groups of `n_views`: all or 1."""
        return n_views if self.joins_views else 1

    def _prompt_embeddings(self, cameras: Cameras) -> TextEmbedding:
        """Return the prompt's embedding for each camera."""
        if self.config.view_prompts == "off":
            return self.texts.rows([PROMPT] * len(cameras))

        weights = view_weights(cameras, interpolate=self.config.view_prompts == "interpolate")
        view_texts = self.texts.rows(range(PROMPT, len(self.texts)))
        return mix_texts(view_texts, weights.to(view_texts.tokens.device, non_blocking=True))

    def _network_cameras(self, cameras: Cameras) -> Tensor | None:
        """Return the camera condition of the network; None for one that knows no cameras."""
        return self._camera_matrices(cameras) if self.denoiser.is_multiview else None

    def _camera_matrices(self, cameras: Cameras) -> Tensor:
        """Return [B, 16] camera matrices; zeros for a multi-view network that is run without cameras."""
        camera_matrices = mvdream_camera_matrices(cameras).flatten(1).float()
        camera_matrices = camera_matrices.to(self.denoiser.device, non_blocking=True)
        if self.denoiser.is_multiview and not self.joins_views:
            return 0.0 * camera_matrices
        return camera_matrices


def _split(batch: Candidate, size: int) -> list[Candidate]:
    """Return the candidates of `size` images each that are joined in a batch."""
    columns = (
        tensor.split(size) for tensor in (batch.residual, batch.unguided_residual, batch.clean)
    )
    return [Candidate(*tensors) for tensors in zip(*columns, strict=True)]
