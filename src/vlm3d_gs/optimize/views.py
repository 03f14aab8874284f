"""Which views a step renders: cameras within what every due guidance can judge, and colours behind the scene."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm3d_gs.config import CameraConfig
from vlm3d_gs.core.cameras import CameraRanges, Cameras, sample_view_groups
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.optimize.guidance import Guidance, Progress, common_azimuths

FIXED_BACKGROUNDS = {"white": 1.0, "grey": 0.5, "black": 0.0}
GREY_SHARE = 0.3
"""Of random backgrounds that are a grey; the others are any colour."""


def draw_cameras(
    config: CameraConfig, due: Sequence[Guidance], progress: Progress, generator: torch.Generator
) -> Cameras:
    """Draw the view groups of a step, within what all its guidances can judge.

    Args:
        config: ranges, groups and resolution.
        due: guidances that will see the views.
        progress: of the run.
        generator: source of the places, on the CPU.

    Raises:
        ConfigError: no azimuth suits the config and all guidances.
    """
    azimuths = config.azimuth_offset_deg
    for guidance in due:
        azimuths = common_azimuths(azimuths, guidance.azimuth_range_deg(progress))

    side = round(config.resolution_px(progress.fraction))
    ranges = CameraRanges(
        azimuths, config.elevation_deg, config.distance, config.fov_deg, side, side
    )
    return sample_view_groups(config.n_groups, config.n_views, generator, ranges)


def draw_backgrounds(config: CameraConfig, fraction: float, generator: torch.Generator) -> Tensor:
    """Return [C, 3] background colours, one a group; random ones are any colour, or in 3 of 10 a grey."""
    kind = config.background
    if kind == "random" and fraction < config.random_from:
        kind = "grey"

    if kind in FIXED_BACKGROUNDS:
        colors = torch.full((config.n_groups, 3), FIXED_BACKGROUNDS[kind])
    elif kind == "random":
        draws = torch.rand(config.n_groups, 4, generator=generator)
        colors = torch.where(draws[:, 3:] < GREY_SHARE, draws[:, :1], draws[:, :3])
    else:
        raise ConfigError(f"camera.background must be random, white, grey or black, got {kind!r}.")

    return colors.repeat_interleave(config.n_views, 0)
