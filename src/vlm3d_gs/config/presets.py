"""Presets: functions that return a complete config.

The defaults of the dataclasses are the preset `mini`. A preset names only what differs from them, with the reason or
the experiment in docs/log/.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from vlm3d_gs.config import (
    AugmentConfig,
    CameraConfig,
    Config,
    CriticConfig,
    DensifyConfig,
    ExportConfig,
    OptimConfig,
    PriorConfig,
    RegularizerConfig,
    SceneConfig,
    TrainConfig,
)
from vlm3d_gs.config.critic import FIRST_HALF
from vlm3d_gs.config.schedules import Schedule, constant, exponential, linear
from vlm3d_gs.core.errors import ConfigError

PresetName = Literal[
    "mini",
    "mini-draft",
    "mini-quality",
    "mini-single",
    "mvdream",
    "mvdream-draft",
    "mvdream-quality",
    "sd",
    "sd-draft",
    "sd-quality",
    "sdxl",
    "sdxl-draft",
    "sdxl-quality",
]
PRESETS: tuple[PresetName, ...] = get_args(PresetName)
NEGATIVE_PROMPT = "blurred, noisy, garish colors, flat lighting, misshapen"
"""Typical flaws of distilled scenes in our own words; not tuned."""


def preset(name: str, prompt: str) -> Config:
    """Return the complete config of a preset for a prompt.

    Args:
        name: one of `PRESETS`.
        prompt: what to make.

    Raises:
        ConfigError: unknown preset; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ConfigError(f"Unknown preset {name!r}. Available: {', '.join(PRESETS)}.")
    family, _, variant = name.partition("-")

    families = {"mini": mini, "mvdream": mvdream, "sd": single_image, "sdxl": single_image}
    config = replace(families[family](prompt), preset=name)
    if family == "sdxl":
        config = replace(config, prior=replace(config.prior, family="sdxl"))

    variants = {"draft": draft, "quality": quality, "single": single_views}
    return variants[variant](config) if variant else config


