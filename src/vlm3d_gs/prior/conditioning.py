"""The texts, cameras and guidance scale under which a denoiser predicts: view prompts, Perp-Neg, camera matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm3d_gs.config import PriorConfig
from vlm3d_gs.config.prior import MULTIVIEW_FAMILIES
from vlm3d_gs.core.cameras import Cameras, mvdream_camera_matrices
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.prior.denoiser import (
    Denoiser,
    TextEmbedding,
    join_texts,
    require_multiview,
    run_branches,
)
from vlm3d_gs.prior.losses import loss_named
from vlm3d_gs.prior.perp_neg import perp_neg_guidance, perp_neg_weights
from vlm3d_gs.prior.prediction import (
    Prediction,
    Predictor,
    as_prediction,
    classifier_free_guidance,
)
from vlm3d_gs.prior.view_prompts import VIEWS, mix_texts, view_texts, view_weights

NEGATIVE, PROMPT = 0, 1
"""Rows of the texts: the negative prompt, then the prompt, or its versions for `view_prompts.VIEWS`."""


def prompt_texts(prompt: str, config: PriorConfig) -> list[str]:
    """Return the texts that a prior must know, in the order that `Conditioning` expects.

    The negative prompt, then the prompt or its front, side, back and overhead versions. A further one follows where a
    loss reads it: the empty text in which ISM inverts, or the prompt without a view for the LoRA of VSD, which is given
    the camera itself.

    Raises:
        PromptError: view prompts of a prompt that contains no word.
    """
    prompts = [prompt]
    if config.view_prompts != "off":
        prompts = list(view_texts(prompt, debias=config.debias_prompt))
    return [config.negative_prompt, *prompts, *_further_texts(prompt, config)]


def _further_texts(prompt: str, config: PriorConfig) -> list[str]:
    if config.loss == "ism" and config.inversion_prompt == "empty" and config.negative_prompt:
        return [""]
    if config.loss == "vsd" and config.view_prompts != "off":
        return [prompt]
    return []


class Conditioning:
    """Turns a denoiser into a function of noisy latents and timesteps alone, for given cameras."""

    def __init__(self, denoiser: Denoiser, texts: TextEmbedding, config: PriorConfig) -> None:
        """Keep what every prediction needs.

        Args:
            denoiser: the model.
            texts: the embedded texts of `prompt_texts`.
            config: family, guidance scale, view prompts and Perp-Neg; the loss decides whether the unconditional branch
                is needed.

        Raises:
            ConfigError: the family of the config knows cameras, but the network does not; a text is missing.
        """
        self.denoiser, self.texts, self.config = denoiser, texts, config
        self.n_prompts = 1 if config.view_prompts == "off" else len(VIEWS)
        self.further = PROMPT + self.n_prompts if _further_texts("prompt", config) else None
        expected = PROMPT + self.n_prompts + (self.further is not None)
        if len(texts) < expected:
            raise ConfigError(
                f"This prior needs {expected} texts or more, got {len(texts)}. Make them by conditioning.prompt_texts."
            )
        self.joins_views = config.family in MULTIVIEW_FAMILIES and config.use_cameras
        if self.joins_views:
            require_multiview(denoiser)

    def predictor(self, cameras: Cameras, fraction: float) -> Predictor:
        """Return the denoiser as a function of noisy latents [B, C, h, w] and timesteps [B] alone.

        The texts are those of these B cameras, the guidance scale is that of the fraction of the run. At a scale of
        exactly 1 guidance changes nothing, so for losses that do not read the unconditional prediction the network is
        run with the prompt only, at half the cost; the unconditional fields are then those of the prompt.
        """
        return joint_predictor([(self, cameras)], fraction)

    def predict_inversion(
        self, noisy: Tensor, timesteps: Tensor, *, cameras: Cameras
    ) -> Prediction:
        """Predict with the text of `inversion_prompt` alone, at half the cost; all fields are those of that text."""
        row = NEGATIVE if self.further is None else self.further
        text = self.texts.rows([row] * len(cameras))
        (output,) = run_branches(
            self.denoiser, noisy, timesteps, (text,), self.network_cameras(cameras)
        )
        return as_prediction(self.denoiser.noise_schedule, noisy, timesteps, output, output, output)

    def prompt_embeddings(self, cameras: Cameras) -> TextEmbedding:
        """Return the prompt's embedding for each camera."""
        if self.config.view_prompts == "off":
            return self.texts.rows([PROMPT] * len(cameras))

        weights = view_weights(cameras, interpolate=self.config.view_prompts == "interpolate")
        prompts = self.texts.rows(range(PROMPT, PROMPT + self.n_prompts))
        return mix_texts(prompts, weights.to(prompts.tokens.device, non_blocking=True))

    def plain_embeddings(self, count: int) -> TextEmbedding:
        """Return the prompt's embedding without any view, `count` times.

        Source: Wang et al. 2023 (ProlificDreamer, arXiv 2305.16213): the network of the renders is given the camera.
        """
        return self.texts.rows([PROMPT if self.further is None else self.further] * count)

    def network_cameras(self, cameras: Cameras) -> Tensor | None:
        """Return the camera condition of the network; None for one that knows no cameras."""
        return self.camera_matrices(cameras) if self.denoiser.is_multiview else None

    def camera_matrices(self, cameras: Cameras) -> Tensor | None:
        """Return [B, 16] camera matrices; for a multi-view network without cameras what it was trained with.

        The embedded prior was trained with zeros in their place, MVDream without an embedding: None.
        """
        alone = self.denoiser.is_multiview and not self.joins_views
        if alone and self.config.family != "mini":
            return None

        camera_matrices = mvdream_camera_matrices(cameras).flatten(1).float()
        camera_matrices = camera_matrices.to(self.denoiser.device, non_blocking=True)
        return 0.0 * camera_matrices if alone else camera_matrices


