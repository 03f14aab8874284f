"""A step of distillation: views are drawn, and every guidance that is due returns a gradient on their renders."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vlm3d_gs.config import Config
from vlm3d_gs.core.profiling import section
from vlm3d_gs.optimize.densify import is_round
from vlm3d_gs.optimize.guidance import Guidance, Progress
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.optimize.step import densify_scene, move_faint, reset_opacities, scene_step
from vlm3d_gs.optimize.views import draw_backgrounds, draw_cameras


def distill_step(
    state: TrainState, config: Config, guidances: Sequence[Guidance], *, since: int | None = None
) -> dict[str, float | Tensor]:
    """Do one step and return its scalars.

    Args:
        state: changed in place.
        config: the run.
        guidances: asked where they are due.
        since: the first step since the last of this kind; whoever was due in between is asked now. None is this one.
    """
    progress = Progress(state.step, config.train.steps)
    passed = range(progress.step if since is None else since, progress.step + 1)
    due = [
        guidance
        for guidance in guidances
        if any(guidance.is_due(Progress(step, progress.steps)) for step in passed)
    ]

    cameras = draw_cameras(config.camera, due, progress, state.streams["cameras"])
    background = draw_backgrounds(config.camera, progress.fraction, state.streams["backgrounds"])
    scalars = scene_step(state, config, cameras, background, due)

    with section("densify"):
        move_faint(state, config, progress.fraction)
        if is_round(progress.step, progress.steps, config.densify):
            densify_scene(state, config)
        reset_opacities(state, config)

    return {**scalars, "gaussians": float(len(state.gradients.total))}
