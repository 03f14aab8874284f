"""The interface between the trainer and whatever guides the scene: one protocol, three dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.profiling import section


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    step: int
    """Steps done."""
    steps: int
    """Steps of the whole run."""

    @property
    def fraction(self) -> float:
        """Part of the run that is done, 0 to 1; what schedules read."""
        return self.step / self.steps


@dataclass(frozen=True)
class Views:
    """Renders of one step, in groups, without graph: a guidance returns its gradient on them."""

    color: Tensor
    """[G * V, H, W, 3] float32, sRGB with the background composited."""
    cameras: Cameras
    """G * V cameras, the V views of a group adjacent."""
    n_views: int
    """V."""
    alpha: Tensor | None = None
    """[G * V, H, W, 1] opacity of the renders; None if unknown."""
    background: Tensor | None = None
    """[G * V, 3] background colours of `color`; None if unknown."""

    def group(self, index: int) -> Views:
        """Return one of the G groups."""
        return self.select(slice(index * self.n_views, (index + 1) * self.n_views))

    def select(self, places: slice) -> Views:
        """Return some of the views, in whole groups."""
        alpha, background = self.alpha, self.background
        return Views(
            self.color[places],
            self.cameras.select(places),
            self.n_views,
            None if alpha is None else alpha[places],
            None if background is None else background[places],
        )


@dataclass(frozen=True)
class GuidanceOutput:
    """The gradient of the loss of one guidance on the views; a smaller loss is better."""

    color_gradient: Tensor
    """[G * V, H, W, 3] gradient on `Views.color`."""
    scalars: Mapping[str, float | Tensor]
    """For the log; scalars without graph may stay on their device, from where the trainer fetches them all at once."""
    alpha_gradient: Tensor | None = None
    """[G * V, H, W, 1] gradient on `Views.alpha`; None is zero."""
    relative_strength: float | Tensor | None = None
    """None: the gradient counts as it is. A number, or a float64 scalar on the device: only its direction counts; the
    trainer scales it to this multiple of the norm that the other guidances' gradients have on the renders, so that it
    means the same beside every prior."""
    reused: bool = False
    """True: its gradient on the Gaussians is applied again at each step until the next call of the guidance."""


def without_broken(output: GuidanceOutput) -> tuple[GuidanceOutput, Tensor]:
    """Return a gradient without the pictures on which it is NaN or infinite, and their number, on the device.

    Those pictures get the gradient zero; the others count as they are. Nothing is read back from a GPU.
    """
    color, alpha, strength = output.color_gradient, output.alpha_gradient, output.relative_strength
    sound = color.isfinite().flatten(1).all(1)
    if alpha is not None:
        sound = sound & alpha.isfinite().flatten(1).all(1)
    if isinstance(strength, Tensor):
        sound = sound & strength.isfinite()
        strength = torch.where(strength.isfinite(), strength, 0.0)

    keep = sound[:, None, None, None]
    cleaned = replace(
        output,
        color_gradient=torch.where(keep, color, 0.0),
        alpha_gradient=None if alpha is None else torch.where(keep, alpha, 0.0),
        relative_strength=strength,
    )
    return cleaned, (~sound).sum()


class Guidance(Protocol):
    """Anything that has a gradient for the renders. The trainer knows no more than this."""

    @property
    def name(self) -> str:
        """Prefix of its scalars in the log."""

    def is_due(self, progress: Progress) -> bool:
        """Return whether it is to be called with the views of the coming step."""

    def azimuth_range_deg(self, progress: Progress) -> tuple[float, float] | None:
        """Return the range of azimuth offsets of a view group that it can judge at that step; None for any."""

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        """Return the gradient on the views of a step."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the state that a checkpoint must hold; empty for most."""

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned."""


def color_gradient(loss: Tensor, color: Tensor, name: str) -> Tensor:
    """Return the gradient of a guidance's loss on the colours that it was computed from.

    Args:
        loss: scalar on the graph of `color`.
        color: [C, H, W, 3] leaf, `Views.color.detach().requires_grad_()`.
        name: of the guidance; the backward pass is timed as its own section, "<name> backward".
    """
    with section(f"{name} backward"):
        (gradient,) = torch.autograd.grad(loss, color)

    return gradient


def common_azimuths(
    configured: tuple[float, float], judged: tuple[float, float] | None
) -> tuple[float, float]:
    """Return the azimuth offsets, in degrees, that lie in both ranges; whole turns do not matter.

    Args:
        configured: from low to high; a full turn gives way to `judged`.
        judged: the same of a guidance; None is any.

    Raises:
        ConfigError: no azimuth lies in both.

    Example:
        >>> common_azimuths((0.0, 360.0), (-20.0, 20.0))
        (-20.0, 20.0)
        >>> common_azimuths((350.0, 380.0), (-20.0, 10.0))
        (-10.0, 10.0)
    """
    if judged is None or judged[1] - judged[0] >= 360.0:
        return configured
    if configured[1] - configured[0] >= 360.0:
        return judged

    for turn in (0.0, -360.0, 360.0, -720.0, 720.0):
        low, high = max(configured[0] + turn, judged[0]), min(configured[1] + turn, judged[1])
        if low <= high:
            return low, high

    raise ConfigError(
        f"camera.azimuth_offset_deg is {configured[0]:g} to {configured[1]:g} degrees, but a guidance can judge "
        f"{judged[0]:g} to {judged[1]:g} only. Choose a camera.azimuth_offset_deg that overlaps."
    )
