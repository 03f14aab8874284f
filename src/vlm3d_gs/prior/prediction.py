"""Predictions of a diffusion or flow model, and classifier-free guidance.

A network is linear in its guided output: guiding its raw output, the predicted noise or the predicted clean latents
comes to the same, so one formula serves all three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from vlm3d_gs.prior.noise import NoiseSchedule, clean_and_noise


@dataclass(frozen=True)
class Prediction:
    """Predictions for noisy latents; all [B, C, h, w] float32, without graph."""

    clean_pred: Tensor
    """Guided prediction of the clean latents."""
    noise_pred: Tensor
    """Guided prediction of the noise."""
    clean_pred_text: Tensor
    """Prediction of the clean latents with the prompt, unguided."""
    noise_pred_text: Tensor
    """Prediction of the noise with the prompt, unguided."""
    clean_pred_uncond: Tensor
    """Prediction of the clean latents with the negative prompt."""
    noise_pred_uncond: Tensor
    """Prediction of the noise with the negative prompt."""

    @property
    def unguided(self) -> Prediction:
        """The same with the prompt's own prediction in place of the guided one."""
        return replace(self, clean_pred=self.clean_pred_text, noise_pred=self.noise_pred_text)


Predictor = Callable[[Tensor, Tensor], Prediction]
"""Noisy latents [B, C, h, w] and timesteps [B] -> predictions for them."""


def classifier_free_guidance(uncond: Tensor, text: Tensor, guidance_scale: float) -> Tensor:
    """Return uncond + guidance_scale * (text - uncond).

    Args:
        uncond: [B, C, h, w] raw output, noise or clean latents predicted with the negative or empty prompt.
        text: [B, C, h, w] the same quantity with the prompt.
        guidance_scale: 0 is `uncond`, 1 is `text`; negative scales point away from the prompt.

    Differentiable in both.

    Source: Ho and Salimans 2022 (arXiv 2207.12598), eq. 6 with w = guidance_scale - 1.
    """
    return uncond + guidance_scale * (text - uncond)


def with_guidance_scale(prediction: Prediction, guidance_scale: float) -> tuple[Tensor, Tensor]:
    """Return clean latents and noise at a guidance scale other than that of the prediction.

    Args:
        prediction: of a model, all [B, C, h, w].
        guidance_scale: as in `classifier_free_guidance`.

    Returns:
        z_0 and eps, both [B, C, h, w]; they belong to one output of the network.
    """
    return (
        classifier_free_guidance(
            prediction.clean_pred_uncond, prediction.clean_pred_text, guidance_scale
        ),
        classifier_free_guidance(
            prediction.noise_pred_uncond, prediction.noise_pred_text, guidance_scale
        ),
    )


def as_prediction(
    noise_schedule: NoiseSchedule,
    noisy: Tensor,
    timesteps: Tensor,
    guided: Tensor,
    text: Tensor,
    uncond: Tensor,
) -> Prediction:
    """Turn three raw outputs [B, C, h, w] for the same noisy latents into a `Prediction`."""
    clean_and_noise_preds = (
        tensor
        for model_output in (guided, text, uncond)
        for tensor in clean_and_noise(noise_schedule, model_output, noisy, timesteps)
    )
    return Prediction(*clean_and_noise_preds)
