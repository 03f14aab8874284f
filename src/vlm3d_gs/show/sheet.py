"""Contact sheets: labelled stills of a scene, as a product and as previews of a running job."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import Color, label, save_png, tile_grid
from vlm3d_gs.render import Backend
from vlm3d_gs.show.framing import BACKGROUND, DISTANCE, FOV_DEG, framed, render_frames

View = tuple[str, float, float]
"""Label, azimuth and elevation in degrees."""

NAMED_VIEWS: tuple[View, ...] = (
    ("front", 0.0, 15.0),
    ("right side", 90.0, 15.0),
    ("back", 180.0, 15.0),
    ("left side", 270.0, 15.0),
)
"""The four views, named as in prompts and questions."""
SHEET_VIEWS: tuple[View, ...] = (
    *NAMED_VIEWS,
    ("45 deg", 45.0, 0.0),
    ("135 deg", 135.0, 30.0),
    ("225 deg", 225.0, 0.0),
    ("top", 0.0, 80.0),
)
COLUMNS = 4


def write_sheet(
    gaussians: Gaussians,
    path: str | Path,
    *,
    size_px: int = 256,
    background: Color = BACKGROUND,
    backend: Backend = "auto",
) -> None:
    """Write eight labelled views: front, right side, back, left side, three between, and the top.

    Args:
        gaussians: the scene; larger ones than the unit ball are scaled.
        path: the PNG file; replaced if it exists.
        size_px: side of one view, at least 1.
        background: colour behind the object.
        backend: as in `render.render`.

    Raises:
        ExportError: no Gaussians, or the folder does not exist.
    """
    save_png(_sheet(gaussians, SHEET_VIEWS, size_px, background, backend), path)


def write_preview(
    gaussians: Gaussians,
    path: str | Path,
    *,
    size_px: int = 128,
    background: Color = BACKGROUND,
    backend: Backend = "auto",
) -> None:
    """Write the four named views in one row, quickly enough for a running job.

    Args:
        gaussians: the scene.
        path: the PNG file; replaced atomically if it exists.
        size_px: side of one view, at least 1.
        background: colour behind the object.
        backend: as in `render.render`.

    Raises:
        ExportError: no Gaussians, or the folder does not exist.
    """
    save_png(preview(gaussians, size_px=size_px, background=background, backend=backend), path)


def preview(
    gaussians: Gaussians,
    *,
    size_px: int = 128,
    background: Color = BACKGROUND,
    backend: Backend = "auto",
) -> Tensor:
    """Return what `write_preview` writes, [H, W, 3] on the host.

    Raises:
        ExportError: no Gaussians.
    """
    return _sheet(gaussians, NAMED_VIEWS, size_px, background, backend)


def _sheet(
    gaussians: Gaussians,
    views: tuple[View, ...],
    size_px: int,
    background: Color,
    backend: Backend,
) -> Tensor:
    """Return labelled views in rows of `COLUMNS`, [H, W, 3] on the host."""
    if len(gaussians) == 0:
        raise ExportError("There is nothing to show: the scene has no Gaussians.")

    names, azimuths, elevations = zip(*views, strict=True)
    cameras = orbit(list(azimuths), list(elevations), DISTANCE, FOV_DEG, size_px, size_px)
    frames = torch.stack(
        list(render_frames(framed(gaussians, own=True), cameras, background, backend))
    )
    return tile_grid(label(frames, names), COLUMNS)
