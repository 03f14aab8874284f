"""How the objects of a scene start: models loaded once, a first cloud and an objective for each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vlm3d_gs.assembly.device import device_notes, has_small_models_only
from vlm3d_gs.assembly.objective import build_objectives
from vlm3d_gs.assembly.plan import plan_memory
from vlm3d_gs.assembly.start import STREAMS, new_state
from vlm3d_gs.assembly.weights import locate_models, text_cache
from vlm3d_gs.config import Config
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.prompts import parse_prompt
from vlm3d_gs.core.residency import Plan
from vlm3d_gs.core.seeding import generators
from vlm3d_gs.optimize.guidance import Progress, Views
from vlm3d_gs.optimize.objects import Drawn, ObjectRun, SceneRun
from vlm3d_gs.optimize.targets import Chain, TargetSource

if TYPE_CHECKING:
    from vlm3d_gs.critic.judge import Judge


@dataclass(frozen=True)
class SceneObjects:
    """The objects of a scene, and what is asked about them."""

    run: SceneRun
    """Those that are made; the loop changes them."""
    critic: Judge | None
    """Whose model is asked about the finished parts; None without a critic that has weights here."""
    device: torch.device
    """Where they are made."""
    notes: tuple[str, ...]
    """For the user."""
    runtimes: Mapping[str, str] = field(default_factory=dict)
    """As `Objective.runtimes`."""
    kept: Mapping[str, Gaussians] = field(default_factory=dict)
    """Objects that are there already, each in its own frame, by name."""

    def clouds(self) -> dict[str, Gaussians]:
        """Return every object as it is now, in its own frame, by name."""
        made = {each.name: each.state.optimizer.gaussians.detach() for each in self.run.objects}
        return {**self.kept, **made}

    @property
    def counts(self) -> dict[str, int]:
        """What was counted: network evaluations, for example."""
        return self.run.objects[0].state.counts if self.run.objects else {}


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
        prompts: the prompt of each, by its name; with none, only the critic is loaded.
        device: of the networks and the clouds.
        progress: show progress bars of downloads.

    Raises:
        ConfigError: as `objective.build_objectives`.
    """
    folders = locate_models(config.priors, config.critic, offline=config.offline, progress=progress)
    plan, notes = plan_memory(config, folders, device, objects=len(prompts))
    cache = text_cache(config.priors, config.critic)
    small = has_small_models_only(config)
    said = (*device_notes(config.device, device, small=small), *notes)
    if not prompts:
        alone = replace(config, prior=replace(config.prior, enabled=False))
        alone = replace(alone, detail=replace(config.detail, enabled=False))
        return SceneObjects(SceneRun(()), _critic_of(alone, folders, device, plan), device, said)

    streams = [generators(config.train.seed, STREAMS) for _ in prompts]

    objectives = build_objectives(
        config,
        [(parse_prompt(text), own) for text, own in zip(prompts.values(), streams, strict=True)],
        folders,
        device,
        text_cache=cache,
        plan=plan,
    )

    states = [new_state(config, device, own) for own in streams]
    for state in states[1:]:
        state.counts = states[0].counts  # of the whole scene
    runs = [
        ObjectRun(name, state, objective.guidances, objective.reconstruction)
        for name, state, objective in zip(prompts, states, objectives, strict=True)
    ]

    first = objectives[0]
    return SceneObjects(SceneRun(tuple(runs)), first.own, device, said, first.runtimes)


def _critic_of(
    config: Config, folders: dict[str, Path], device: torch.device, plan: Plan
) -> Judge | None:
    """Load the critic alone."""
    critic = config.critic
    if not critic.enabled or critic.family == "server":
        return None
    streams = generators(config.train.seed, STREAMS)
    settings = replace(critic, mode="gradient")  # there is no prior whose pictures it could choose
    (objective,) = build_objectives(
        replace(config, critic=settings),
        [(parse_prompt(config.prompt), streams)],
        folders,
        device,
        plan=plan,
    )
    return objective.own


def draw_pictures(
    sources: Sequence[TargetSource], views: Sequence[Views], chain: Chain, progress: Progress
) -> list[Drawn]:
    """Draw the pictures of several objects by the prior that they share; an `optimize.objects.DrawTogether`."""
    from vlm3d_gs.critic.targets import CriticTargets, draw_objects

    own = [source for source in sources if isinstance(source, CriticTargets)]
    assert len(own) == len(sources)
    return draw_objects(own, views, chain, progress)
