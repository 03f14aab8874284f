"""Recipes: changes to a preset that reproduce a published procedure."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from vlm3d_gs.config import AugmentConfig, Config, QuestionConfig
from vlm3d_gs.config.presets import distilled
from vlm3d_gs.config.prior import MULTIVIEW_FAMILIES
from vlm3d_gs.config.schedules import Schedule, linear, piecewise
from vlm3d_gs.core.errors import ConfigError

RecipeName = Literal["sds", "vlm3d-paper"]
RECIPES: tuple[RecipeName, ...] = get_args(RecipeName)
RELEASED = {
    # weight of the reward over the run, and latent values of one picture, over which the prior's loss is summed
    "mvdream": (((0.0, 300.0), (0.5, 1.0), (0.5001, 0.0), (1.0, 0.0)), 4 * 32 * 32),
    "sd": (((0.0, 90.0), (0.25, 0.0), (1.0, 0.0)), 4 * 64 * 64),
}
"""The released configurations: MVDream's, and Stable Diffusion's."""
LATENTS = {"mini": (12, 4), "sd3": (16, 8)}
"""Channels, and pixels along a cell, of families whose latents are not Stable Diffusion's (4, 8)."""


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

    A single question about content and geometry at every step, pictures first and without names; the raw difference of
    the logits of the words "Yes" and "No". With a multi-view prior the weight falls from 300 to 1 over the first half
    of the run and is zero afterwards; with a prior that draws one picture at a time, from 90 to 0 over the first
    quarter. It is scaled by the size of the prior's latents, over which the distillation loss is summed, and by
    `prior.weight` at the start. MVDream's noise levels reach their end at 40 % of the run, and eight views a step are
    asked about in one message for a quarter of it.

    The wording of the question is ours; `critic.questions.joint_text` takes another. The embedded critic keeps the
    names of the views, without which it was not trained. docs/PARITY.md has what else differs.

    Source: Bai et al. 2025 (VLM3D, arXiv 2509.15772) and the configurations released with it.
    """
    config = distilled(config)
    multiview = config.prior.family in MULTIVIEW_FAMILIES and config.prior.use_cameras
    points, published = RELEASED["mvdream" if multiview else "sd"]
    scale = latent_values(config) / published * config.prior.weight(0.0)
    weight = Schedule("linear", tuple((at, value * scale) for at, value in points))

    if config.prior.family == "mvdream":
        prior = replace(
            config.prior, t_max=linear(0.98, 0.5, 0.0, 0.4), t_min=linear(0.98, 0.02, 0.0, 0.4)
        )
        camera = replace(
            config.camera,
            n_groups=piecewise((0.0, 2.0), (0.25, 1.0)),
            resolution_px=piecewise((0.0, 64.0), (0.25, 256.0)),
        )
        config = replace(config, prior=prior, camera=camera)

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
        together=True,
        view_names=config.critic.view_names if config.critic.family == "mini" else "none",
        questions=QuestionConfig(checks="joint"),
        augment=AugmentConfig(),
    )
    return replace(config, critic=critic)


def latent_values(config: Config) -> int:
    """Return the number of values in the latents of one picture at the end of the run."""
    channels, cell_px = LATENTS.get(config.prior.family, (4, 8))
    side_px = config.prior.size_px or round(config.camera.resolution_px(1.0))
    return channels * (side_px // cell_px) ** 2
