"""Splats of one or two objects, damaged in ways that refining should mend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.gaussians import Gaussians, concatenate
from vlm3d_gs.core.prompts import parse_composition
from vlm3d_gs.evaluate.palette import PALETTE
from vlm3d_gs.mini.world.scenes import ObjectSpec, SceneSpec
from vlm3d_gs.mini.world.splats import scene_to_gaussians

COUNT = 1500
"""Gaussians of an object."""
SIZE, PAIR = 0.62, 0.36
"""Of an object alone, and of each of two."""

Damage = Callable[[Gaussians, list[ObjectSpec]], Gaussians]


def objects_of(prompt: str) -> list[ObjectSpec]:
    """What a prompt of one object, or of two beside each other, describes."""
    composition = parse_composition(prompt)
    if composition.relation is None:
        (one,) = composition.objects
        return [ObjectSpec(one.shape, one.color, (0.0, 0.0, 0.0), SIZE)]
    places = {
        "to the left of": ((0.0, -0.42, 0.0), (0.0, 0.42, 0.0)),
        "to the right of": ((0.0, 0.42, 0.0), (0.0, -0.42, 0.0)),
        "in front of": ((0.42, 0.0, 0.0), (-0.42, 0.0, 0.0)),
    }[composition.relation]
    return [
        ObjectSpec(one.shape, one.color, place, PAIR)
        for one, place in zip(composition.objects, places, strict=True)
    ]


def splat_of(objects: list[ObjectSpec]) -> Gaussians:
    """Draw them."""
    generator = torch.Generator().manual_seed(0)
    return scene_to_gaussians(SceneSpec(tuple(objects)), COUNT * len(objects), generator)


def bite(splat: Gaussians, objects: list[ObjectSpec]) -> Gaussians:
    """A ball is missing where the first object's front was."""
    first = objects[0]
    middle = torch.tensor(first.center) + torch.tensor([0.75, 0.35, 0.3]) * first.size
    return splat.select((splat.means - middle).norm(dim=-1) > 0.75 * first.size)


def floaters(splat: Gaussians, objects: list[ObjectSpec]) -> Gaussians:
    """Forty grey blobs hang around it."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(40, 3, generator=generator)
    means = 0.85 * directions / directions.norm(dim=-1, keepdim=True)
    some = splat.select(torch.arange(40))
    grey = torch.full_like(some.sh, 0.0)
    blobs = {"means": means, "log_scales": torch.full_like(some.log_scales, math.log(0.05))}
    blobs |= {"opacity_logits": torch.full_like(some.opacity_logits, 2.0), "sh": grey}
    return concatenate([splat, some.changed(blobs)])


def recoloured(splat: Gaussians, objects: list[ObjectSpec]) -> Gaussians:
    """One side of the first object has another colour."""
    first = objects[0]
    other = "cyan" if first.color != "cyan" else "red"
    offset = splat.means - torch.tensor(first.center)
    side = (offset[:, 0] > 0.0) & (offset.norm(dim=-1) < 1.3 * first.size)
    sh = splat.sh.clone()
    sh[side, 0] = (torch.tensor(PALETTE[other]) - 0.5) / SH_C0
    return splat.changed({"sh": sh})


def moved(splat: Gaussians, objects: list[ObjectSpec]) -> Gaussians:
    """The two objects stand in each other's place."""
    first, second = objects
    return splat_of([replace(first, center=second.center), replace(second, center=first.center)])


def blurred(splat: Gaussians, objects: list[ObjectSpec]) -> Gaussians:
    """Every Gaussian is a few times too large and somewhat off its place."""
    generator = torch.Generator().manual_seed(2)
    means = splat.means + 0.12 * torch.randn(splat.means.shape, generator=generator)
    return splat.changed({"means": means, "log_scales": splat.log_scales.clamp_min(math.log(0.09))})


CASES: tuple[tuple[str, Damage], ...] = (
    ("a red cube", bite),
    ("a white torus", bite),
    ("a green sphere", bite),
    ("a yellow cylinder", floaters),
    ("a blue cone", floaters),
    ("a purple cube to the left of a white sphere", floaters),
    ("a red cube", recoloured),
    ("a purple sphere", recoloured),
    ("a green cone to the right of a blue cube", recoloured),
    ("an orange cylinder", recoloured),
    ("a red cube to the left of a blue sphere", moved),
    ("a yellow cone to the right of a green cylinder", moved),
    ("a cyan sphere in front of a red cube", moved),
    ("a white cube", blurred),
    ("an orange sphere", blurred),
    ("a green cylinder to the left of a red cone", blurred),
)
"""Sixteen prompts and what was done to their splats."""


def damaged(index: int) -> tuple[str, str, Gaussians]:
    """Return the prompt of a case, the name of its damage, and the splat."""
    prompt, damage = CASES[index]
    objects = objects_of(prompt)
    return prompt, damage.__name__, damage(splat_of(objects), objects)
