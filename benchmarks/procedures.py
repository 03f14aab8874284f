"""What `bench_large` times and `count_asset` counts: our presets, and the procedures of others as configs of ours.

A procedure is restated with its views, resolutions, loss, guidance scale and number of steps, on the same renderer and
the same networks; rivals.md names the source of each number. The scene is Gaussians, whatever the original's is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.recipes import apply_recipe
from vlm3d_gs.config.schedules import Schedule, linear

PROMPT = "a corgi wearing a top hat to the left of a red toy robot"
SEVEN, THREE = "qwen2.5-vl-7b", "qwen2.5-vl-3b"


@dataclass(frozen=True)
class Procedure:
    """One row."""

    name: str
    config: Callable[[], Config]
    """Builds the config of the whole run, without what depends on the machine."""
    critic: str | None = None
    """Name of the critic's weights in `random_models.CRITICS`."""
    released: float = 0.0
    """Above 0: not the config's critic runs but the released VLM3D's, in this first fraction of the row's steps."""
    share: float = 1.0
    """Fraction of the procedure's steps that this row covers, if the procedure has stages."""


def ours(
    name: str, *, critic: bool = False, recipe: str | None = None, **settings: Any
) -> Callable[[], Config]:
    """Return a builder of a preset's config, with or without critic; two underscores stand for a setting's dot."""
    values = {key.replace("__", "."): value for key, value in settings.items()}
    return lambda: apply_settings(
        apply_recipe(preset(name, PROMPT), recipe), {"critic.enabled": critic, **values}
    )


def paper_recipe() -> Config:
    """Return our MVDream preset with our critic in the settings of the released VLM3D."""
    return apply_recipe(preset("mvdream", PROMPT), "vlm3d-paper")


def threestudio_mvdream(side_px: int, groups: int, steps: int) -> Callable[[], Config]:
    """Return a builder of one stage of threestudio's MVDream recipe, which the released VLM3D uses too."""
    return ours(
        "mvdream",
        recipe="sds",
        camera__resolution_px=side_px,
        camera__n_groups=groups,
        prior__graphs=False,
        train__steps=steps,
    )


def dreamgaussian(name: str, views: int) -> Callable[[], Config]:
    """Return a builder of DreamGaussian's first stage: 500 steps of SDS, growing pictures, falling noise."""
    growing = Schedule("piecewise", ((0.0, 128.0), (0.3, 256.0), (0.6, 512.0)))
    falling = linear(0.98, 0.02)
    return ours(
        name,
        recipe="sds",
        scene__n_init=5000,
        camera__n_views=views,
        camera__resolution_px=growing,
        prior__loss="sds",
        prior__guidance_scale=100.0,
        prior__t_max=falling,
        prior__t_min=falling,
        prior__view_prompts="off",
        prior__perp_neg=False,
        prior__graphs=False,
        train__steps=500,
    )


PROCEDURES = (
    Procedure("mvdream", ours("mvdream")),
    Procedure("mvdream + 7B", ours("mvdream", critic=True), SEVEN),
    Procedure("mvdream by distillation", ours("mvdream", recipe="sds")),
    Procedure("mvdream + 7B by distillation", ours("mvdream", critic=True, recipe="sds"), SEVEN),
    Procedure("VLM3D, 4 views of 256 px", threestudio_mvdream(256, 1, 20_000), SEVEN, 1 / 3, 0.75),
    Procedure("DreamGaussian, SD 2.1", dreamgaussian("sd", 1)),
    Procedure("sd", ours("sd")),
    Procedure("mvdream + 3B", ours("mvdream", critic=True), THREE),
    Procedure(
        "mvdream + 7B, nothing recorded",
        ours("mvdream", critic=True, critic__graphs=False, prior__graphs=False),
        SEVEN,
    ),
    Procedure("mvdream compiled", ours("mvdream", prior__compile=True)),
    Procedure("mvdream, channels last", ours("mvdream", prior__channels_last=True)),
    Procedure("VLM3D, 8 views of 64 px", threestudio_mvdream(64, 2, 20_000), SEVEN, 1.0, 0.25),
    Procedure("mvdream + 7B, recipe of VLM3D", paper_recipe, SEVEN),
    Procedure("DreamGaussian, MVDream", dreamgaussian("mvdream", 4)),
    Procedure(
        "threestudio MVDream, 8 views of 64 px", threestudio_mvdream(64, 2, 10_000), share=0.5
    ),
    Procedure(
        "threestudio MVDream, 4 views of 256 px", threestudio_mvdream(256, 1, 10_000), share=0.5
    ),
)
"""The most informative first, since time may run out."""


MICRODREAMER_GRID = tuple(range(1, 1000, 100))
"""Timesteps of its ten denoising steps for the whole range of noise."""


def microdreamer_rounds() -> list[tuple[int, int]]:
    """Return how often MicroDreamer asks its prior in each of its rounds: on the way up in noise, and down again.

    The splat of its configuration for ImageDream: 31 targets, the first from pure noise, the others from renders. Those
    get noise up to 0.6 of the round's level, are led up to it without the prompt, and down with guidance. The released
    code computes both branches on both ways. Its loop is not ours, so this is arithmetic, and not a config.

    Source: Chen et al. 2024 (arXiv 2404.19525), `configs/imagedream.yaml`, `main.py` and `guidance/imagedream_utils.py`
    of the released code.
    """
    steps = len(MICRODREAMER_GRID)
    first, last, rounds = steps * (1 - 0.8), steps * (1 - 0.4), 30

    asked = [(0, steps)]
    for number in range(rounds):
        level = MICRODREAMER_GRID[::-1][int(number / rounds * (last - first) + first)]
        noised = MICRODREAMER_GRID[int(level / 1000 * steps * 0.6)]
        up = sum(noised < timestep <= level for timestep in MICRODREAMER_GRID)
        asked.append((up, sum(timestep <= level for timestep in MICRODREAMER_GRID)))
    return asked
