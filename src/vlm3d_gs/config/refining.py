"""How a splat that is there already is made better: a preset changed to begin with its looks."""

from __future__ import annotations

from dataclasses import replace

from vlm3d_gs.config import Config
from vlm3d_gs.config.schedules import Schedule, piecewise

SOUND, WRONG = 0.5, 0.9
"""Noise levels of the first round for a splat that shows its prompt, and for one that does not."""
SHARE = 0.5
"""Steps, as a share of those of a run that starts from nothing."""


def for_refining(config: Config, noise_level: float, gaussians: int) -> Config:
    """Return a preset for a splat that is refined.

    Half of the steps, noise that begins lower, so that pictures are drawn after the splat's own looks, and room for as
    many Gaussians again. The critic chooses among three chains in the first round where much noise may change the
    layout. Our own choice, measured on damaged splats (docs/log/layout.md).

    Args:
        config: of a preset that reconstructs; one that distils is shortened only.
        noise_level: of the first round.
        gaussians: of the splat.
    """
    reconstruct = config.reconstruct
    points = tuple((at, min(level, noise_level)) for at, level in reconstruct.noise_level.points)
    kind = "linear" if len(points) > 1 else reconstruct.noise_level.kind
    candidates = (
        piecewise((0.0, 3.0), (0.15, 1.0)) if noise_level >= WRONG else piecewise((0.0, 1.0))
    )
    most = max(config.scene.max_gaussians, 2 * gaussians)
    steps = max(1, round(config.train.steps * SHARE))
    return replace(
        config,
        scene=replace(config.scene, n_init=min(config.scene.n_init, most), max_gaussians=most),
        reconstruct=replace(reconstruct, noise_level=Schedule(kind, points), candidates=candidates),
        train=replace(config.train, steps=steps, preview_every=0.0, checkpoint_every=0.0),
    )
