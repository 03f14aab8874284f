"""What the trainer asks of everything that says how the scene should look: one protocol, two records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from vlm3d_gs.core.cameras import Cameras


@dataclass(frozen=True)
class Views:
    """Renders of one step, in groups."""

    color: Tensor
    """[G * V, H, W, 3] float32, sRGB with the background composited, on the graph."""
    cameras: Cameras
    """G * V cameras, the V views of a group adjacent."""
    n_views: int
    """V."""
    alpha: Tensor | None = None
    """[G * V, H, W, 1] opacity of the renders, on the graph; None where it is not known."""
    background: Tensor | None = None
    """[G * V, 3] colours behind `color`; None where they are not known."""


@dataclass(frozen=True)
class GuidanceOutput:
    """What one guidance says about the views."""

    loss: Tensor
    """Scalar, differentiable in the views; smaller is better."""
    scalars: Mapping[str, float | Tensor]
    """For the log; a scalar without graph may stay on its device, where the trainer fetches all at once."""
    relative_strength: float | Tensor | None = None
    """None: the gradient of `loss` counts as it is. A number, or a float64 scalar on the device: only its direction
    counts; the trainer scales it to this multiple of the norm that the other guidances' gradients have on the renders,
    so that it means the same beside every prior."""
    lasting: bool = False
    """True: what this does to the Gaussians is done again at each step until the guidance is asked again."""


class Guidance(Protocol):
    """Anything that pulls the renders somewhere. The trainer knows no more than this."""

    @property
    def name(self) -> str:
        """Prefix of its scalars in the log."""

    @property
    def azimuth_offset_deg(self) -> tuple[float, float] | None:
        """Range of azimuth offsets of a view group that it can judge; None for any."""

    def is_due(self, step: int) -> bool:
        """Tell whether it wants to see this step's views."""

    def __call__(self, views: Views, fraction: float) -> GuidanceOutput:
        """Judge the views of a step; `fraction` of the run is done."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Return what changes during a run and must be in a checkpoint; empty for most."""

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state_tensors` returned."""
