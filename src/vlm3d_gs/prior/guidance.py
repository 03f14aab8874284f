"""Score distillation with one diffusion or flow model, as a `Guidance`.

A step: encode the renders, draw noise levels, ask the denoiser, and turn what it says into a loss of the latents. What
is asked (view prompts, Perp-Neg, cameras) and which loss is taken are the two branches of this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlm3d_gs.config import PriorConfig
from vlm3d_gs.core.cameras import Cameras, mvdream_camera_matrices
from vlm3d_gs.core.errors import ConfigError, ShapeError
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views, color_gradient
from vlm3d_gs.prior.denoiser import (
    Denoiser,
    Prediction,
    TextEmbedding,
    as_prediction,
    encode_images,
    require_multiview,
    resized,
    run_branches,
)
from vlm3d_gs.prior.distillation import (
    clip_residual,
    csd_residual,
    descend_timesteps,
    draw_timesteps,
    reconstruction_loss,
    rescale_clean,
    residual_loss,
    timestep_weight,
    vsd_residual,
)
from vlm3d_gs.prior.inversion import SDI_STEPS, Predictor, ism_residual, sdi_residual
from vlm3d_gs.prior.multiview import join_views
from vlm3d_gs.prior.noise import add_noise
from vlm3d_gs.prior.perp_neg import combine, perp_neg_weights
from vlm3d_gs.prior.view_prompts import mix_texts, view_weights

if TYPE_CHECKING:
    from vlm3d_gs.prior.lora import ScoreAdapter

MULTIVIEW_FAMILIES = ("mini", "mvdream")
GUIDED_LOSSES = ("recon", "sds", "vsd")
"""Losses that read the guided prediction and never the unconditional one."""
ISM_STEPS = 5
"""Inversion steps of ISM's published configuration, for the whole range of timesteps."""


@dataclass(frozen=True)
class Candidate:
    """Where one noise would lead."""

    residual: Tensor
    """[B, C, h, w]: guided; its negative is the pull on the latents, weighted by the noise level."""
    unguided_residual: Tensor
    """The same from the conditional branch alone."""
    clean: Tensor
    """[B, C, h, w]: the guided clean latents."""


