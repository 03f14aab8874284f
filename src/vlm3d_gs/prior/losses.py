"""The distillation losses: one function and one row of `LOSSES` each.

Every loss names a target for the latents of the renders; the loss itself is 0.5 |z - sg(target)|^2 / B, summed over the
values of a latent and averaged over the B views, so its gradient is (z - target) / B (`target_loss` has other sums). A
loss that is published as a gradient g(t), such as SDS, has the target z - w(t) g(t)
(`DistillationStep.weighted_target`). docs/PARITY.md holds each against the published codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vlm3d_gs.config import PriorConfig
from vlm3d_gs.config.prior import DistillationLoss
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.prior.inversion import SDI_STEPS, ism_residual, sdi_residual
from vlm3d_gs.prior.noise import NoiseSchedule, add_noise
from vlm3d_gs.prior.prediction import Prediction, Predictor
from vlm3d_gs.prior.timesteps import timestep_weight

ISM_STEPS = 5
"""Inversion steps of ISM's published configuration, for the whole range of timesteps."""


@dataclass(frozen=True)
class DistillationStep:
    """What a loss may read in one step, of B views; nothing is on a graph."""

    config: PriorConfig
    fraction: float
    """Of the run that is done."""
    noise_schedule: NoiseSchedule
    latents: Tensor
    """[B, C, h, w] clean latents of the renders."""
    noise: Tensor
    """[B, C, h, w] standard normal."""
    timesteps: Tensor
    """[B] int64."""
    n_views: int
    """Adjacent views that the network denoises together; 1 for single-image models."""
    predictor: Predictor
    """Guided; at a guidance scale of 1 without its unconditional branch, unless the loss says that it reads it."""
    inversion_predictor: Predictor
    """The text of `inversion_prompt` alone, at half the cost of `predictor`; all its fields are those of that text."""
    lora: Callable[[Tensor], tuple[Tensor, float]] | None = None
    """Noisy latents -> the noise that a LoRA of the renders predicts, which then learns these renders, and the loss of
    that; None where the loss trains no LoRA."""
    scalars: dict[str, float | Tensor] = field(default_factory=dict)
    """For the log; a loss may add to it."""

    @property
    def noisy(self) -> Tensor:
        """[B, C, h, w] the latents with `noise` at `timesteps`."""
        return add_noise(self.noise_schedule, self.latents, self.noise, self.timesteps)

    def weighted_target(self, residual: Tensor, published: str = "sds") -> Tensor:
        """Return z - w(t) residual, the weighted residual clipped to `score_clip`.

        Args:
            residual: [B, C, h, w].
            published: one of `timesteps.WEIGHTINGS`, for a config that names none.

        Source: Hong et al. 2023 (arXiv 2303.15413), score debiasing by dynamic clipping.
        """
        kind = self.config.weighting or published
        weighted = timestep_weight(kind, self.noise_schedule, self.timesteps) * residual

        limit = self.config.score_clip(self.fraction)
        return self.latents - (weighted.clamp(-limit, limit) if limit else weighted)

    def target_of(self, clean: Tensor) -> Tensor:
        """Return the target of a loss that is published as a distance to clean latents [B, C, h, w], without weight."""
        if self.config.weighting is None and not self.config.score_clip(self.fraction):
            return clean
        return self.weighted_target(self.latents - clean, "uniform")

    def guided_noise(self, prediction: Prediction) -> Tensor:
        """Return the guided noise, rescaled as `rescale` says.

        Source: Lin et al. 2023 (arXiv 2305.08891), eq. 14 to 16, on the predicted noise.
        """
        share = self.config.rescale
        if share == 0.0:
            return prediction.noise_pred
        return rescaled(prediction.noise_pred, prediction.noise_pred_text, share, self.n_views)


@dataclass(frozen=True)
class Loss:
    """A row of `LOSSES`."""

    target: Callable[[DistillationStep], Tensor]
    """What the latents are drawn to, [B, C, h, w] without graph."""
    can_rank: bool = False
    """Whether a critic may choose among several noises: the target must follow from one evaluation of the predictor at
    `timesteps`."""
    looks_ahead: bool = False
    """With `can_rank`: whether that evaluation may be the last of several denoising steps, since the target is a clean
    latent."""
    reads_uncond: bool = False
    """Whether the unconditional predictions are read; where not, a guidance scale of 1 costs half."""
    trains_lora: bool = False
    """Whether `DistillationStep.lora` is needed."""


def recon(step: DistillationStep) -> Tensor:
    """x0-reconstruction: the guided and rescaled prediction of the clean latents; docs/PARITY.md.

    Source: Shi et al. 2023 (MVDream, arXiv 2308.16512), section 3.4 and appendix.
    """
    prediction = step.predictor(step.noisy, step.timesteps)
    return step.target_of(reconstruction_target(prediction, step.config.rescale, step.n_views))


def sds(step: DistillationStep) -> Tensor:
    """Score distillation sampling: residual eps_hat - eps; docs/PARITY.md.

    Source: Poole et al. 2022 (DreamFusion, arXiv 2209.14988), eq. 3.
    """
    prediction = step.predictor(step.noisy, step.timesteps)
    return step.weighted_target(step.guided_noise(prediction) - step.noise)


def csd(step: DistillationStep) -> Tensor:
    """Classifier score distillation: residual eps_hat - eps(negative), the part of SDS that is due to guidance.

    docs/PARITY.md. At guidance scale w that is w (eps(y) - eps(negative)); 1 is the published one. Perp-Neg
    changes eps_hat.

    Source: Yu et al. 2023 (arXiv 2310.19415), section 4.
    """
    prediction = step.predictor(step.noisy, step.timesteps)
    return step.weighted_target(step.guided_noise(prediction) - prediction.noise_pred_uncond)


