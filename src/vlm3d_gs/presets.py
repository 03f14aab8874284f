"""Presets: functions that return a complete config.

Every number that differs from a field's default stands here with its reason or its experiment in
docs/LOG.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from vlm3d_gs.config import (
    CameraConfig,
    Config,
    CriticConfig,
    DensifyConfig,
    PriorConfig,
    RegularizerConfig,
    SceneConfig,
    TrainConfig,
)
from vlm3d_gs.errors import ConfigError
from vlm3d_gs.schedules import Schedule, linear

PresetName = Literal["mini"]
PRESETS: tuple[PresetName, ...] = get_args(PresetName)


def preset(name: str, prompt: str) -> Config:
    """Return the complete config of a preset for a prompt.

    Args:
        name: one of `PRESETS`.
        prompt: what to make.

    Raises:
        ConfigError: unknown preset; the message lists the known ones.
    """
    match name:
        case "mini":
            return mini(prompt)
        case _:
            raise ConfigError(f"Unknown preset {name!r}. Available: {', '.join(PRESETS)}.")


def mini(prompt: str) -> Config:
    """Return the default: the embedded models, any machine, well under a minute on two cores.

    Cameras are those that the embedded prior was trained with (mini.world). The other numbers are from the experiments
    of 2026-11-22 in docs/LOG.md: a low guidance scale and a strong rescale keep colours true; backgrounds stay grey
    while the noise hides them, else grey Gaussians imitate them; coverage, entropy and pruning take away what is left
    of the haze.
    """
    return Config(
        prompt=prompt,
        preset="mini",
        out=run_folder(prompt),
        scene=SceneConfig(n_init=4000),
        camera=CameraConfig(distance=(2.9, 3.2), random_from=0.25),
        prior=PriorConfig(
            guidance_scale=4.0,
            rescale=0.8,
            t_max=Schedule("linear", ((0.0, 0.95), (0.6, 0.5), (1.0, 0.15))),
            t_min=Schedule("linear", ((0.0, 0.85), (0.6, 0.3), (1.0, 0.02))),
        ),
        critic=CriticConfig(weight=linear(0.3, 0.05)),
        densify=DensifyConfig(grow_share=0.15, prune_opacity=0.05),
        regularizer=RegularizerConfig(
            coverage=linear(0.0, 300.0, 0.1, 0.5), alpha_entropy=linear(0.0, 1000.0, 0.5, 1.0)
        ),
        train=TrainConfig(steps=300),
    )


def run_folder(prompt: str) -> Path:
    """Return where a run goes when nobody says: runs/ and the prompt as a file name.

    Example:
        >>> run_folder("A red cube!").as_posix()
        'runs/a-red-cube'
    """
    name = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60].rstrip("-")
    return Path("runs") / (name or "unnamed")
