"""Recipes: changes of a preset that reproduce somebody's procedure."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from vlm3d_gs.config import AugmentConfig, Config, QuestionConfig
from vlm3d_gs.config.schedules import Schedule
from vlm3d_gs.core.errors import ConfigError

RecipeName = Literal["vlm3d-paper"]
RECIPES: tuple[RecipeName, ...] = get_args(RecipeName)
PAPER_LATENT_VALUES = 4 * 32 * 32
"""Of one picture in the paper's prior; its weight of the reward stands against a loss that is summed over these."""
LATENT_VALUES = {"mini": 12 * 16 * 16}
"""The same of priors with other latents."""


def apply_recipe(config: Config, name: str | None) -> Config:
    """Return the config as a recipe wants it; None changes nothing.

    Raises:
        ConfigError: unknown name.
    """
    if name is None:
        return config
    if name == "vlm3d-paper":
        return vlm3d_paper(config)
    raise ConfigError(f"Unknown recipe {name!r}. Available: {', '.join(RECIPES)}.")


def vlm3d_paper(config: Config) -> Config:
    """Return the config with the critic of the released VLM3D code.

    One question for content and geometry together, only the words "Yes" and "No", the raw difference of their logits,
    weight 300 falling to 1 over the first half of the run and nothing after, asked at every step. The weight is scaled
    by the size of the prior's latents, over which the distillation loss is summed.

    Source: Bai et al. 2025 (VLM3D, arXiv 2509.15772) and the configuration released with it.
    """
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