def draft(config: Config) -> Config:
    """Return a config for a first look: a third of the steps, half of the Gaussians; our own choice, not tuned."""
    return replace(
        config,
        train=replace(config.train, steps=config.train.steps // 3),
        scene=replace(config.scene, n_init=config.scene.n_init // 2),
    )


def quality(config: Config) -> Config:
    """Return a config for a final result: three times the steps, twice the Gaussians; our own choice, not tuned."""
    scene = config.scene
    return replace(
        config,
        train=replace(config.train, steps=config.train.steps * 3),
        scene=replace(scene, n_init=scene.n_init * 2, max_gaussians=scene.max_gaussians * 2),
    )


def mini(prompt: str) -> Config:
    """Return the default: the embedded models, any machine, well under a minute on two cores.

    Its values are the defaults of the dataclasses. Cameras are those that the embedded prior was trained with
    (mini/world). The other numbers are from the experiments in docs/log/distillation.md. The guidance scale is 1, since
    the prior follows the prompt by itself; more hollows the sides of cubes and doubles the time. Backgrounds stay grey
    while noise hides them, or grey Gaussians imitate them; coverage, entropy and pruning remove the remaining haze. The
    critic is asked at every second step of the first half, while the layout is settled: at every fourth it did not
    always mirror a wrong pair, and later its answers change little.
    """
    return Config(prompt=prompt)


def single_views(config: Config) -> Config:
    """Return the config of `mini` with a prior that draws one picture at a time and is given no camera.

    Such a prior knows no space, and neither does Stable Diffusion: relations in the prompt are left to the critic until
    the end of the run, or the prior removes the second of two objects again. The numbers are from experiments on
    prompts that are in no table (docs/log/critic.md).
    """
    prior = replace(config.prior, use_cameras=False, guidance_scale=constant(2.0), rescale=0.5)
    critic = replace(config.critic, select_until=0.6, weight=linear(0.5, 0.3))
    return replace(config, prior=prior, critic=critic)


def mvdream(prompt: str) -> Config:
    """Return the preset for MVDream: no faces on every side, 256 px, 3.6 GB of GPU memory as measured on an H100.

    From threestudio's MVDream configuration: x0-reconstruction, guidance 50, rescale 0.5, noise levels from 0.98 down
    to [0.02, 0.5], elevation 0 to 30 degrees, four views of 256 px. Users found MVDream poor with a few thousand
    Gaussians, so it starts with 20,000. The critic is off until one is named (`--critic qwen2.5-vl-7b`), and is then
    asked as in `mini`, whose prior also draws the views together. Run on a GPU with random weights only
    (docs/log/large-models.md).
    """
    large = large_models(prompt)
    return replace(
        large,
        scene=SceneConfig(n_init=20_000, max_gaussians=100_000),
        camera=CameraConfig(
            distance=(3.0, 3.2),
            fov_deg=(38.0, 45.0),
            resolution_px=constant(256),
            random_from=0.0,
        ),
        prior=PriorConfig(
            family="mvdream",
            loss="recon",
            guidance_scale=constant(50.0),
            rescale=0.5,
            t_max=linear(0.98, 0.5),
            t_min=linear(0.98, 0.02),
            negative_prompt=NEGATIVE_PROMPT,
            size_px=256,
        ),
        critic=replace(large.critic, n_noises=3, weight=FIRST_HALF),
        train=TrainConfig(steps=1500),
    )


def single_image(prompt: str) -> Config:
    """Return the preset for Stable Diffusion, which draws one picture at a time: detail, at the risk of several faces.

    From LucidDreamer's configuration (ISM, guidance 7.5, noise levels up to 0.5 after a wide start, intervals of about
    a twentieth of the timesteps, weight sqrt((1 - a) / a)) and DreamGaussian's growing resolution. View prompts and
    Perp-Neg work against several faces. SDXL takes the same 512 px, half of what it was trained on, since four pictures
    of 1024 px would fill most cards. Run on a GPU with random weights only (docs/log/large-models.md).
    """
    return replace(
        large_models(prompt),
        scene=SceneConfig(n_init=20_000, max_gaussians=150_000),
        camera=CameraConfig(
            distance=(3.0, 3.2),
            fov_deg=(38.0, 45.0),
            elevation_deg=(-10.0, 60.0),
            resolution_px=Schedule("piecewise", ((0.0, 128.0), (0.3, 256.0), (0.6, 512.0))),
            random_from=0.0,
        ),
        prior=PriorConfig(
            family="sd",
            loss="ism",
            guidance_scale=constant(7.5),
            rescale=0.5,
            weighting="ism",
            t_max=linear(0.98, 0.5, 0.0, 0.3),
            t_min=constant(0.02),
            weight=constant(0.1),
            negative_prompt=NEGATIVE_PROMPT,
            view_prompts="interpolate",
            perp_neg=True,
            size_px=512,
        ),
        train=TrainConfig(steps=2000),
    )


def large_models(prompt: str) -> Config:
    """Return what the presets of large models share: learning rates (DreamGaussian's), clean-up, the critic."""
    return Config(
        prompt=prompt,
        critic=large_critic(),
        densify=DensifyConfig(grow_share=0.1, prune_opacity=0.02),
        optim=OptimConfig(means_lr=exponential(1e-2, 2e-4), sh_lr=constant(1e-2)),
        regularizer=RegularizerConfig(
            alpha_entropy=linear(0.0, 100.0, 0.5, 1.0), coverage=constant(0.0)
        ),
        export=ExportConfig(turntable_px=512),
    )


def large_critic() -> CriticConfig:
    """Return the settings for `--critic qwen2.5-vl-7b` and similar models; off until one is named, since it is large.

    252 px are 81 tokens per view, as in the released VLM3D. Augmentation is on, since a large critic is more easily
    pleased by patterns. Run on a GPU with random weights only (docs/log/large-models.md).
    """
    return CriticConfig(
        enabled=False,
        family="qwen2.5-vl-7b",
        n_noises=4,
        every=4,
        weight=linear(0.3, 0.05),
        size_px=constant(252),
        augment=AugmentConfig(crop=0.1, color=0.1, resolution=0.7),
    )
