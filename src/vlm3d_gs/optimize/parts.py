"""Loose parts of a scene: groups of Gaussians with empty space around them.

A fit leaves faint leftovers of the first cloud where no view says that nothing is there: between objects of about their
own brightness. They are too opaque to be pruned one by one, but hold next to nothing of the scene and touch nothing.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from vlm3d_gs.core.gaussians import Gaussians

CELL_LIMIT = 2**19
"""Cells on either side of the origin along each axis, so that three coordinates fit one int64; what lies beyond is
counted into the last cell."""
STRIDES = (2**42, 2**21, 1)
"""Of the three coordinates in a cell's key."""


def loose_mask(scene: Gaussians, gap: float, share: float) -> Tensor:
    """Return [N] bool, True for Gaussians of parts that hold less than `share` of the scene's summed opacity.

    The largest part is never among them.

    Args:
        scene: N Gaussians.
        gap: side of the cells in `connected_parts`, in standard deviations of the median Gaussian along its longest
            axis.
        share: 0 to 1; 0 marks nothing.
    """
    if share <= 0.0 or not len(scene):
        return torch.zeros(len(scene), dtype=torch.bool, device=scene.device)

    opacities = scene.opacities
    size = float(scene.scales.amax(-1).median())
    parts = connected_parts(scene.means, gap * size)
    held = torch.zeros_like(opacities).index_add(0, parts, opacities)
    return held[parts] < torch.minimum(share * held.sum(), held.max())


def connected_parts(means: Tensor, gap: float) -> Tensor:
    """Return [N] int64, the same number for centres that are connected.

    Space is cut into cubic cells; the centres of a cell, and of cells that touch at a face, an edge or a corner, are
    connected. So parts are separate if they are two cells apart along some axis, and never if they are closer than one.

    Args:
        means: [N, 3].
        gap: side of a cell, world units.
    """
    coordinates = (means.detach() / gap).floor().nan_to_num().clamp(-CELL_LIMIT, CELL_LIMIT).long()
    keys = sum(
        stride * column for stride, column in zip(STRIDES, coordinates.unbind(-1), strict=True)
    )
    cells, cell_of = torch.unique(keys, return_inverse=True)
    first, second = _neighbors(cells)

    # The smallest number spreads among neighbours, and from a cell to all that had taken its number.
    labels = torch.arange(len(cells), device=cells.device)
    while True:
        smallest = torch.minimum(labels[first], labels[second])
        spread = labels.scatter_reduce(0, first, smallest, "amin")
        spread = spread.scatter_reduce(0, second, smallest, "amin")
        spread = spread[spread]
        if torch.equal(spread, labels):
            return labels[cell_of]
        labels = spread


def _neighbors(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pairs of occupied cells that touch, as two lists of indices; `cells` are sorted keys."""
    offsets = [
        sum(stride * step for stride, step in zip(STRIDES, steps, strict=True))
        for steps in product((-1, 0, 1), repeat=3)
    ]
    pairs = []
    for offset in offsets:
        if offset > 0:  # each pair once
            found = torch.searchsorted(cells, cells + offset).clamp_max(len(cells) - 1)
            (hit,) = (cells[found] == cells + offset).nonzero(as_tuple=True)
            pairs.append((hit, found[hit]))

    first, second = (torch.cat(column) for column in zip(*pairs, strict=True))
    return first, second
