"""The colours of a mesh, baked from renders of the Gaussians all around it.

Each view is weighted by its angle to the surface, and only counts for points that it sees by the
mesh's own depth. Points that no view sees take the colour of the nearest point that one does.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import unpremultiply
from vlm3d_gs.mesh.grid import F32, F64
from vlm3d_gs.mesh.raster import accumulate_colors, rasterize_depth
from vlm3d_gs.mesh.solid import Solid
from vlm3d_gs.render import Backend, render

SIZE_PX = 512
DISTANCE, FOV_DEG = 3.1, 40.0
"""The unit ball just fills the image."""
RINGS: tuple[tuple[float, int], ...] = ((0.0, 12), (35.0, 10), (-35.0, 8), (70.0, 4), (-70.0, 4))
"""Elevation in degrees and number of views of each ring."""
TOLERANCE = 0.012
"""Difference in depth up to which a pixel shows a point seen head-on; the ball has radius 1."""
FAINT_ALPHA = 0.05
"""Pixels fainter than this have no reliable colour."""
MAX_NEIGHBORS = 100_000
"""Visible points that the nearest one is searched among."""
NO_DEPTH = np.float32(1e9)


def bake_cameras(size_px: int = SIZE_PX) -> Cameras:
    """Return the cameras that colours are baked from: five rings and both poles."""
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
    """Return the colours of points on a mesh.

    Args:
        gaussians: the scene, inside the unit ball.
        solid: the mesh, in the same coordinates.
        points: [P, 3] on it.
        normals: [P, 3] unit, outwards.
        cameras: views to bake from; None for `bake_cameras()`.
        backend: as in `render.render`.

    Returns:
        [P, 3] sRGB as displayed, 0 to 1.
    """
    views = bake_cameras() if cameras is None else cameras
    totals = np.zeros((len(points), 4))
    for index in range(len(views)):
        view = views.select([index])
        color = _render_colors(gaussians, view, backend)
        viewmat = view.viewmats[0].double().numpy()
        intrinsics = view.Ks[0].double().numpy()

        depth = np.full((views.height, views.width), NO_DEPTH, np.float32)
        rasterize_depth(project(solid.vertices, viewmat, intrinsics), solid.faces, depth)
        accumulate_colors(points, normals, viewmat, intrinsics, color, depth, TOLERANCE, totals)
    return _weighted_mean(points, totals)


def project(points: F64, viewmat: F64, intrinsics: F64) -> F64:
    """Return points projected into an image, [P, 3]: column and row in pixels, depth."""
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    image = local @ intrinsics.T
    return np.ascontiguousarray(
        np.concatenate([image[:, :2] / local[:, 2:], local[:, 2:]], axis=-1)
    )


def _render_colors(gaussians: Gaussians, view: Cameras, backend: Backend) -> F32:
    """Return straight colour and weight of one view, [H, W, 4]; the weight of faint pixels is 0."""
    with torch.no_grad():
        rendering = render(gaussians, view.to(gaussians.device), backend=backend)
    alpha = rendering.alpha[0].float()
    color = unpremultiply(rendering.color[0].float(), alpha).clamp(0.0, 1.0)
    weight = torch.where(alpha > FAINT_ALPHA, alpha, 0.0)
    return np.ascontiguousarray(torch.cat([color, weight], dim=-1).cpu().numpy())


def _weighted_mean(points: F64, totals: F64) -> F32:
    """Divide by the weights, and give points without any the colour of the nearest one that has."""
    visible = totals[:, 3] > 1e-9
    colors = np.full((len(points), 3), 0.5, np.float32)
    colors[visible] = (totals[visible, :3] / totals[visible, 3:]).astype(np.float32)

    if visible.any() and not visible.all():
        known = np.flatnonzero(visible)
        known = known[:: max(1, len(known) // MAX_NEIGHBORS)]
        _, nearest = cKDTree(points[known]).query(points[~visible])
        colors[~visible] = colors[known[nearest]]
    return colors
