"""How clean a scene is: foreign colours, haze and floaters, as shares of the covered pixels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from vlm3d_gs.evaluate.regions import component_sizes, grow, shrink, touching
from vlm3d_gs.evaluate.views import ObservedViews

EDGE_PX = 3
"""Width of the rim in which partial coverage is natural."""
MAIN_SHARE = 0.15
"""A component below this share of the view's largest one is a speck, not an object."""
DENSE_ALPHA = 0.85
"""Coverage that the inside of a solid object must have."""
CONTACT_PX = 2
"""Where two objects meet, pixels this close to both may blend their colours."""


@dataclass(frozen=True, slots=True)
class ViewReport:
    """How clean one view is."""

    azimuth_deg: float
    """0 is the front."""
    elevation_deg: float
    """0 is level."""
    covered: float
    """Share of the picture that shows anything."""
    foreign: float
    """Share of the covered pixels in colours that the prompt does not name."""
    haze: float
    """Share of the covered pixels that are faint away from an edge, around or inside an object."""
    floaters: float
    """Share of the covered pixels that hang apart from the objects."""


@dataclass(frozen=True)
class Cleanliness:
    """The three shares over all views together, and those of each view."""

    foreign: float
    haze: float
    floaters: float
    views: tuple[ViewReport, ...]


def drop_specks(masks: Tensor) -> Tensor:
    """Return the components of at least `MAIN_SHARE` of their view's largest; [V, H, W] bool."""
    sizes = component_sizes(masks)
    largest = sizes.flatten(1).amax(dim=1)[:, None, None]
    return masks & (sizes >= MAIN_SHARE * largest)


def contact_zone(first: Tensor, second: Tensor) -> Tensor:
    """Return the pixels that are close to both masks, where colours may blend."""
    return grow(first, CONTACT_PX) & grow(second, CONTACT_PX)


def measure_cleanliness(
    views: ObservedViews, named: list[int], objects: Tensor | None = None
) -> Cleanliness:
    """Measure foreign colours, haze and floaters.

    Shading does not make a colour foreign: `palette` names it by its direction alone. Nor does a
    blend of two named colours where the objects meet.

    Args:
        views: the rendered scene.
        named: classes (indices into `palette.CLASS_NAMES`) that the prompt names.
        objects: [V, H, W] bool, pixels that belong to objects; None takes what is large.

    Returns:
        Shares of the covered pixels; all 0 for an empty scene.
    """
    covered, solid = views.covered, views.solid

    known = torch.isin(views.classes, torch.tensor(named))
    foreign = covered & ~known
    masks = [solid & (views.classes == index) for index in named]
    for first, second in combinations(masks, 2):
        foreign &= ~contact_zone(first, second)

    objects = drop_specks(solid) if objects is None else objects & solid
    attached = touching(covered, objects)
    floaters = covered & ~attached

    # Around an object coverage may fade within EDGE_PX only; inside it must be dense.
    halo = attached & ~solid & ~grow(objects, EDGE_PX)
    thin = shrink(solid, EDGE_PX) & (views.alpha < DENSE_ALPHA)
    haze = halo | thin

    counts = [mask.flatten(1).sum(dim=1).double() for mask in (covered, foreign, haze, floaters)]
    totals = [float(count.sum()) for count in counts]
    base = max(totals[0], 1.0)

    pixels = float(covered[0].numel())
    shares = [counts[0] / pixels] + [count / counts[0].clamp_min(1.0) for count in counts[1:]]
    angles = (views.cameras.azimuths_deg.tolist(), views.cameras.elevations_deg.tolist())
    rows = zip(*angles, *(share.tolist() for share in shares), strict=True)
    reports = tuple(ViewReport(*(round(value, 4) for value in row)) for row in rows)
    return Cleanliness(totals[1] / base, totals[2] / base, totals[3] / base, reports)
