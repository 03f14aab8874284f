"""How the objects of a scene are made: a preset changed for work that is done once for each of them."""

from __future__ import annotations

from dataclasses import replace

from vlm3d_gs.config import Config
from vlm3d_gs.config.presets import STEPS
from vlm3d_gs.config.schedules import constant, exponential, linear

OBJECT_STEPS = 60
"""Steps of each object by the embedded models."""


def for_objects(config: Config) -> Config:
    """Return a preset for the objects of a scene, which are simpler than what a run makes as a whole.

    For the embedded models: six rounds instead of twelve, of one view group instead of two, and no distillation; half
    of the Gaussians, and rates that are twice as high in half of the time. That is 4 CPU seconds an object instead of
    about 40, with fifty network evaluations; seven of seven objects of all shapes were right and clean
    (docs/log/layout.md). The critic neither chooses nor pulls, which cost as much again and mended nothing; it is asked
    about the finished parts. Steps keep their proportion to the preset's, so `mini-draft` and `mini-quality` mean the
    same here. Other priors, recipes and loops are returned as they are.
    """
    prior = config.prior
    if prior.family != "mini" or not prior.use_cameras or config.train.loop != "reconstruct":
        return config

    share = config.train.steps / STEPS["mini"]
    return replace(
        config,
        scene=replace(
            config.scene,
            n_init=config.scene.n_init // 2,
            max_gaussians=config.scene.max_gaussians * 2 // 5,
        ),
        optim=replace(
            config.optim,
            means_lr=exponential(2e-2, 2e-3),
            log_scales_lr=linear(1e-2, 1e-3, 0.5, 1.0),
            quats_lr=linear(1e-2, 1e-3, 0.5, 1.0),
            opacity_logits_lr=linear(1e-1, 1e-2, 0.5, 1.0),
            sh_lr=linear(4e-2, 4e-3, 0.5, 1.0),
        ),
        reconstruct=replace(
            config.reconstruct,
            until=1.0,
            noise_level=linear(1.0, 0.2, 0.0, 0.8),
            chain_steps=constant(2),
            n_groups=constant(1),
            fit_groups=constant(1),
            candidates=constant(1),
            critic_gradient=False,
        ),
        train=replace(config.train, steps=round(OBJECT_STEPS * share), preview_every=0.0),
    )
