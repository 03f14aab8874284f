"""The critic's last word: its own questions about the scene that is exported."""

from __future__ import annotations

import torch

from vlm3d_gs.assembly.objective import Objective
from vlm3d_gs.config import Config
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.critic.questions.templates import view_names
from vlm3d_gs.critic.watch import GREY, named_views
from vlm3d_gs.render import render
from vlm3d_gs.runs.answers import Answer


@torch.no_grad()
def final_answers(scene: Gaussians, objective: Objective, config: Config) -> tuple[Answer, ...]:
    """Ask the critic about the four named views of a scene, at the resolution at which the run ends.

    Args:
        scene: on the device of the run.
        objective: of the run; without a critic that has weights here there are no answers.
        config: the run.
    """
    if objective.own is None:
        return ()
    cameras = named_views(config.camera, 0.0, 0.5, round(config.camera.resolution_px(1.0)))
    color = render(
        scene, cameras.to(scene.device), backend=config.render.backend, background=GREY
    ).color

    names = view_names(cameras.azimuths_deg, config.critic.view_names)
    log_odds = objective.own.answers(color, names)
    return tuple(Answer(item.name, item.text, log_odds[item.name]) for item in objective.questions)
