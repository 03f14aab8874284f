"""How the objects of a scene start: models loaded once, a first cloud and an objective for each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vlm3d_gs.assembly.device import device_notes, has_small_models_only
from vlm3d_gs.assembly.objective import Objective, build_objectives
from vlm3d_gs.assembly.plan import plan_memory
from vlm3d_gs.assembly.start import STREAMS, new_state
from vlm3d_gs.assembly.weights import locate_models, text_cache
from vlm3d_gs.config import Config
from vlm3d_gs.core.prompts import parse_prompt
from vlm3d_gs.core.seeding import generators
from vlm3d_gs.optimize.guidance import Progress, Views
from vlm3d_gs.optimize.objects import Drawn, ObjectRun, SceneRun
from vlm3d_gs.optimize.targets import Chain, TargetSource


@dataclass(frozen=True)
class SceneObjects:
    """The objects of a scene before their first step."""

    run: SceneRun
    """What the loop changes."""
    objectives: tuple[Objective, ...]
    """One for each of its objects."""
    notes: tuple[str, ...]
    """For the user."""


def new_objects(
    config: Config,
    prompts: Mapping[str, str],
    device: torch.device,
    *,
    progress: bool = False,
) -> SceneObjects:
    """Load the models and make the first cloud of each object.

    Each object gets the random streams of a run of its own, so its pictures are those of such a run.

    Args:
        config: settings of every object.
        prompts: the prompt of each, by its name.
        device: of the networks and the clouds.
        progress: show progress bars of downloads.

    Raises:
        ConfigError: as `objective.build_objectives`.
    """
    folders = locate_models(config.priors, config.critic, offline=config.offline, progress=progress)
    plan, notes = plan_memory(config, folders, device, objects=len(prompts))
    streams = [generators(config.train.seed, STREAMS) for _ in prompts]

    objectives = build_objectives(
        config,
        [(parse_prompt(text), own) for text, own in zip(prompts.values(), streams, strict=True)],
        folders,
        device,
        text_cache=text_cache(config.priors, config.critic),
        plan=plan,
    )

    states = [new_state(config, device, own) for own in streams]
    for state in states[1:]:
        state.counts = states[0].counts  # of the whole scene
    runs = [
        ObjectRun(name, state, objective.guidances, objective.reconstruction)
        for name, state, objective in zip(prompts, states, objectives, strict=True)
    ]

    small = has_small_models_only(config)
    said = (*device_notes(config.device, device, small=small), *notes)
    return SceneObjects(SceneRun(tuple(runs)), tuple(objectives), said)


def draw_pictures(
    sources: Sequence[TargetSource], views: Sequence[Views], chain: Chain, progress: Progress
) -> list[Drawn]:
    """Draw the pictures of several objects by the prior that they share; an `optimize.objects.DrawTogether`."""
    from vlm3d_gs.critic.targets import CriticTargets, draw_objects

    own = [source for source in sources if isinstance(source, CriticTargets)]
    assert len(own) == len(sources)
    return draw_objects(own, views, chain, progress)
