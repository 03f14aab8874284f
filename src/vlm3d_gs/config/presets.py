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
    Family,
    OptimConfig,
    PriorConfig,
    ReconstructConfig,
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
    "sd3",
    "sd3-draft",
    "sd3-quality",
]
PRESETS: tuple[PresetName, ...] = get_args(PresetName)
NEGATIVE_PROMPT = "blurred, noisy, garish colors, flat lighting, misshapen"
"""Typical flaws of distilled scenes in our own words; not tuned."""

STEPS = {"mini": TrainConfig().steps, "mvdream": 540}
"""Of the presets that reconstruct."""
OTHER_NETWORKS: dict[str, Family] = {"sdxl": "sdxl", "sd3": "sd3"}
"""Presets that are `sd` with another network."""
CONSTANT_RATES = OptimConfig(
    log_scales_lr=constant(5e-3),
    quats_lr=constant(5e-3),
    opacity_logits_lr=constant(5e-2),
    sh_lr=constant(2e-2),
)
"""Learning rates that do not fall, DreamGaussian's."""
LARGE_REGULARIZER = RegularizerConfig(
    alpha_entropy=linear(0.0, 100.0, 0.5, 1.0), coverage=constant(0.0), roughness=constant(0.0)
)


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

    families = {"mini": mini, "mvdream": mvdream, "sd": single_image}
    config = replace(families.get(family, single_image)(prompt), preset=name)
    if family in OTHER_NETWORKS:
        config = replace(config, prior=replace(config.prior, family=OTHER_NETWORKS[family]))

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
    """Return the default: the embedded models, any machine, seconds on two cores.

    Its values are the defaults of the dataclasses. Cameras are those that the embedded prior was trained with
    (mini/world). Twelve rounds of targets and ten fits each, a thirteenth for what follows, then steps that alternate
    between distillation with the reward and fits; the numbers are from the experiments in docs/log/reconstruction.md.
    The guidance scale is 1, since the prior follows the prompt by itself; more hollows the sides of cubes and doubles
    the time.
    """
    return Config(prompt=prompt)


def single_views(config: Config) -> Config:
    """Return the config of `mini` with a prior that draws one picture at a time and is given no camera.

    Such a prior knows no space, and neither does Stable Diffusion: relations in the prompt are left to the critic until
    the end of the run, or the prior removes the second of two objects again. Whole pictures that are drawn one by one
    disagree, and fitting averages them, so this mode distils throughout. The numbers are from experiments on prompts
    that are in no table (docs/log/critic.md).
    """
    config = distilled(config)
    prior = replace(config.prior, use_cameras=False, guidance_scale=constant(2.0), rescale=0.5)
    critic = replace(config.critic, select_until=0.6, weight=linear(0.5, 0.3))
    return replace(config, prior=prior, critic=critic)


def distilled(config: Config) -> Config:
    """Return the config as a run that distils throughout, as all did up to version 0.1; recipe `sds`.

    For the embedded models these are the numbers of the experiments in docs/log/distillation.md: backgrounds stay grey
    while noise hides them, or grey Gaussians imitate them; the critic is asked at every second step of the first half,
    while the layout is settled. For MVDream they are threestudio's: x0-reconstruction with guidance 50 and noise levels
    from 0.98 down to [0.02, 0.5] at 80 % of the run, its cameras (elevations mostly below 20 degrees, half-extents from
    0.8 to 1 of the object's, fields of view from 15 to 60 degrees) and latents drawn from the encoder's distribution
    (docs/PARITY.md). Presets that distil anyway are returned as they are.
    """
    if config.train.loop == "distill":
        return config

    family = config.prior.family
    steps = {"mini": 300, "mvdream": 1500}[family] * config.train.steps / STEPS[family]
    config = replace(config, train=replace(config.train, loop="distill", steps=round(steps)))
    critic = replace(config.critic, every=2, reuse=False, weight=FIRST_HALF)
    if family == "mvdream":
        prior = replace(
            config.prior,
            guidance_scale=constant(50.0),
            t_max=linear(0.98, 0.5, 0.0, 0.8),
            t_min=linear(0.98, 0.02, 0.0, 0.8),
            sample_latents=True,
            shared_timestep=True,
        )
        camera = replace(
            config.camera, fov_deg=(15.0, 60.0), half_extent=(0.8, 1.0), elevation_draw="mixed"
        )
        config = replace(config, camera=camera)
        critic = replace(critic, every=4)
        return replace(config, prior=prior, critic=critic, regularizer=LARGE_REGULARIZER)

    scene = replace(config.scene, max_gaussians=2 * config.scene.max_gaussians)
    return replace(
        config,
        scene=scene,
        camera=replace(config.camera, random_from=0.25),
        critic=critic,
        densify=replace(config.densify, start=0.1, stop=0.7, part_share=0.0),
        optim=CONSTANT_RATES,
        regularizer=replace(
            config.regularizer,
            alpha_entropy=linear(0.0, 1000.0, 0.5, 1.0),
            roughness=constant(0.0),
        ),
    )


