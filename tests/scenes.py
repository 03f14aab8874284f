"""Scenes of the mini world as exact images and as Gaussians, for the tests of products and checker."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.prompts import parse_composition
from vlm3d_gs.mini.world.scenes import ObjectSpec, SceneSpec, build_scene, render_rgba
from vlm3d_gs.mini.world.splats import scene_to_gaussians

COUNT = 2500
"""Gaussians of a scene: about what a run of the mini preset ends with."""


@dataclass(frozen=True)
class SceneImages:
    """Images of one scene."""

    color: Tensor
    """[V, H, W, 3] float32, 0 to 1, composited over the background."""
    alpha: Tensor
    """[V, H, W, 1] float32 coverage, 0 to 1."""
    ids: Tensor
    """[V, H, W] int8, index of the visible object, -1 for background."""


def scene_for(prompt: str, seed: int = 0) -> SceneSpec:
    """The scene of a prompt, sizes and places jittered by the seed."""
    return build_scene(parse_composition(prompt), np.random.default_rng(seed))


def splats(scene: SceneSpec, seed: int = 0, n: int = COUNT) -> Gaussians:
    """A scene's surfaces as Gaussians."""
    return scene_to_gaussians(scene, n, torch.Generator().manual_seed(seed))


def splats_for(prompt: str, seed: int = 0) -> Gaussians:
    """What a perfect run of a prompt would export."""
    return splats(scene_for(prompt, seed), seed)


def render_scene(
    scene: SceneSpec,
    cameras: Cameras,
    background: tuple[float, float, float] = (0.5, 0.5, 0.5),
    supersample: int = 2,
) -> SceneImages:
    """Ray-cast one scene from all cameras over a flat background."""
    rgba, ids = render_rgba([scene], cameras, supersample)
    images = torch.from_numpy(rgba[0])
    color = images[..., :3] + (1.0 - images[..., 3:]) * torch.tensor(background)

    return SceneImages(color, images[..., 3:], torch.from_numpy(ids[0]))


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
