"""One object of a prompt in the rendered views: whether it is there, its colour, its shape, its place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vlm3d_gs.core.prompts import ObjectPhrase
from vlm3d_gs.evaluate.cleanliness import contact_zone, drop_specks
from vlm3d_gs.evaluate.matching import match_shape
from vlm3d_gs.evaluate.palette import CLASS_NAMES
from vlm3d_gs.evaluate.regions import shrink
from vlm3d_gs.evaluate.views import ObservedViews
from vlm3d_gs.mini.world.raycast import FAR
from vlm3d_gs.mini.world.scenes import PALETTE

MIN_VIEW_SHARE = 0.01
"""Share of the picture that an object covers at least, on average."""
MIN_VIEWS = 0.5
"""Share of the views in which an object shows at least."""
MIN_COLOR_SHARE = 0.85
"""Share of the fitted silhouette's covered pixels that must have the named colour."""
MIN_SHADE = 0.45
"""Median brightness relative to the named colour; below, white is grey and yellow is olive."""
MIN_IOU = 0.80
"""Overlap that the best primitive's silhouettes must have with the object's."""
SOFT = 0.05
"""No dent is less deep, world units, however small the object."""
SLACK = 0.08
"""How far a shape may stick out of the object that hides it, world units: depths are soft."""
MAX_DENT = 0.35
"""A surface this far from the fitted one, in units of the mean half extent, is a dent or a bulge."""


@dataclass(frozen=True, slots=True)
class ObjectReport:
    """The verdict on one object that the prompt names."""

    color: str
    """The named colour."""
    shape: str
    """The named shape."""
    found: bool
    """Something solid of the named colour shows in most views."""
    color_right: bool
    """Found, nearly all of it has the named colour, and it is bright enough."""
    shape_right: bool
    """Found, and the named shape explains its silhouettes best, and well."""
    color_share: float
    """Share of its pixels in the named colour, 0 to 1."""
    shade: float
    """Median brightness of its pixels relative to the named colour; in full light 1."""
    best_shape: str | None
    """The shape that explains the silhouettes best; None if not found."""
    overlap: dict[str, float]
    """Silhouette overlap of each fitted shape, 0 to 1; empty if not found."""
    hole_share: float
    """Share of its silhouette, without the edges, that one can see through."""
    dent_share: float
    """Share of its silhouette, without the edges, whose surface is far from the best shape's."""
    center: tuple[float, float, float] | None
    """World units; None if not found."""
    half_extents: tuple[float, float, float] | None
    """World units along x, y, z; None if not found."""

    @property
    def right(self) -> bool:
        """Found, in its colour and in its shape."""
        return self.found and self.color_right and self.shape_right


def judge_object(
    views: ObservedViews, phrase: ObjectPhrase, others: list[ObjectPhrase]
) -> ObjectReport:
    """Judge one object by the pixels in its colour.

    Args:
        views: the rendered scene.
        phrase: the object; its colour differs from the others'.
        others: the prompt's other objects, which may hide parts of this one.

    Returns:
        The report.
    """
    solid = views.solid
    own = solid & (views.classes == CLASS_NAMES.index(phrase.color))
    distances, limits = views.distances, torch.full_like(views.alpha, FAR)
    undecided = torch.zeros_like(solid)
    for other in others:
        in_front = drop_specks(solid & (views.classes == CLASS_NAMES.index(other.color)))
        limits = torch.where(in_front, distances - SLACK, limits)
        undecided |= contact_zone(own, in_front) & ~own

    mask = drop_specks(own)
    view_shares = mask.flatten(1).float().mean(dim=1)
    in_views = float((view_shares >= 0.25 * MIN_VIEW_SHARE).float().mean())
    if float(view_shares.mean()) < MIN_VIEW_SHARE or in_views < MIN_VIEWS:
        return absent(phrase)

    blended = torch.zeros_like(solid)
    return judge_region(views, phrase, own, mask, Hidden(limits, undecided, blended))


class Hidden(NamedTuple):
    """Where other objects hide an object, or might."""

    limits: Tensor
    """[V, H, W] distance from which on something else hides it, `FAR` if nothing does."""
    undecided: Tensor
    """[V, H, W] bool, pixels to ignore."""
    blended: Tensor
    """[V, H, W] bool, pixels of the object whose depth may be partly that of another one."""


def judge_region(
    views: ObservedViews, phrase: ObjectPhrase, own: Tensor, mask: Tensor, hidden: Hidden
) -> ObjectReport:
    """Judge the object that a region of the views shows.

    Args:
        views: the rendered scene.
        phrase: what it should be.
        own: [V, H, W] bool, solid pixels in the named colour.
        mask: [V, H, W] bool, those that show this object.
        hidden: by others.
    """
    match = match_shape(views, mask, hidden.limits, hidden.undecided)
    best, outer = match.fits[0], match.outer
    outline = match.expected < FAR
    color_share = _share(own & outline, views.covered & outline)
    shade = float(views.lengths[mask].median()) / math.hypot(*PALETTE[phrase.color])

    inside = shrink(outline, 2)
    extents = (outer.half_width, outer.half_width, outer.half_height)
    uneven = (views.distances - match.expected).abs() > max(MAX_DENT * sum(extents) / 3.0, SOFT)
    visible = inside & mask & ~hidden.blended

    return ObjectReport(
        color=phrase.color,
        shape=phrase.shape,
        found=True,
        color_right=color_share >= MIN_COLOR_SHARE and shade >= MIN_SHADE,
        shape_right=best.shape == phrase.shape and best.iou >= MIN_IOU,
        color_share=round(color_share, 4),
        shade=round(shade, 4),
        best_shape=best.shape,
        overlap={fit.shape: round(fit.iou, 4) for fit in match.fits},
        hole_share=round(_share(inside & ~views.solid, inside), 4),
        dent_share=round(_share(uneven & visible, inside), 4),
        center=_rounded(outer.center),
        half_extents=_rounded(extents),
    )


def absent(phrase: ObjectPhrase) -> ObjectReport:
    """Return the verdict on an object that is not there."""
    return ObjectReport(
        color=phrase.color,
        shape=phrase.shape,
        found=False,
        color_right=False,
        shape_right=False,
        color_share=0.0,
        shade=0.0,
        best_shape=None,
        overlap={},
        hole_share=0.0,
        dent_share=0.0,
        center=None,
        half_extents=None,
    )


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part.sum()) / max(float(whole.sum()), 1.0)


def _rounded(values: tuple[float, float, float]) -> tuple[float, float, float]:
    return (round(values[0], 4), round(values[1], 4), round(values[2], 4))
