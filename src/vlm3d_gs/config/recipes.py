"""Recipes: changes to a preset that reproduce a published procedure."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from vlm3d_gs.config import AugmentConfig, Config, QuestionConfig
from vlm3d_gs.config.presets import distilled
from vlm3d_gs.config.schedules import Schedule
from vlm3d_gs.core.errors import ConfigError

RecipeName = Literal["sds", "vlm3d-paper"]
RECIPES: tuple[RecipeName, ...] = get_args(RecipeName)
PAPER_LATENT_VALUES = 4 * 32 * 32
"""Latent values of one picture in the paper's prior, over which its distillation loss is summed."""
LATENT_VALUES = {"mini": 12 * 16 * 16}
"""The same of priors with latents of another size."""


def apply_recipe(config: Config, name: str | None) -> Config:
    """Return the config changed by a recipe; None changes nothing.

    Raises:
        ConfigError: unknown name.
    """
    if name is None:
        return config
    if name == "sds":
        return distilled(config)
    if name == "vlm3d-paper":
        return vlm3d_paper(config)
    raise ConfigError(f"Unknown recipe {name!r}. Available: {', '.join(RECIPES)}.")


def vlm3d_paper(config: Config) -> Config:
    """Return the config as a run of distillation throughout, with the critic of the released VLM3D code.

    A single question about content and geometry at every step; the raw difference of the logits of the words "Yes" and
    "No"; a weight that falls from 300 to 1 over the first half of the run and is zero afterwards. The weight is scaled
    by the size of the prior's latents, since the distillation loss is summed over them.

    Source: Bai et al. 2025 (VLM3D, arXiv 2509.15772) and the configuration released with it.
    """
    config = distilled(config)
    scale = LATENT_VALUES.get(config.prior.family, PAPER_LATENT_VALUES) / PAPER_LATENT_VALUES
    weight = Schedule(
        "linear", ((0.0, 300.0 * scale), (0.5, 1.0 * scale), (0.5001, 0.0), (1.0, 0.0))
    )

    critic = replace(
        config.critic,
        enabled=True,
        mode="gradient",
        every=1,
        reuse=False,
        weight=weight,
        balance="raw",
        reward="logit",
        clip=0.0,
        layout="images",
        questions=QuestionConfig(checks="joint"),
        augment=AugmentConfig(),
    )
    return replace(config, critic=critic)