def mvdream(prompt: str) -> Config:
    """Return the preset for MVDream: no faces on every side, 256 px, 3.6 GB of GPU memory as measured on an H100.

    Reconstruction with MicroDreamer's numbers (arXiv 2404.19525, its configuration for ImageDream): the first pictures
    from pure noise and fitted longest, then noise levels from 0.8 to 0.4, about thirty targets of four views, ten
    denoising steps for the whole schedule, fifteen steps of L1 each. Guidance is 3 in chains, where 50 would
    oversaturate what a single step of distillation needs it for, and 7.5 in the steps of distillation that end the run,
    with no fits between them, as nothing was measured there. Users found MVDream poor with a few thousand Gaussians, so
    it starts with 20,000. The critic is off until one is named (`--critic qwen2.5-vl-7b`). Run on a GPU with random
    weights only, by a sketch of this loop and by the former procedure, `--recipe sds` (docs/log/large-models.md).
    """
    large = large_models(prompt)
    return replace(
        large,
        scene=SceneConfig(n_init=20_000, max_gaussians=100_000),
        camera=CameraConfig(distance=(3.0, 3.2), fov_deg=(38.0, 45.0), resolution_px=constant(256)),
        prior=PriorConfig(
            family="mvdream",
            loss="recon",
            guidance_scale=Schedule("piecewise", ((0.0, 3.0), (0.9, 7.5))),
            rescale=0.5,
            t_max=constant(0.3),
            t_min=constant(0.02),
            negative_prompt=NEGATIVE_PROMPT,
            size_px=256,
        ),
        critic=replace(large.critic, n_noises=3, every=15, reuse=True, weight=linear(0.3, 0.1)),
        regularizer=replace(
            LARGE_REGULARIZER, roughness=Schedule("piecewise", ((0.0, 0.0), (0.3, 0.5)))
        ),
        reconstruct=ReconstructConfig(
            until=0.9,
            noise_level=Schedule("linear", ((0.0, 1.0), (0.02, 0.8), (0.9, 0.4))),
            first_chain_steps=10,
            chain_steps=linear(8.0, 4.0, 0.0, 0.9),
            n_groups=constant(1),
            fit_steps=Schedule("piecewise", ((0.0, 50.0), (0.02, 15.0))),
            fits_between=0,
            squared=0.0,
            absolute=1.0,
        ),
        train=TrainConfig(steps=STEPS["mvdream"]),
    )


def single_image(prompt: str) -> Config:
    """Return the preset for Stable Diffusion, which draws one picture at a time: detail, at the risk of several faces.

    The loss is LucidDreamer's: ISM with guidance 7.5, noise levels up to 0.5 after a wide start, intervals from 100 to
    80 timesteps, weight sqrt((1 - a) / a), 0.1 of the sum over all views, one timestep for all of them, offset noise,
    latents drawn from the encoder's distribution, inversion under the empty prompt (docs/PARITY.md). Cameras,
    densification and the growing resolution are not; the last is DreamGaussian's. View prompts and Perp-Neg work
    against several faces. SDXL and SD3 take the same 512 px, half of what they were trained on, since four pictures of
    1024 px would fill most cards. ISM has no noises to choose among, so the critic gives a gradient only. Run on a GPU
    with random weights only (docs/log/large-models.md).
    """
    large = large_models(prompt)
    return replace(
        large,
        critic=replace(large.critic, mode="gradient"),
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
            weighting="ism",
            reduction="sum",
            t_max=linear(0.98, 0.5, 0.0, 0.3),
            t_min=constant(0.02),
            offset_noise=0.1,
            shared_timestep=True,
            sample_latents=True,
            weight=constant(0.1),
            negative_prompt=NEGATIVE_PROMPT,
            view_prompts="interpolate",
            perp_neg=True,
            size_px=512,
        ),
        train=TrainConfig(loop="distill", steps=2000),
    )


def large_models(prompt: str) -> Config:
    """Return what the presets of large models share: learning rates and Adam's decays (DreamGaussian's), the critic.

    Clean-up is ours. Growing comes before pruning, as in gsplat.
    """
    return Config(
        prompt=prompt,
        critic=large_critic(),
        densify=DensifyConfig(
            start=0.1,
            stop=0.7,
            grow_share=0.1,
            prune_opacity=0.02,
            part_share=0.0,
            prune="after",
        ),
        optim=replace(
            CONSTANT_RATES, means_lr=exponential(1e-2, 2e-4), sh_lr=constant(1e-2), beta2=0.999
        ),
        regularizer=LARGE_REGULARIZER,
        export=ExportConfig(turntable_px=512),
    )


def large_critic() -> CriticConfig:
    """Return the settings for `--critic qwen2.5-vl-7b` and similar models; off until one is named, since it is large.

    252 px are 81 tokens per view, as in the released VLM3D. Augmentation is on, since a large critic is more easily
    pleased by patterns. Views have the names of eight directions, so that the prior's cameras stay free; how well each
    kind of names is answered was not measured with a large model. Run on a GPU with random weights only
    (docs/log/large-models.md).
    """
    return CriticConfig(
        enabled=False,
        family="qwen2.5-vl-7b",
        n_noises=4,
        view_names="eight",
        every=4,
        reuse=False,
        weight=linear(0.3, 0.05),
        size_px=constant(252),
        augment=AugmentConfig(crop=0.1, color=0.1, resolution=0.7),
    )
