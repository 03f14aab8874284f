"""The critic on parts of a scene: each object asked about alone, each relation with nothing but its two objects.

A small critic that has seen one or two objects can answer about a scene of eight so. What is asked about is moved to
the middle and scaled to the size at which it is judged elsewhere; no relation depends on that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm3d_gs.assembly.placement import PlacedScene
from vlm3d_gs.config import Config
from vlm3d_gs.core import prompts
from vlm3d_gs.core.gaussians import Gaussians, concatenate
from vlm3d_gs.core.residency import resident
from vlm3d_gs.critic.judge import Judge
from vlm3d_gs.critic.questions.templates import (
    GEOMETRY_QUESTION,
    content_question,
    count_question,
    relation_question,
    view_names,
)
from vlm3d_gs.critic.watch import GREY, named_views
from vlm3d_gs.edit.transform import transformed
from vlm3d_gs.layout.graph import COUNT_WORDS, Relation, plural
from vlm3d_gs.layout.shapes import Box
from vlm3d_gs.layout.solver import Layout
from vlm3d_gs.models import family_entry
from vlm3d_gs.render import render

REACH = 0.95
"""Several things that are asked about fill a ball of this radius."""
ELEVATION = 0.5
"""Of the views, as a position in the config's range."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the critic says about a part of the scene."""

    question: str
    """As it was asked."""
    about: tuple[str, ...]
    """Names of the objects that it saw."""
    log_odds: float
    """Of Yes against No."""
    blame: Mapping[str, float] | None = None
    """Of an answer No about several objects: norm of the reward's gradient in the positions of each, by its name."""

    @property
    def yes(self) -> bool:
        """Whether Yes is more likely."""
        return self.log_odds > 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain: dict[str, Any] = {
            "question": self.question,
            "about": list(self.about),
            "log_odds": round(self.log_odds, 3),
            "yes": self.yes,
        }
        return plain if self.blame is None else {**plain, "blame": dict(self.blame)}


@dataclass(frozen=True, eq=False)
class _Look:
    """Questions about some things, which are shown alone."""

    texts: tuple[str, ...]
    names: tuple[str, ...]
    clouds: tuple[Gaussians, ...]
    """One for each name, framed."""


def ask_scene(
    config: Config,
    layout: Layout,
    scene: PlacedScene,
    made: Mapping[str, Gaussians],
    judge: Judge | None,
) -> list[Answer]:
    """Ask the run's critic about each object, each relation it knows words for, and counts.

    Args:
        config: the run.
        layout: graph and boxes.
        scene: the things in place.
        made: each different object in its own frame, by name.
        judge: whose model is asked; None asks nobody.
    """
    if judge is None:
        return []
    small = family_entry("critic", config.critic.family).embedded

    answers = []
    for look in _looks(layout, scene, made, small=small):
        with resident(judge.model.network, judge.model.device) if judge.offload else nullcontext():
            log_odds, blame = _answers(config, look, judge)
        for number, (text, value) in enumerate(zip(look.texts, log_odds, strict=True)):
            answers.append(Answer(text, look.names, value, blame if number == 0 else None))
    return answers


def _looks(
    layout: Layout, scene: PlacedScene, made: Mapping[str, Gaussians], *, small: bool
) -> Iterator[_Look]:
    """Yield what is asked; a small critic counts nothing, and knows the relations of `prompts.RELATIONS` alone."""
    graph = layout.graph
    for name, cloud in made.items():
        texts = (content_question(graph.find(name).prompt), GEOMETRY_QUESTION)
        yield _Look(texts, (name,), (cloud,))

    for relation in graph.relations:
        if small and relation.relation not in prompts.RELATIONS:
            continue
        boxes = _boxes_of(layout, relation, small=small)
        subject = graph.find(relation.subject)
        objects = " and ".join(
            graph.find(name).noun for name in (relation.object, relation.second) if name
        )
        many = subject.count > 1 and not small
        first = plural(subject.noun) if many else subject.noun
        text = relation_question(first, relation.relation, objects, plural=many)
        names = tuple(dict.fromkeys(box.name for box in boxes))
        yield _Look((text,), names, _framed(scene, names, boxes))

    for item in graph.objects if not small else ():
        if item.count > 1:
            words = f"{COUNT_WORDS[item.count - 1]} {plural(item.noun)}"
            boxes = list(layout.boxes)
            names = tuple(one.name for one in graph.objects)
            yield _Look((count_question(words),), names, _framed(scene, names, boxes))


def _boxes_of(layout: Layout, relation: Relation, *, small: bool) -> list[Box]:
    """Return the things that a relation is about: for a small critic the two that are nearest to each other."""
    things = layout.things()
    names = [relation.subject, relation.object]
    names += [] if relation.second is None else [relation.second]
    if not small:
        return [box for name in names for box in things[name]]
    pairs = [(one, other) for one in things[names[0]] for other in things[names[1]]]
    nearest = min(pairs, key=lambda pair: math.dist(pair[0].center, pair[1].center))
    return list(nearest)


def _framed(
    scene: PlacedScene, names: Sequence[str], boxes: Sequence[Box]
) -> tuple[Gaussians, ...]:
    """Return the clouds of some things, object by object, moved to the middle and scaled to `REACH`."""
    corners = torch.tensor(
        [
            [at + sign * half for at, half in zip(box.center, box.half_extents, strict=True)]
            for box in boxes
            for sign in (-1.0, 1.0)
        ]
    )
    low, high = corners.amin(0), corners.amax(0)
    middle = (low + high) / 2
    scale = REACH / max(float((high - low).norm()) / 2, 1e-6)

    wanted = {(box.name, box.number) for box in boxes}
    clouds = []
    for name in names:
        things = [
            cloud
            for pose, cloud in zip(scene.poses, scene.things(), strict=True)
            if pose.name == name and (name, pose.number) in wanted
        ]
        clouds.append(
            transformed(
                concatenate(things),
                scale=scale,
                rotation=torch.eye(3),
                translation=-scale * middle,
            )
        )

    return tuple(clouds)


def _answers(
    config: Config, look: _Look, judge: Judge
) -> tuple[list[float], dict[str, float] | None]:
    """Return the log-odds of a look's questions, and whom a No to the first is to be blamed on."""
    model, critic = judge.model, config.critic
    side = round(config.camera.resolution_px(1.0))
    cameras = named_views(config.camera, 0.0, ELEVATION, side)
    names = view_names(cameras.azimuths_deg, critic.view_names)
    clouds = [cloud.to(model.device) for cloud in look.clouds]
    leaves = [cloud.means.detach().clone().requires_grad_() for cloud in clouds]

    def views() -> Tensor:
        moved = [cloud.changed({"means": leaf}) for cloud, leaf in zip(clouds, leaves, strict=True)]
        shown = render(
            concatenate(moved),
            cameras.to(model.device),
            backend=config.render.backend,
            background=GREY,
        )
        return shown.color

    with torch.no_grad():
        log_odds = model.log_odds(views(), names, list(look.texts)).float().cpu().tolist()
    if log_odds[0] > 0.0 or len(clouds) < 2:
        return log_odds, None

    loss = -F.logsigmoid(model.log_odds(views(), names, list(look.texts[:1]))).sum()
    gradients = torch.autograd.grad(loss, leaves)
    blame = {
        name: float(gradient.norm()) for name, gradient in zip(look.names, gradients, strict=True)
    }
    return log_odds, blame
