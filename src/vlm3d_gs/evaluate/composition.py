"""Does a splat show what its prompt says? A checker for the mini world's prompts.

It looks only at the exported Gaussians, rendered from 38 sides: no neural network, and no ground
truth except the meaning of the words. Colours are judged up to shading, shapes by their silhouettes,
relations by the fitted positions as the front camera sees them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.prompts import OPPOSITE, Composition, parse_composition
from vlm3d_gs.evaluate.cleanliness import ViewReport, measure_cleanliness
from vlm3d_gs.evaluate.objects import ObjectReport, judge_object
from vlm3d_gs.evaluate.palette import CLASS_NAMES
from vlm3d_gs.evaluate.views import ObservedViews, checker_cameras, observe
from vlm3d_gs.mini.world.scenes import AXIS, SIGN
from vlm3d_gs.render import Backend

MAX_FOREIGN, MAX_HAZE, MAX_FLOATERS, MAX_HOLES, MAX_DENTS = 0.05, 0.05, 0.02, 0.05, 0.10
"""Shares of the covered pixels up to which a scene counts as clean; of the silhouette for holes and
dents."""
MIN_SEPARATION = 0.4
"""Least distance of the centres along the relation's axis, over the sum of both half extents along it."""


@dataclass(frozen=True)
class CompositionReport:
    """The verdict on one scene and everything it rests on."""

    prompt: str
    """The prompt in canonical words."""
    objects: tuple[ObjectReport, ...]
    """One per named object, in the prompt's order."""
    relation: str | None
    """The named relation."""
    relation_right: bool | None
    """None for one object; False if an object was not found."""
    displacement: tuple[float, float, float] | None
    """Centre of the first object minus the second's, world units; None unless both are found."""
    foreign_fraction: float
    """Share of the covered pixels in colours that the prompt does not name."""
    haze_fraction: float
    """Share of the covered pixels that are faint away from an edge."""
    floater_fraction: float
    """Share of the covered pixels that hang apart from the objects."""
    color_shares: dict[str, float]
    """Share of the covered pixels of each colour class, largest first, those above 1 %."""
    views: tuple[ViewReport, ...]
    """Cleanliness of each view."""
    content_right: bool
    """Every object right in colour and shape, and the relation right."""
    clean: bool
    """Foreign colour, haze, floaters, holes and dents are all within the limits."""
    reasons: tuple[str, ...]
    """What is wrong, in words; empty if nothing is."""

    @property
    def ok(self) -> bool:
        """Content right and clean."""
        return self.content_right and self.clean

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON, `ok` included."""
        return {**asdict(self), "ok": self.ok}


def verdict(content_right: bool, clean: bool) -> str:
    """Return the two words used everywhere: *right* is about content, *clean* about surfaces."""
    return f"{'right' if content_right else 'WRONG'}, {'clean' if clean else 'not clean'}"


def evaluate(
    gaussians: Gaussians, prompt: str | Composition, *, backend: Backend = "auto"
) -> CompositionReport:
    """Check a scene against its prompt.

    Args:
        gaussians: the scene, in our world frame and scale (object inside the unit ball).
        prompt: a prompt of the mini world, or one already parsed.
        backend: renderer, as in `render.render`.

    Returns:
        The report. An empty scene is simply not right.

    Raises:
        PromptError: the prompt does not belong to the mini world.

    Not differentiable. Takes about a second on two cores.
    """
    composition = prompt if isinstance(prompt, Composition) else parse_composition(prompt)
    views = observe(gaussians, checker_cameras(), backend)
    objects = tuple(
        judge_object(views, phrase, [other for other in composition.objects if other is not phrase])
        for phrase in composition.objects
    )
    clean = measure_cleanliness(
        views, [CLASS_NAMES.index(item.color) for item in composition.objects]
    )

    displacement = _displacement(objects)
    relation_right = None
    if composition.relation is not None:
        relation_right = _relation_holds(composition.relation, objects, displacement)

    shares = color_shares(views)
    content = [*content_reasons(objects, shares)]
    if relation_right is False and displacement is not None:
        content.append(
            f"not {composition.relation}: the first is displaced by {displacement} "
            "(x front, y right, z up)"
        )
    dirt = dirt_reasons(clean.foreign, clean.haze, clean.floaters, objects)

    return CompositionReport(
        prompt=str(composition),
        objects=objects,
        relation=composition.relation,
        relation_right=relation_right,
        displacement=displacement,
        foreign_fraction=round(clean.foreign, 4),
        haze_fraction=round(clean.haze, 4),
        floater_fraction=round(clean.floaters, 4),
        color_shares=shares,
        views=clean.views,
        content_right=not content,
        clean=not dirt,
        reasons=(*content, *dirt),
    )


def _displacement(objects: tuple[ObjectReport, ...]) -> tuple[float, float, float] | None:
    centers = [item.center for item in objects if item.center is not None]
    if len(centers) != 2:
        return None
    first, second = centers
    return (
        round(first[0] - second[0], 4),
        round(first[1] - second[1], 4),
        round(first[2] - second[2], 4),
    )


def _relation_holds(
    relation: str,
    objects: tuple[ObjectReport, ...],
    displacement: tuple[float, float, float] | None,
) -> bool:
    """Return whether the relation holds, clearly and mainly along its own axis."""
    if displacement is None:
        return False

    # One relation of each opposite pair has an axis and a sign; the other is its negative.
    tabled = relation if relation in AXIS else OPPOSITE[relation]
    sign = SIGN[tabled] if tabled == relation else -SIGN[tabled]
    axis = AXIS[tabled]

    along = sign * displacement[axis]
    across = max(abs(value) for index, value in enumerate(displacement) if index != axis)
    room = sum(item.half_extents[axis] for item in objects if item.half_extents is not None)
    return along >= MIN_SEPARATION * room and along >= across


def content_reasons(objects: tuple[ObjectReport, ...], shares: dict[str, float]) -> list[str]:
    """Return what is wrong with objects, in words."""
    reasons = []
    seen = ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) or "nothing"
    for item in objects:
        name = f"{item.color} {item.shape}"
        if not item.found:
            reasons.append(f"no {name}: nothing {item.color} of its size shows (seen: {seen})")
            continue

        if not item.color_right:
            reasons.append(
                f"{name}: {item.color_share:.0%} of it is {item.color}, at {item.shade:.0%} of its "
                "brightness"
            )

        if item.best_shape != item.shape:
            reasons.append(f"{name}: looks like a {item.best_shape} (overlap {item.overlap})")
        elif not item.shape_right:
            reasons.append(f"{name}: its outline fits no shape well (overlap {item.overlap})")
    return reasons


def dirt_reasons(
    foreign: float, haze: float, floaters: float, objects: tuple[ObjectReport, ...]
) -> list[str]:
    """Return what is not clean, in words."""
    measured = (
        ("in colours that the prompt does not name", foreign, MAX_FOREIGN),
        ("hazy", haze, MAX_HAZE),
        ("floating apart", floaters, MAX_FLOATERS),
    )
    reasons = [
        f"{share:.1%} of the covered pixels are {what} (limit {limit:.0%})"
        for what, share, limit in measured
        if share > limit
    ]

    for item in objects:
        if item.hole_share > MAX_HOLES:
            reasons.append(f"{item.color} {item.shape}: {item.hole_share:.1%} of it is holes")
        if item.dent_share > MAX_DENTS:
            reasons.append(f"{item.color} {item.shape}: {item.dent_share:.1%} of it is dented")
    return reasons


def color_shares(views: ObservedViews) -> dict[str, float]:
    """Return the share of the covered pixels of each colour class, largest first, those above 1 %."""
    counts = torch.bincount(views.classes[views.covered], minlength=len(CLASS_NAMES)).double()
    shares = (counts / counts.sum().clamp_min(1.0)).tolist()
    named = sorted(zip(CLASS_NAMES, shares, strict=True), key=lambda item: -item[1])
    return {name: round(share, 4) for name, share in named if share > 0.01}
