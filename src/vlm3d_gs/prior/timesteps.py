"""Which timesteps a step distils at, and how much each of them counts."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.prior.noise import SMALLEST_SIGNAL, NoiseSchedule

WEIGHTINGS: tuple[str, ...] = ("uniform", "sds", "fantasia3d", "ism")
"""Names that `timestep_weight` knows."""


def draw_timesteps(
    low: float, high: float, n_groups: int, n_views: int, n_train: int, generator: torch.Generator
) -> Tensor:
    """Draw one timestep for each view group, uniform in [low, high] of the training range.

    Args:
        low: smallest noise level, as a fraction of the training timesteps.
        high: largest, at least `low`.
        n_groups: groups.
        n_views: views in a group; they share the timestep, as in the training of multi-view models.
        n_train: training timesteps of the model.
        generator: source of randomness, on the CPU.

    Returns:
        [n_groups * n_views] int64 on the CPU, in 0 .. n_train - 1.
    """
    fractions = low + (high - low) * torch.rand(n_groups, generator=generator)
    return (fractions * n_train).long().clamp(0, n_train - 1).repeat_interleave(n_views)


def descend_timesteps(
    low: float, high: float, fraction: float, n_entries: int, n_train: int
) -> Tensor:
    """Return one timestep for all views, falling linearly from `high` at the start of the run to `low` at its end.

    t = high + (low - high) * fraction: large shapes are settled first, then details.

    Args:
        low: last noise level, as a fraction of the training timesteps.
        high: first.
        fraction: part of the run that is done, 0 to 1.
        n_entries: length of the result.
        n_train: training timesteps of the model.

    Returns:
        [n_entries] int64 on the CPU, in 0 .. n_train - 1, all equal.

    Source: Tang et al. 2023 (DreamGaussian, arXiv 2309.16653), section 3.1, linearly decreasing timestep; its code
    walks from 1 to 0 and clamps to the range instead.
    """
    level = high + (low - high) * fraction
    return torch.full((n_entries,), min(max(int(level * n_train), 0), n_train - 1))


def timestep_weight(kind: str, noise_schedule: NoiseSchedule, timesteps: Tensor) -> Tensor:
    """Return w(t) of one of `WEIGHTINGS`.

    With alpha_bar = signal^2 / (signal^2 + sigma^2), which is signal^2 for diffusion models and gives flow models the
    weight of the diffusion timestep with the same signal-to-noise ratio:

    - `uniform`: 1.
    - `sds`: 1 - alpha_bar. DreamFusion's sigma^2.
    - `fantasia3d`: sqrt(alpha_bar) (1 - alpha_bar).
    - `ism`: sqrt((1 - alpha_bar) / alpha_bar) = sigma / signal; turns a residual of noise into one of clean latents.

    Args:
        kind: name.
        noise_schedule: of the model.
        timesteps: [B] int64.

    Returns:
        [B, 1, 1, 1] float32.

    Raises:
        ConfigError: an unknown name.

    Source: Poole et al. 2022 (arXiv 2209.14988), eq. 3; the published codes of Chen et al. 2023 (Fantasia3D, arXiv
    2303.13873) and Liang et al. 2023 (LucidDreamer, arXiv 2311.11284).
    """
    signal, sigma = noise_schedule.levels(timesteps)
    noise_share = sigma.square() / (signal.square() + sigma.square())

    if kind == "uniform":
        return torch.ones_like(sigma)
    if kind == "sds":
        return noise_share
    if kind == "fantasia3d":
        return (1.0 - noise_share).sqrt() * noise_share
    if kind == "ism":
        return sigma / signal.clamp_min(SMALLEST_SIGNAL)
    raise ConfigError(f"Unknown weighting {kind!r}. Known: {', '.join(WEIGHTINGS)}.")
