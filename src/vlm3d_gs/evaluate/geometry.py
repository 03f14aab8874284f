"""Is one object sound as a body? Faces on several sides, loose parts, thickness; each from its silhouettes alone.

For scenes of a single object: of several, one hides another, and that looks like a face that comes and goes. How often
each of the three is wrong stands in docs/log/evaluation.md, by benchmarks/measure_errors.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import turntable_cameras
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.evaluate.cleanliness import drop_specks
from vlm3d_gs.evaluate.palette import CLASS_NAMES
from vlm3d_gs.evaluate.regions import touching
from vlm3d_gs.evaluate.views import DISTANCE, FOV_DEG, ObservedViews, observe
from vlm3d_gs.render import Backend

VIEWS, SIZE_PX = 24, 64
"""Level views around the object."""
OFTEN = (2, 3, 4, 6)
"""Times a turn at which two to four faces return; what is seen as a half cosine has no third harmonic, so three come
six times."""
LEAST_SHARE, MOST_SHARE, LEAST_SWING = 0.01, 0.5, 0.06
"""A colour counts as a face that covers this much of the object on average, and whose area changes by this share of its
mean at least. What covers more than half is the body, whose area follows its shape: a cube's comes four times."""
MANY_FACES, LOOSE, FLAT = 0.5, 0.02, 0.6
"""Above the first two and below the third, an object is called many-faced, loose, or flat."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Three measures of one object."""

    faces: float
    """Multi-face score, 0 to 1: of what changes over a turn, the share that returns 2 to 6 times a turn against what
    returns once. 0 where nothing changes."""
    floaters: float
    """Share of the covered pixels that hang apart from the object."""
    thickness: float
    """Narrowest over widest silhouette of all level views; 1 for a body of revolution, 0.71 for a cube."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong, in words."""
        wrong = (
            ("a face on several sides", self.faces > MANY_FACES),
            ("loose parts", self.floaters > LOOSE),
            ("flat", self.thickness < FLAT),
        )
        return tuple(name for name, found in wrong if found)


def measure_geometry(gaussians: Gaussians, *, backend: Backend = "auto") -> Geometry:
    """Measure a scene of one object.

    Args:
        gaussians: the scene, in our world frame and scale.
        backend: as in `render.render`.

    Returns:
        The measures; an empty scene has no faces, no floaters and thickness 0. Not differentiable.
    """
    cameras = turntable_cameras(VIEWS, 0.0, DISTANCE, FOV_DEG, SIZE_PX, SIZE_PX)
    views = observe(gaussians, cameras, backend)
    body = drop_specks(views.solid)
    return Geometry(face_score(class_areas(views, body)), _floaters(views, body), _thickness(body))


def class_areas(views: ObservedViews, body: Tensor) -> Tensor:
    """Return the pixels of each colour class of the body in each view, [V, classes] float64."""
    areas = [
        (body & (views.classes == index)).flatten(1).sum(1) for index in range(len(CLASS_NAMES))
    ]
    return torch.stack(areas, dim=1).double()


def face_score(areas: Tensor) -> float:
    """Return the multi-face score of areas over one turn.

    What is seen from one side only comes once a turn, so its area has most of its change in the first harmonic (of a
    half cosine, 85 % of that of the first two). A face on two sides comes twice, and has none there.

    Args:
        areas: [V, K] areas of K colours in V views, evenly spaced over a turn.
    """
    total = areas.sum()
    if total == 0:
        return 0.0
    mean = areas.mean(dim=0)
    swing = (areas.amax(dim=0) - areas.amin(dim=0)) / (2.0 * mean.clamp_min(1e-12))
    share = mean * len(areas) / total
    counts = (share >= LEAST_SHARE) & (share <= MOST_SHARE) & (swing >= LEAST_SWING)

    power = torch.fft.rfft(areas, dim=0).abs().square()
    once, often = power[1], torch.stack([power[faces] for faces in OFTEN]).amax(dim=0)
    scores = torch.where(counts, often / (once + often).clamp_min(1e-12), 0.0)
    return float(scores.max())


def _floaters(views: ObservedViews, body: Tensor) -> float:
    covered = views.covered
    apart = covered & ~touching(covered, body)
    return float(apart.sum()) / max(1.0, float(covered.sum()))


def _thickness(body: Tensor) -> float:
    """Return the narrowest over the widest extent along the rows of a picture, by area over height."""
    heights = body.any(dim=2).sum(dim=1).double()
    widths = body.flatten(1).sum(dim=1).double() / heights.clamp_min(1.0)
    return float(widths.min() / widths.max()) if float(widths.max()) > 0 else 0.0
