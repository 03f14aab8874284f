"""The single things of one colour in the rendered views: where each is, also where several look alike.

Surface points of all views are put into a grid, whose connected parts are the things. What is connected but fits no
shape well is tried as two or more things that touch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlm3d_gs.evaluate.regions import shrink
from vlm3d_gs.evaluate.views import ObservedViews

VOXEL = 0.015
"""Side of a cell, world units: about a pixel of the views, and less than a gap between things."""
MIN_POINTS = 2
"""Points of a cell that is taken: single ones lie between a thing and what is behind its edge."""
MIN_SHARE = 0.02
"""Cells of a thing at least, as a share of those of the largest thing of its colour."""
MIN_EXTENT = 0.03
"""Half extent of a thing at least, world units; less is a speck."""
NEAR = 0.06
"""Pixels farther than this from every thing belong to none, world units."""


def find_instances(views: ObservedViews, mask: Tensor) -> list[Tensor]:
    """Return the pixels of each thing in a mask.

    Args:
        views: the rendered scene.
        mask: [V, H, W] bool, solid pixels of one colour.

    Returns:
        One [V, H, W] bool a thing, largest first; specks are left out.
    """
    from scipy import ndimage

    core = mask & shrink(mask, 1)
    if not bool(core.any()):
        return []
    points = views.points[core].double().numpy()
    origin = points.min(axis=0) - 2.0 * NEAR
    cells = ((points - origin) / VOXEL).astype(np.int64)
    shape = tuple(int(value) + 2 + int(2.0 * NEAR / VOXEL) for value in cells.max(axis=0))
    counts = np.zeros(shape, np.int32)
    np.add.at(counts, tuple(cells.T), 1)

    labels, _ = ndimage.label(counts >= MIN_POINTS, structure=np.ones((3, 3, 3)))
    kept = _large(labels, ndimage.find_objects(labels))
    if not kept:
        return []

    # Every pixel goes to the nearest thing.
    taken = np.isin(labels, kept)
    distance, nearest = ndimage.distance_transform_edt(~taken, sampling=VOXEL, return_indices=True)
    owner = np.where(distance <= NEAR, labels[tuple(nearest)], 0)
    pixels = ((views.points[mask].double().numpy() - origin) / VOXEL).astype(np.int64)
    inside = ((pixels >= 0) & (pixels < np.array(shape))).all(axis=1)
    owners = np.zeros(len(pixels), np.int64)
    owners[inside] = owner[tuple(pixels[inside].T)]

    things = []
    for label in kept:
        one = torch.zeros_like(mask)
        one[mask] = torch.from_numpy(owners == label)
        things.append(one)
    return things


def split(views: ObservedViews, mask: Tensor, parts: int) -> list[Tensor]:
    """Return a mask in so many parts, by the places of its pixels: k-means, from the farthest points on."""
    points = views.points[mask].double().numpy()
    centers = [points[int(np.argmin(points[:, 1]))]]
    for _ in range(parts - 1):
        away = np.min([np.linalg.norm(points - center, axis=1) for center in centers], axis=0)
        centers.append(points[int(np.argmax(away))])
    places = np.stack(centers)

    for _ in range(20):
        nearest = np.linalg.norm(points[:, None] - places[None], axis=-1).argmin(axis=1)
        places = np.stack(
            [
                points[nearest == k].mean(axis=0) if (nearest == k).any() else places[k]
                for k in range(parts)
            ]
        )

    things = []
    for number in range(parts):
        one = torch.zeros_like(mask)
        one[mask] = torch.from_numpy(nearest == number)
        things.append(one)
    return [one for one in things if bool(one.any())]


def _large(labels: NDArray[np.int32], boxes: list[tuple[slice, ...]]) -> list[int]:
    """Return the labels of things that are no specks, the largest first, given the cells around each."""
    sizes = np.bincount(labels.ravel(), minlength=len(boxes) + 1)[1:]
    kept = []
    for number in np.argsort(-sizes, kind="stable"):
        sides = [(part.stop - part.start) * VOXEL / 2.0 for part in boxes[number]]
        if sizes[number] >= MIN_SHARE * sizes.max() and max(sides) >= MIN_EXTENT:
            kept.append(int(number) + 1)
    return kept