class DiffusionPrior:
    """Pulls the renders towards what a frozen text-to-image or text-to-views model would draw."""

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
        """
        self.name, self.denoiser, self.texts, self.config = name, denoiser, texts, config
        self.generator, self.adapter = generator, adapter
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
        """Put back what `state_tensors` returned."""
        if self.adapter is not None:
            self.adapter.load_state_tensors(tensors)

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        """Return the gradient of the views' distillation loss, weighted by its schedule.

        Raises:
            ShapeError: the number of pictures is no multiple of the group size.
        """
        fraction = progress.fraction
        color = views.color.detach().requires_grad_()
        latents, timesteps = self.begin(color, views, fraction)
        noise = self.draw_noise(latents)
        loss, scalars = self._distill(latents, timesteps, noise, views, fraction)
        scalars |= {"loss": loss.detach(), "t": timesteps.float().mean()}
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
            ShapeError: the number of pictures is no multiple of the group size.
        """
        if len(views.cameras) % views.n_views:
            raise ShapeError(
                f"{len(views.cameras)} pictures do not divide into groups of {views.n_views} views."
            )
        self.prepare_attention(views.n_views)
        latents = encode_images(self.denoiser, resized(color, self.config.size_px))
        timesteps = self._timesteps(len(views.cameras), views.n_views, fraction)
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
        """Draw noises and say where each leads, for the losses `recon` and `sds`.

        The network is asked about all noises in one batch, but for the plan `sequential`.

        Args:
            latents: [B, C, h, w] of the renders.
            timesteps: [B] int64, their noise levels.
            views: the renders.
            fraction: of the run.
            steps: deterministic DDIM steps from there down to a clean picture. One step gives the mean of all pictures
                that the noisy one may be, which at high noise is a blur of every layout; several give one of them. The
                residual of `sds` is that of the first step in any case.
            count: noises.
        """
        noises = [self.draw_noise(latents) for _ in range(count)]
        at_once = 1 if self.denoiser.plan == "sequential" else count
        batches = [torch.cat(noises[k : k + at_once]) for k in range(0, count, at_once)]
        cameras = views.cameras.select(torch.arange(len(latents)).repeat(at_once))
        clean, levels = latents.detach().repeat(at_once, 1, 1, 1), timesteps.repeat(at_once)
        predictor = self.predictor(cameras, fraction)
        group = views.n_views if self.joins_views else 1
        return [
            candidate
            for noise in batches
            for candidate in _split(
                self._follow(clean, levels, noise, predictor, steps, group), len(latents)
            )
        ]

    def _follow(
        self,
        clean: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        predictor: Predictor,
        steps: int,
        group: int,
    ) -> Candidate:
        noise_schedule = self.denoiser.noise_schedule
        noisy = add_noise(noise_schedule, clean, noise, timesteps)
        prediction = first = predictor(noisy, timesteps)
        for left in range(steps - 1, 0, -1):
            lower = timesteps * left // steps
            noisy = add_noise(noise_schedule, prediction.clean_pred, prediction.noise_pred, lower)
            prediction = predictor(noisy, lower)
        target = rescale_clean(
            prediction.clean_pred, prediction.clean_pred_text, self.config.rescale, group
        )
        if self.config.loss == "recon":
            return Candidate(clean - target, clean - prediction.clean_pred_text, target)
        scale = timestep_weight(self.config.weighting, noise_schedule, timesteps)
        return Candidate(
            scale * (first.noise_pred - noise), scale * (first.noise_pred_text - noise), target
        )

    def draw_noise(self, latents: Tensor) -> Tensor:
        """Draw noise on the CPU, so that it is the same for every device."""
        drawn = torch.randn(latents.shape, generator=self.generator)
        return drawn.to(latents.device, non_blocking=True)

    def prepare_attention(self, n_views: int) -> None:
        """Make a multi-view network attend over groups of `n_views`, or over single views where it draws each alone."""
        if self.denoiser.is_multiview:
            join_views(self.denoiser.network, n_views if self.joins_views else 1)

    def _timesteps(self, n_pictures: int, n_views: int, fraction: float) -> Tensor:
        config, n_train = self.config, len(self.denoiser.noise_schedule)
        low, high = config.t_min(fraction), config.t_max(fraction)
        group = n_views if self.joins_views else 1
        if config.timesteps == "uniform":
            return draw_timesteps(low, high, n_pictures // group, group, n_train, self.generator)
        if config.timesteps == "descend":
            return descend_timesteps(
                config.t_min(1.0), config.t_max(0.0), fraction, n_pictures, n_train
            )
        raise ConfigError(
            f"prior.timesteps must be 'uniform' or 'descend', got {config.timesteps!r}."
        )

    def _distill(
        self, latents: Tensor, timesteps: Tensor, noise: Tensor, views: Views, fraction: float
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return the loss of the config, and what it wants logged."""
        noise_schedule, cameras = self.denoiser.noise_schedule, views.cameras
        predictor = self.predictor(cameras, fraction)
        scalars: dict[str, float | Tensor] = {}
        kind = self.config.loss
        clean = latents.detach()
        if kind == "ism":
            residual = self._ism(clean, timesteps, noise, predictor, cameras)
        elif kind == "sdi":
            steps = self.config.inversion_steps or SDI_STEPS
            start = torch.zeros_like(noise)  # as published: the inversion finds the noise
            residual = sdi_residual(
                noise_schedule, predictor, clean, start, timesteps, n_steps=steps
            )
        else:
            noisy = add_noise(noise_schedule, clean, noise, timesteps)
            prediction = predictor(noisy, timesteps)
            if kind == "recon":
                group = views.n_views if self.joins_views else 1
                target = rescale_clean(
                    prediction.clean_pred, prediction.clean_pred_text, self.config.rescale, group
                )
                return reconstruction_loss(latents, target), scalars
            if kind == "sds":
                residual = prediction.noise_pred - noise
            elif kind == "csd":
                residual = csd_residual(prediction.noise_pred_text, prediction.noise_pred_uncond)
            elif kind == "vsd":
                residual, lora_loss = self._variational(
                    clean, noisy, timesteps, prediction.noise_pred, views
                )
                scalars["lora_loss"] = lora_loss
            else:
                raise ConfigError(
                    f"prior.loss must be recon, sds, csd, ism, sdi or vsd, got {kind!r}."
                )
        weighting = "uniform" if kind == "sdi" else self.config.weighting
        residual = timestep_weight(weighting, noise_schedule, timesteps) * residual
        clip = self.config.score_clip(fraction)
        return residual_loss(latents, clip_residual(residual, clip) if clip else residual), scalars

    def _ism(
        self,
        clean: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        predictor: Predictor,
        cameras: Cameras,
    ) -> Tensor:
        """Return the residual between neighbouring noise levels; inversion asks only the unconditional branch."""
        config, n_train = self.config, len(self.denoiser.noise_schedule)
        steps = ISM_STEPS if config.inversion_steps is None else config.inversion_steps
        return ism_residual(
            self.denoiser.noise_schedule,
            predictor,
            clean,
            noise,
            timesteps,
            interval=max(1, round(config.inversion_interval * n_train)),
            stride=-(-n_train // steps) if steps else None,
            inverter=self._uncond_predictor(cameras),
        )

    def _variational(
        self, clean: Tensor, noisy: Tensor, timesteps: Tensor, noise_pred: Tensor, views: Views
    ) -> tuple[Tensor, float]:
        """Return the difference to the LoRA's prediction, and the LoRA's loss of learning the present renders."""
        if self.adapter is None:
            raise ConfigError(
                "prior.loss 'vsd' needs an adapter; build the prior by guidance.build_prior."
            )
        text, camera_matrices = (
            self._prompt_texts(views.cameras),
            self._camera_matrices(views.cameras),
        )
        _, noise_pred_lora = self.adapter.predict_noise(noisy, timesteps, text, camera_matrices)
        lora_loss = self.adapter.train_step(
            clean,
            text,
            camera_matrices,
            self.generator,
            n_views=views.n_views if self.joins_views else 1,
        )
        return vsd_residual(noise_pred, noise_pred_lora), lora_loss

    def _uncond_predictor(self, cameras: Cameras) -> Predictor:
        """Return a predictor of the negative prompt alone, at half the cost."""
        negative = self.texts.rows([0] * len(cameras))
        camera_matrices = self._camera_matrices(cameras) if self.denoiser.is_multiview else None
        noise_schedule = self.denoiser.noise_schedule

        def predict(noisy: Tensor, timesteps: Tensor) -> Prediction:
            (output,) = run_branches(self.denoiser, noisy, timesteps, (negative,), camera_matrices)
            return as_prediction(noise_schedule, noisy, timesteps, output, output, output)

        return predict

    def predictor(self, cameras: Cameras, fraction: float) -> Predictor:
        """Return the denoiser as a function of noisy latents [B, C, h, w] and timesteps [B] alone.

        Texts, cameras and guidance scale are those of this prior, of B cameras, and of the fraction of the run. At a
        scale of exactly 1 guidance changes nothing, so losses that read the guided prediction alone ask the network for
        the prompt only, at half the cost; the unconditional fields are then those of the prompt.
        """
        negative = self.texts.rows([0] * len(cameras))
        prompt = self._prompt_texts(cameras)
        camera_matrices = self._camera_matrices(cameras) if self.denoiser.is_multiview else None
        scale, noise_schedule = self.config.guidance_scale(fraction), self.denoiser.noise_schedule

        negative_weights = (
            perp_neg_weights(cameras) if self.config.perp_neg else torch.zeros(len(cameras), 0)
        )
        used = [
            k for k in range(negative_weights.shape[1]) if bool((negative_weights[:, k] != 0).any())
        ]
        others = [self.texts.rows([1 + k] * len(cameras)) for k in used]
        prompt_alone = scale == 1.0 and not others and self.config.loss in GUIDED_LOSSES

        def predict(noisy: Tensor, timesteps: Tensor) -> Prediction:
            if prompt_alone:
                (text,) = run_branches(self.denoiser, noisy, timesteps, (prompt,), camera_matrices)
                return as_prediction(noise_schedule, noisy, timesteps, text, text, text)
            uncond, text, *negatives = run_branches(
                self.denoiser, noisy, timesteps, (negative, prompt, *others), camera_matrices
            )
            if negatives:
                weights = negative_weights[:, used].to(noisy, non_blocking=True)
                guided = combine(uncond, text, torch.stack(negatives), weights, scale)
            else:
                guided = uncond + scale * (text - uncond)
            return as_prediction(noise_schedule, noisy, timesteps, guided, text, uncond)

        return predict

    def _prompt_texts(self, cameras: Cameras) -> TextEmbedding:
        """Return the prompt's embedding for each camera."""
        if self.config.view_prompts == "off":
            return self.texts.rows([1] * len(cameras))
        weights = view_weights(cameras, interpolate=self.config.view_prompts == "interpolate")
        named = self.texts.rows(range(1, len(self.texts)))
        return mix_texts(named, weights.to(named.tokens.device, non_blocking=True))

    def _camera_matrices(self, cameras: Cameras) -> Tensor:
        """Return [B, 16] camera matrices; zeros for a multi-view network that is run without cameras."""
        camera_matrices = mvdream_camera_matrices(cameras).flatten(1).float()
        camera_matrices = camera_matrices.to(self.denoiser.device, non_blocking=True)
        return (
            camera_matrices
            if self.joins_views or not self.denoiser.is_multiview
            else 0.0 * camera_matrices
        )


def _split(joined: Candidate, size: int) -> list[Candidate]:
    """Return the candidates of `size` pictures each that make up one of more."""
    parts = (
        tensor.split(size) for tensor in (joined.residual, joined.unguided_residual, joined.clean)
    )
    return [Candidate(*tensors) for tensors in zip(*parts, strict=True)]
