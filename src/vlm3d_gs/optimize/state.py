"""What changes during a run, and its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.checks import expect_finite
from vlm3d_gs.core.errors import NotFiniteError
from vlm3d_gs.core.gaussians import Gaussians, seems_finite
from vlm3d_gs.core.seeding import capture_states, restore_states
from vlm3d_gs.optimize.densify import ScreenGradients
from vlm3d_gs.optimize.guidance import Guidance
from vlm3d_gs.optimize.optimizer import PARAMETER_PREFIX, SceneOptimizer
from vlm3d_gs.optimize.reused import ReusedGradients
from vlm3d_gs.optimize.targets import TargetPool
from vlm3d_gs.render import Backend, Rendering, render
from vlm3d_gs.runs.checkpoint import Checkpoint


class Renderer(Protocol):
    """`render.render`, or what does the same in another way."""

    def __call__(
        self,
        gaussians: Gaussians,
        cameras: Cameras,
        *,
        backend: Backend = "auto",
        background: Tensor | tuple[float, float, float] | None = None,
        check: bool = True,
    ) -> Rendering:
        """Render all views of a scene."""
        ...


@dataclass
class TrainState:
    """What changes during a run."""

    optimizer: SceneOptimizer
    """Owns the scene."""
    streams: dict[str, torch.Generator]
    """Named sources of randomness, saved with checkpoints."""
    render: Renderer = render
    """Draws the scene; several processes may share the views."""
    step: int = 0
    """Steps done."""
    reference_norm: float | Tensor = 0.0
    """Running norm of the guidances' gradient on the renders; float64, after a step on the scene's device."""
    cameras: Cameras | None = None
    """Views of the last step; not saved."""
    gradients: ScreenGradients = field(init=False)
    """Densification statistics since the last round."""
    reused: ReusedGradients = field(default_factory=ReusedGradients)
    """Gradients of guidances that are called seldom."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was counted so far: network evaluations, critic looks."""
    broken_in_a_row: int = 0
    """Steps in a row in which a network's answer was not finite; not saved."""
    pool: TargetPool = field(default_factory=TargetPool)
    """Targets of the last rounds of reconstruction."""

    finite: Tensor | None = None
    """Whether the scene was finite before each densification so far, on its device; None on the CPU."""

    def __post_init__(self) -> None:
        scene = self.optimizer.gaussians
        self.gradients = ScreenGradients.empty(len(scene), scene.device)

    @property
    def is_waited_for(self) -> bool:
        """Whether Python must wait for the scene's device to know a number, as for a GPU."""
        return self.optimizer.gaussians.device.type != "cpu"

    def finite_so_far(self) -> Tensor | None:
        """Return whether the scene is finite and was, on its device, without waiting; None on the CPU."""
        if not self.is_waited_for:
            return None
        now = seems_finite(self.optimizer.gaussians)
        return now if self.finite is None else self.finite & now


class Watch(Protocol):
    """Reads the scene now and then; what it has read is part of a run's state."""

    def __call__(self, gaussians: Gaussians, step: int) -> Mapping[str, float]:
        """Read the scene after a step; what is returned is logged."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the readings, for a checkpoint."""

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned."""


def capture_state(
    state: TrainState,
    guidances: Sequence[Guidance],
    watch: Watch | None,
    meta: Mapping[str, Any],
) -> Checkpoint:
    """Return what `restore_state` needs to go on exactly; the tensors are those of the run, not copies.

    Args:
        state: of the run.
        guidances: whose own state is saved too.
        watch: likewise; None if there is none.
        meta: what the run is, as plain data; a resumed run is held against it.

    Raises:
        NotFiniteError: the state is broken: a parameter is not finite, or something else is NaN.
    """
    tensors = state.optimizer.state_tensors()
    for name, value in tensors.items():
        if name.startswith(PARAMETER_PREFIX):
            expect_finite(name, value)
    tensors |= _prefixed("stream", capture_states(state.streams))
    tensors |= _prefixed("reused", state.reused.state_tensors())
    tensors |= _prefixed("pool", state.pool.state_tensors())
    tensors |= {"gradients.total": state.gradients.total, "gradients.count": state.gradients.count}

    for guidance in guidances:
        tensors |= _prefixed(f"guidance.{guidance.name}", guidance.state_tensors())
    _expect_no_nan(tensors)
    if watch is not None:
        tensors |= _prefixed("watch", watch.state_tensors())

    meta = {
        "reference_norm": float(state.reference_norm),
        "counts": dict(state.counts),
        "rate_factor": state.optimizer.rate_factor,
        **meta,
    }
    return Checkpoint(state.step, tensors, meta)


def restore_state(
    checkpoint: Checkpoint,
    state: TrainState,
    guidances: Sequence[Guidance],
    watch: Watch | None = None,
) -> None:
    """Put a checkpoint's content into `state`, the guidances and the watch."""
    tensors, device = checkpoint.tensors, state.optimizer.gaussians.device

    state.optimizer.load_state_tensors(tensors)
    state.finite = None
    restore_states(state.streams, _with_prefix("stream", tensors))
    state.reused.load_state_tensors(_with_prefix("reused", tensors), device)
    state.pool.load_state_tensors(_with_prefix("pool", tensors), device)
    state.gradients = ScreenGradients(
        tensors["gradients.total"].to(device), tensors["gradients.count"].to(device)
    )

    for guidance in guidances:
        guidance.load_state_tensors(_with_prefix(f"guidance.{guidance.name}", tensors))
    if watch is not None:
        watch.load_state_tensors(_with_prefix("watch", tensors))

    state.counts.clear()
    state.counts |= checkpoint.meta.get("counts", {})
    state.optimizer.rate_factor = float(checkpoint.meta["rate_factor"])
    state.step, state.reference_norm = checkpoint.step, float(checkpoint.meta["reference_norm"])


def _expect_no_nan(tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and bool(value.isnan().any()):
            raise NotFiniteError(f"{name} has values that are NaN.")


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }


@dataclass(frozen=True)
class WholeRun:
    """Everything of a run that a checkpoint holds, as one thing to save and to restore."""

    state: TrainState
    """The scene, and what changes with it."""
    guidances: Sequence[Guidance] = ()
    """Whose own state is saved too."""
    watch: Watch | None = None
    """Likewise."""

    @property
    def step(self) -> int:
        """Steps done."""
        return self.state.step

    @property
    def rate_factor(self) -> float:
        """Multiplies all learning rates."""
        return self.state.optimizer.rate_factor

    def scale_rates(self, factor: float) -> None:
        """Set `rate_factor`."""
        self.state.optimizer.rate_factor = factor

    def capture(self, meta: Mapping[str, Any]) -> Checkpoint:
        """Return what `restore` needs; see `capture_state`."""
        return capture_state(self.state, self.guidances, self.watch, meta)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint."""
        restore_state(checkpoint, self.state, self.guidances, self.watch)
