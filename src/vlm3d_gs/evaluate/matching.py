"""From the masks of an object to its shape: which rays to use, and how to allow for soft edges.

Soft Gaussians round a shape off, as if a ball had been rolled around it, and any rounded shape
resembles a sphere a little. Shrinking the masks by a disc undoes that: it restores the corners of a
rounded cube, while a sphere stays a sphere. So where two shapes score similarly, the shrunken masks
are matched too, and the better of the two explanations counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlm3d_gs.evaluate.regions import shrink, shrink_disc
from vlm3d_gs.evaluate.shapes import F64, Rays, ShapeFit, distances, fit_shapes, settle
from vlm3d_gs.evaluate.views import ObservedViews, flat_rays, search_pixels
from vlm3d_gs.mini.world.raycast import FAR

CLEAR_MARGIN = 0.05
"""A shape that leads by this much in overlap is accepted without trying the shrunken masks."""
ROUNDING_PX = 3.0
"""Radius of the disc; a two-object scene's half extents are about 14 pixels."""
REACH = 1.15
"""Candidates stay within this many radii of the observed box's outer ball."""
BOX_QUANTILE = 0.01
"""Share of the surface points that the box cuts off at each end of an axis."""


@dataclass(frozen=True)
class Match:
    """The shape that explains an object's masks best."""

    fits: tuple[ShapeFit, ...]
    """All five shapes, best first, fitted to the masks that decided."""
    outer: ShapeFit
    """The best shape fitted to the whole masks: the object's place and extent."""
    expected: Tensor
    """[V, H, W] distance of `outer` from the camera, `FAR` where it does not show."""


def match_shape(views: ObservedViews, mask: Tensor, limits: Tensor, undecided: Tensor) -> Match:
    """Find the primitive that explains an object's masks best.

    Args:
        views: the rendered scene.
        mask: [V, H, W] bool, pixels that show the object.
        limits: [V, H, W] distance from which on something else hides it, `FAR` if nothing does.
        undecided: [V, H, W] bool, pixels to ignore.

    Returns:
        The match.
    """
    low, high = _box(views, mask)
    near = (_near(views, low, high) | mask) & ~undecided
    fits = _fit(views, mask, limits, near, (low, high))
    outer = fits[0]

    if fits[0].iou - fits[1].iou < CLEAR_MARGIN:
        core = mask & shrink_disc(mask | undecided | (limits < FAR), ROUNDING_PX)
        if bool(core.any()):
            sharper = _fit(views, core, limits, near, _box(views, core))
            if sharper[0].iou > fits[0].iou:
                outer = next(fit for fit in fits if fit.shape == sharper[0].shape)
                fits = sharper

    rays = _rays(views, mask, limits, near)
    # The surface that dents are measured against follows what is seen; place and size are the silhouettes'.
    settled = settle(outer, rays, views.distances[near].double().numpy())
    expected = torch.full_like(limits, FAR)
    expected[near] = torch.from_numpy(distances(settled, rays)).float()
    return Match(fits, outer, torch.where(expected < limits, expected, FAR))


def _fit(
    views: ObservedViews, mask: Tensor, limits: Tensor, near: Tensor, box: tuple[F64, F64]
) -> tuple[ShapeFit, ...]:
    rough = _rays(views, mask, limits, near & search_pixels(views))
    return fit_shapes(rough, _rays(views, mask, limits, near), *box)


def _rays(views: ObservedViews, mask: Tensor, limits: Tensor, pixels: Tensor) -> Rays:
    """Return the rays of these pixels, whether each shows the object, and from where on it would be hidden."""
    inside, hides = mask[pixels].numpy(), limits[pixels].double().numpy()
    return Rays(*flat_rays(views, pixels), inside, hides)


def _box(views: ObservedViews, mask: Tensor) -> tuple[F64, F64]:
    """Return the corners of the box that holds nearly all visible surface points of the object."""
    core = shrink(mask, 1)
    points = views.points[core if int(core.sum()) > 100 else mask].double()
    limits = torch.tensor([BOX_QUANTILE, 1.0 - BOX_QUANTILE], dtype=torch.float64)
    low, high = torch.quantile(points, limits, dim=0)
    return low.numpy(), high.numpy()


def _near(views: ObservedViews, low: F64, high: F64) -> Tensor:
    """Return the pixels whose rays hit the ball in which candidates are searched."""
    center = torch.from_numpy((low + high) / 2.0).float()
    radius = REACH * float(np.linalg.norm(high - low)) / 2.0
    offsets = center - views.origins
    along = torch.einsum("vi,vhwi->vhw", offsets, views.directions)
    return (offsets**2).sum(dim=-1)[:, None, None] - along**2 < radius**2
