"""The colours of a mesh, gathered from renders of the Gaussians all around it.

Each view counts by its angle to the surface, and only where the mesh's own depth says that it sees
the place. What no view sees takes the colour of the nearest place that one does.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import unpremultiply
from vlm3d_gs.mesh.grid import F32, F64
from vlm3d_gs.mesh.raster import draw_depth, gather
from vlm3d_gs.mesh.solid import Solid
from vlm3d_gs.render import Backend, render

SIZE_PX = 512
DISTANCE, FOV_DEG = 3.1, 40.0
"""The unit ball just fills the picture."""
RINGS: tuple[tuple[float, int], ...] = ((0.0, 12), (35.0, 10), (-35.0, 8), (70.0, 4), (-70.0, 4))
"""Elevation in degrees and number of views of each ring."""
TOLERANCE = 0.012
"""Difference in depth up to which a pixel shows a place seen straight on; the ball has radius 1."""
FAINT_ALPHA = 0.05
"""Pixels fainter than this have no colour of their own."""
MOST_NEIGHBORS = 100_000
"""Seen places among which the nearest is looked for."""
NOWHERE = np.float32(1e9)


def bake_cameras(size_px: int = SIZE_PX) -> Cameras:
    """Return the views that colours are gathered from: five rings and both poles."""
    views = [
        (360.0 * (k + 0.5 * (ring % 2)) / count, elevation)
        for ring, (elevation, count) in enumerate(RINGS)
        for k in range(count)
    ]
    views += [(0.0, 90.0), (0.0, -90.0)]
    azimuths, elevations = zip(*views, strict=True)
    return orbit(list(azimuths), list(elevations), DISTANCE, FOV_DEG, size_px, size_px)


def bake(
    gaussians: Gaussians,
    solid: Solid,
    points: F64,
    normals: F64,
    *,
    cameras: Cameras | None = None,
    backend: Backend = "auto",
) -> F32:
    """Return the colours of places on a mesh.

    Args:
        gaussians: the scene, inside the unit ball.
        solid: the mesh, in the same place.
        points: [P, 3] on it.
        normals: [P, 3] unit, outwards.
        cameras: views to gather from; `bake_cameras` if not given.
        backend: as in `render.render`.

    Returns:
        [P, 3] sRGB as displayed, 0 to 1.
    """
    views = bake_cameras() if cameras is None else cameras
    totals = np.zeros((len(points), 4))
    for index in range(len(views)):
        view = views.select([index])
        color = _pixels(gaussians, view, backend)
        viewmat = view.viewmats[0].double().numpy()
        intrinsics = view.Ks[0].double().numpy()
        depth = np.full((views.height, views.width), NOWHERE, np.float32)
        draw_depth(project(solid.vertices, viewmat, intrinsics), solid.faces, depth)
        gather(points, normals, viewmat, intrinsics, color, depth, TOLERANCE, totals)
    return _settled(points, totals)


def project(points: F64, viewmat: F64, intrinsics: F64) -> F64:
    """Return where points are in a picture, [P, 3]: column and row in pixels, depth."""
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    image = local @ intrinsics.T
    return np.ascontiguousarray(
        np.concatenate([image[:, :2] / local[:, 2:], local[:, 2:]], axis=-1)
    )


def _pixels(gaussians: Gaussians, view: Cameras, backend: Backend) -> F32:
    """Return straight colour and coverage of one view, [H, W, 4]; faint pixels count nothing."""
    with torch.no_grad():
        rendering = render(gaussians, view.to(gaussians.device), backend=backend)
    alpha = rendering.alpha[0].float()
    color = unpremultiply(rendering.color[0].float(), alpha).clamp(0.0, 1.0)
    weight = torch.where(alpha > FAINT_ALPHA, alpha, 0.0)
    return np.ascontiguousarray(torch.cat([color, weight], dim=-1).cpu().numpy())


def _settled(points: F64, totals: F64) -> F32:
    """Divide by the weights, and give unseen places the colour of the nearest seen one."""
    seen = totals[:, 3] > 1e-9
    colors = np.full((len(points), 3), 0.5, np.float32)
    colors[seen] = (totals[seen, :3] / totals[seen, 3:]).astype(np.float32)
    if seen.any() and not seen.all():
        known = np.flatnonzero(seen)
        known = known[:: max(1, len(known) // MOST_NEIGHBORS)]
        _, nearest = cKDTree(points[known]).query(points[~seen])
        colors[~seen] = colors[known[nearest]]
    return colors
