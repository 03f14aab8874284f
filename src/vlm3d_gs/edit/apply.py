"""Edits of a splat in pieces: what is kept, and where it is put."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.edit.decimate import most_contributing
from vlm3d_gs.edit.select import in_largest_part, inside_box, inside_sphere, narrow, opaque
from vlm3d_gs.edit.settings import Edits, kept_count
from vlm3d_gs.edit.transform import euler_rotation, transformed
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.stream import SplatStream
from vlm3d_gs.formats.world import as_gaussians


def edited(stream: SplatStream, edits: Edits) -> SplatStream:
    """Return a splat after all edits; its pieces are read again for each of them.

    Args:
        stream: finite.
        edits: what is done, in the axes of the stream.

    Raises:
        ExportError: nothing is left.
    """
    tests = _tests(edits)
    if tests:

        def kept(piece: SplatArrays) -> NDArray[np.bool_]:
            gaussians = as_gaussians(piece)
            return torch.stack([test(gaussians) for test in tests]).all(0).numpy()

        stream = _kept(stream, np.concatenate([np.zeros(0, bool), *stream.each(kept)]))

    # These two look at the whole scene, without its harmonics.
    if edits.largest_part:
        stream = _kept(stream, in_largest_part(_without_harmonics(stream)).numpy())
    if edits.decimate is not None and kept_count(edits.decimate, len(stream)) < len(stream):
        count = kept_count(edits.decimate, len(stream))
        stream = stream.select(most_contributing(_without_harmonics(stream), count).numpy())

    if (edits.scale, edits.rotate_deg, edits.translate) == (1.0, (0, 0, 0), (0, 0, 0)):
        return stream
    return stream.mapped(lambda piece: _placed(piece, edits))


def _tests(edits: Edits) -> list[Callable[[Gaussians], Tensor]]:
    """Return the tests that each Gaussian must pass by itself."""
    tests: list[Callable[[Gaussians], Tensor]] = []
    if edits.box is not None:
        low, high = (torch.tensor(corner, dtype=torch.float64) for corner in edits.box)
        tests.append(lambda scene: inside_box(scene, low, high))
    if edits.sphere is not None:
        center, radius = torch.tensor(edits.sphere[0], dtype=torch.float64), edits.sphere[1]
        tests.append(lambda scene: inside_sphere(scene, center, radius))
    if edits.min_opacity is not None:
        smallest = edits.min_opacity
        tests.append(lambda scene: opaque(scene, smallest))
    if edits.max_scale is not None:
        largest = edits.max_scale
        tests.append(lambda scene: narrow(scene, largest))
    return tests


def _kept(stream: SplatStream, keep: NDArray[np.bool_]) -> SplatStream:
    if not keep.any():
        raise ExportError(
            f"Nothing is left: none of the {len(keep)} Gaussians passes. `vlm3d-gs info` shows the "
            "bounds, opacities and sizes of a file, in its axes."
        )
    return stream.select(keep)


def _without_harmonics(stream: SplatStream) -> Gaussians:
    return as_gaussians(stream.with_degree(0).gather())


def _placed(piece: SplatArrays, edits: Edits) -> SplatArrays:
    """Return a piece scaled, turned and moved."""
    moved = transformed(
        as_gaussians(piece),
        scale=edits.scale,
        rotation=euler_rotation(edits.rotate_deg),
        translation=torch.tensor(edits.translate, dtype=torch.float64),
    )
    return piece.with_columns({name: value.numpy() for name, value in moved.parameters().items()})
