"""Settings of the terms that keep a scene clean."""

from __future__ import annotations

from dataclasses import dataclass

from vlm3d_gs.config.bounds import check_schedule
from vlm3d_gs.config.schedules import Schedule, constant, linear


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularizerConfig:
    """Weights of the terms that keep the scene solid and clean; 0 is off."""

    opacity_entropy: Schedule = constant(0.0)
    """Pushes each Gaussian's opacity to 0 or 1."""
    alpha_entropy: Schedule = linear(0.0, 1000.0, 0.5, 1.0)
    """Pushes each pixel's coverage to 0 or 1: no haze."""
    coverage: Schedule = linear(0.0, 300.0, 0.1, 0.5)
    """Mean coverage of the picture: no needless opacity."""
    opacity: Schedule = constant(0.0)
    """Opacity itself: what nothing holds on to fades, so that `densify.method=mcmc` may use it elsewhere."""
    scale: Schedule = constant(0.0)
    """Large Gaussians."""
    flatness: Schedule = constant(0.0)
    """Needles: ratio of the largest to the middle axis."""
    floater: Schedule = constant(0.0)
    """Opacity away from the rest of the scene."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            check_schedule(f"regularizer.{name}", getattr(self, name), 0.0, 1e6)
