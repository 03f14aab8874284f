"""Which views a step renders: cameras within what every due guidance can judge, and colours behind the scene."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm3d_gs.config import CameraConfig
from vlm3d_gs.core.cameras import CameraRanges, Cameras, orbit, sample_view_groups
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
        azimuths,
        config.elevation_deg,
        config.distance,
        config.fov_deg,
        side,
        side,
        config.half_extent,
        config.elevation_draw == "mixed",
    )
    n_groups = round(config.n_groups(progress.fraction))
    return sample_view_groups(n_groups, config.n_views, generator, ranges)


def draw_even_cameras(
    config: CameraConfig,
    n_groups: int,
    ranges: Sequence[tuple[float, float] | None],
    progress: Progress,
    generator: torch.Generator,
) -> Cameras:
    """Draw view groups that share the angles between them evenly, from a random start.

    Args:
        config: ranges of angles and distances, views a group, resolution.
        n_groups: G.
        ranges: azimuth offsets in degrees at which somebody can judge the first group; None is any.
        progress: of the run.
        generator: source of the places, on the CPU.

    Returns:
        G * V cameras. The first group lies within all ranges; the others follow at equal angles up to its next view, or
        within the config's own range where that is narrower. Elevations are spread likewise, in random order.

    Raises:
        ConfigError: no azimuth suits the config and all ranges.
    """
    judged = config.azimuth_offset_deg
    for other in ranges:
        judged = common_azimuths(judged, other)

    draws = torch.rand(n_groups, 4, generator=generator, dtype=torch.float64)
    order = torch.randperm(n_groups, generator=generator)
    step = 360.0 / config.n_views
    apart = step * torch.arange(n_groups) / n_groups
    first = judged[0] + draws[0, 0] * (judged[1] - judged[0])
    low, high = config.azimuth_offset_deg
    if high == low:  # one azimuth for all groups
        apart = torch.zeros_like(apart)
    elif high - low < step:
        apart = (first - low + apart * (high - low) / step) % (high - low) + low - first
    offsets = first + apart

    low, high = config.elevation_deg
    elevations = low + (high - low) * (order + draws[:, 1]) / n_groups
    fovs = config.fov_deg[0] + (config.fov_deg[1] - config.fov_deg[0]) * draws[:, 3]
    distances = config.distance[0] + (config.distance[1] - config.distance[0]) * draws[:, 2]
    if config.half_extent is not None:
        extents = (
            config.half_extent[0] + (config.half_extent[1] - config.half_extent[0]) * draws[:, 2]
        )
        distances = extents / torch.tan(0.5 * torch.deg2rad(fovs))

    side = round(config.resolution_px(progress.fraction))
    views = torch.arange(config.n_views, dtype=torch.float64) * step
    around = (offsets[:, None] + views).flatten() % 360.0
    elevations, distances, fovs = (
        column.repeat_interleave(config.n_views) for column in (elevations, distances, fovs)
    )
    return orbit(around, elevations, distances, fovs, side, side)


def draw_backgrounds(
    config: CameraConfig,
    fraction: float,
    generator: torch.Generator,
    *,
    n_groups: int | None = None,
) -> Tensor:
    """Return [C, 3] background colours, one a group; random ones are any colour, or in 3 of 10 a grey.

    Args:
        config: which colours.
        fraction: of the run.
        generator: source of random ones, on the CPU.
        n_groups: None is the config's.
    """
    groups = round(config.n_groups(fraction)) if n_groups is None else n_groups
    kind = config.background
    if kind == "random" and fraction < config.random_from:
        kind = "grey"

    if kind in FIXED_BACKGROUNDS:
        colors = torch.full((groups, 3), FIXED_BACKGROUNDS[kind])
    elif kind == "random":
        draws = torch.rand(groups, 4, generator=generator)
        colors = torch.where(draws[:, 3:] < GREY_SHARE, draws[:, :1], draws[:, :3])
    else:
        raise ConfigError(f"camera.background must be random, white, grey or black, got {kind!r}.")

    return colors.repeat_interleave(config.n_views, 0)