def ism(step: DistillationStep) -> Tensor:
    """Interval score matching: the residual between neighbouring noise levels; `inversion.ism_residual`.

    docs/PARITY.md.
    """
    config, n_train = step.config, len(step.noise_schedule)
    n_steps = ISM_STEPS if config.inversion_steps is None else config.inversion_steps

    def guided(noisy: Tensor, timesteps: Tensor) -> Prediction:
        prediction = step.predictor(noisy, timesteps)
        return replace(prediction, noise_pred=step.guided_noise(prediction))

    residual = ism_residual(
        step.noise_schedule,
        guided,
        step.latents,
        step.noise,
        step.timesteps,
        interval=max(1, round(config.inversion_interval(step.fraction) * n_train)),
        stride=-(-n_train // n_steps) if n_steps else None,
        inverter=step.inversion_predictor,
    )
    return step.weighted_target(residual, "ism")


def sdi(step: DistillationStep) -> Tensor:
    """Score distillation via inversion: the residual of clean latents; `inversion.sdi_residual`.

    docs/PARITY.md.
    """

    def guided(noisy: Tensor, timesteps: Tensor) -> Prediction:
        prediction = step.predictor(noisy, timesteps)
        clean = reconstruction_target(prediction, step.config.rescale, step.n_views)
        return replace(prediction, clean_pred=clean)

    residual = sdi_residual(
        step.noise_schedule,
        guided,
        step.latents,
        torch.zeros_like(step.noise),  # as published: the inversion finds the noise
        step.timesteps,
        n_steps=step.config.inversion_steps or SDI_STEPS,
    )
    return step.weighted_target(residual, "uniform")


def vsd(step: DistillationStep) -> Tensor:
    """Variational score distillation: residual eps_hat(z_t, t, y) - eps_lora(z_t, t, y, camera); docs/PARITY.md.

    SDS with the noise replaced by the prediction of a network that is fitted to the noisy renders of the scene.

    Source: Wang et al. 2023 (ProlificDreamer, arXiv 2305.16213), eq. 9.
    """
    assert step.lora is not None
    noisy = step.noisy
    noise_pred = step.guided_noise(step.predictor(noisy, step.timesteps))
    noise_pred_lora, step.scalars["lora_loss"] = step.lora(noisy)
    return step.weighted_target(noise_pred - noise_pred_lora)


LOSSES: dict[DistillationLoss, Loss] = {
    "recon": Loss(recon, can_rank=True, looks_ahead=True),
    "sds": Loss(sds, can_rank=True),
    "csd": Loss(csd, can_rank=True, reads_uncond=True),
    "ism": Loss(ism, reads_uncond=True),
    "sdi": Loss(sdi, reads_uncond=True),
    "vsd": Loss(vsd, trains_lora=True),
}
"""`prior.loss` -> what it does."""
RANKING_LOSSES = tuple(name for name, loss in LOSSES.items() if loss.can_rank)


def loss_named(name: str) -> Loss:
    """Return a row of `LOSSES`.

    Raises:
        ConfigError: there is none of that name.
    """
    for known, loss in LOSSES.items():
        if known == name:
            return loss
    raise ConfigError(f"Unknown prior.loss {name!r}. Available: {', '.join(LOSSES)}.")


def target_loss(latents: Tensor, target: Tensor, reduction: str = "views") -> Tensor:
    """Return 0.5 |z - sg(target)|^2 / B, with the gradient (z - target) / B.

    Args:
        latents: [B, C, h, w] latents of the renders, on the graph.
        target: [B, C, h, w]; its graph is not followed.
        reduction: what the sum over all values is divided by: `views`, B; `sum`, nothing; `mean`, the number of
            values and B once more.

    Differentiable in `latents` only.
    """
    total = 0.5 * (latents - target.detach()).square().sum()
    if reduction == "views":
        return total / latents.shape[0]
    if reduction == "sum":
        return total
    if reduction == "mean":
        return total / (latents.numel() * latents.shape[0])
    raise ConfigError(f"prior.reduction must be views, sum or mean, got {reduction!r}.")


def residual_loss(latents: Tensor, residual: Tensor, reduction: str = "views") -> Tensor:
    """Return the loss with the gradient residual / B; arguments as in `target_loss`."""
    return target_loss(latents, latents - residual, reduction)


def reconstruction_target(prediction: Prediction, share: float, n_views: int) -> Tensor:
    """Return the guided clean latents, rescaled towards the standard deviation of the unguided ones.

    z0 = share * z0_guided * std(z0_text) / std(z0_guided) + (1 - share) * z0_guided, with the standard deviation over
    all values of a view group: guidance at a high scale oversaturates, and this undoes part of it.

    Args:
        prediction: of G * V views.
        share: 0 returns the guided latents as they are, 1 rescales wholly.
        n_views: V.

    Returns:
        [G * V, C, h, w].

    Source: Lin et al. 2023 (arXiv 2305.08891), section 3.4, on groups as in MVDream.
    """
    return rescaled(prediction.clean_pred, prediction.clean_pred_text, share, n_views)


def rescaled(guided: Tensor, text: Tensor, share: float, n_views: int) -> Tensor:
    """Return guided values [G * V, C, h, w], rescaled by `share` to the standard deviation of `text`, by groups."""
    groups = guided.unflatten(0, (-1, n_views))
    std = groups.std(dim=(1, 2, 3, 4), keepdim=True)
    text_groups = text.unflatten(0, (-1, n_views))
    std_text = text_groups.std(dim=(1, 2, 3, 4), keepdim=True)

    scaled = groups * (std_text / std.clamp_min(1e-8))
    return (share * scaled + (1.0 - share) * groups).flatten(0, 1)