def joint_predictor(parts: Sequence[tuple[Conditioning, Cameras]], fraction: float) -> Predictor:
    """Return a predictor of several conditionings in one batch: each with its own texts, for its own cameras.

    Args:
        parts: conditionings of one denoiser by equal settings, and their cameras; B cameras in all.
        fraction: of the run.

    Returns:
        As `Conditioning.predictor`, the latents part by part.
    """
    first = parts[0][0]
    denoiser, config, scale = first.denoiser, first.config, first.config.guidance_scale(fraction)
    noise_schedule = denoiser.noise_schedule
    known = [part.network_cameras(cameras) for part, cameras in parts]
    matrices = [one for one in known if one is not None]
    camera_matrices = torch.cat(matrices) if matrices else None
    prompts = join_texts([part.prompt_embeddings(cameras) for part, cameras in parts])

    def everywhere(row: int) -> TextEmbedding:
        return join_texts([part.texts.rows([row] * len(cameras)) for part, cameras in parts])

    # Perp-Neg: only the views that are a negative of some camera cost a branch.
    weights = torch.zeros(len(prompts), 0)
    if config.perp_neg:
        weights = torch.cat([perp_neg_weights(cameras) for _, cameras in parts])
    used = [view for view in range(weights.shape[1]) if bool((weights[:, view] != 0).any())]
    texts = (everywhere(NEGATIVE), prompts, *(everywhere(PROMPT + view) for view in used))

    prompt_only = scale == 1.0 and not used and not loss_named(config.loss).reads_uncond

    def predict(noisy: Tensor, timesteps: Tensor) -> Prediction:
        if prompt_only:
            (text,) = run_branches(denoiser, noisy, timesteps, texts[1:], camera_matrices)
            return as_prediction(noise_schedule, noisy, timesteps, text, text, text)

        uncond, text, *negatives = run_branches(denoiser, noisy, timesteps, texts, camera_matrices)
        if negatives:
            used_weights = weights[:, used].to(noisy, non_blocking=True)
            guided = perp_neg_guidance(uncond, text, torch.stack(negatives), used_weights, scale)
        else:
            guided = classifier_free_guidance(uncond, text, scale)
        return as_prediction(noise_schedule, noisy, timesteps, guided, text, uncond)

    return predict
