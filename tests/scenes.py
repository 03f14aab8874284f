"""Scenes of the mini world as Gaussians, perfect and spoiled, for the tests of products and checker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.prompts import parse_composition
from vlm3d_gs.mini.world.scenes import ObjectSpec, SceneSpec, build_scene
from vlm3d_gs.mini.world.splats import scene_to_gaussians

COUNT = 2500
"""Gaussians of a scene: about what a run of the mini preset ends with."""


def scene_for(prompt: str, seed: int = 0) -> SceneSpec:
    """The scene of a prompt, sizes and places jittered by the seed."""
    return build_scene(parse_composition(prompt), np.random.default_rng(seed))


def splats(scene: SceneSpec, seed: int = 0, n: int = COUNT) -> Gaussians:
    """A scene's surfaces as Gaussians."""
    return scene_to_gaussians(scene, n, torch.Generator().manual_seed(seed))


def splats_for(prompt: str, seed: int = 0) -> Gaussians:
    """What a perfect run of a prompt would export."""
    return splats(scene_for(prompt, seed), seed)


def with_object(scene: SceneSpec, index: int, **changes: object) -> SceneSpec:
    """The scene with some fields of one object changed."""
    objects = list(scene.objects)
    objects[index] = replace(objects[index], **changes)  # type: ignore[arg-type]
    return SceneSpec(tuple(objects), scene.relation)


def swapped(scene: SceneSpec) -> SceneSpec:
    """The two objects on each other's place."""
    first, second = scene.objects
    return SceneSpec(
        (replace(first, center=second.center), replace(second, center=first.center)),
        scene.relation,
    )


def mirrored(scene: SceneSpec) -> SceneSpec:
    """Every object at the negative of its place."""
    return SceneSpec(tuple(_negated(item) for item in scene.objects), scene.relation)


def _negated(item: ObjectSpec) -> ObjectSpec:
    x, y, z = item.center
    return replace(item, center=(-x, -y, -z))
