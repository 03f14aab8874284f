"""Settings of the terms that keep a scene clean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vlm3d_gs.config.bounds import Range, check_ranges
from vlm3d_gs.config.schedules import Schedule, constant, linear

Weight = Annotated[Schedule, Range(0.0, 1e6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularizerConfig:
    """Weights of the terms that keep the scene solid and clean; 0 turns a term off."""

    opacity_entropy: Weight = constant(0.0)
    """Weight of a term that drives each Gaussian's opacity to 0 or 1."""
    alpha_entropy: Weight = linear(0.0, 70.0, 0.5, 1.0)
    """Weight of a term that drives each pixel's coverage to 0 or 1, against haze."""
    coverage: Weight = linear(0.0, 300.0, 0.1, 0.5)
    """Weight of the mean coverage of the picture, against needless opacity."""
    opacity: Weight = constant(0.0)
    """Weight of the mean opacity: Gaussians that no loss needs fade, so that `densify.method=mcmc` can move them."""
    scale: Weight = constant(0.0)
    """Weight of the size of Gaussians."""
    flatness: Weight = constant(0.0)
    """Weight of the ratio of a Gaussian's longest to its middle axis, against needles."""
    floater: Weight = constant(0.0)
    """Weight of opacity far from the rest of the scene."""
    roughness: Weight = Schedule("piecewise", ((0.0, 0.0), (0.3, 0.5), (0.89, 5.0)))
    """Weight of third differences of the rendered depth within a surface, against dents."""

    def __post_init__(self) -> None:
        check_ranges(self, "regularizer")
