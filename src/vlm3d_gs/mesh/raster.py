"""Compiled loops over triangles: a depth image of a mesh, and the texels of its atlas.

Letters: V vertices, F triangles, H rows, W columns, T side of the texture.
"""

# Numba's decorators carry no types.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vlm3d_gs.mesh.grid import F32, F64
from vlm3d_gs.render.cpu.math import ceil_within, entry_options, floor_within, kernel_options

I32 = NDArray[np.int32]

SHALLOWEST = 0.15
"""Cosine of the most grazing angle at which a view still counts."""
SHARPNESS = 4
"""Exponent of the cosine that weights the views: higher is sharper, lower is smoother."""
EDGE = 1e-9
"""Slack of the inside test, so that no pixel falls between two triangles."""


@njit(**kernel_options)
def signed_area(ax: float, ay: float, bx: float, by: float, cx: float, cy: float) -> float:
    """Return twice the signed area of a triangle, positive where its vertices turn from x to y."""
    return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)


@njit(**kernel_options)
def pixel_range(a: float, b: float, c: float, count: int) -> tuple[int, int]:
    """Return the first and the last of `count` pixels whose centres lie within a triangle's extent.

    None, with the last before the first, if the triangle lies outside or a coordinate is NaN.
    """
    low, high = min(a, b, c) - 0.5, max(a, b, c) - 0.5
    return floor_within(low, 0, count), ceil_within(high, -1, count - 1)


@njit(**entry_options)
def rasterize_depth(vertices: F64, faces: I32, depth: F32) -> None:
    """Write the depth of the nearest triangle at each pixel's centre.

    Args:
        vertices: [V, 3] x and y in pixels, and depth along the camera's axis, positive.
        faces: [F, 3].
        depth: [H, W], lowered where a triangle is nearer.
    """
    height, width = depth.shape
    for f in range(faces.shape[0]):
        ax, ay, az = vertices[faces[f, 0]]
        bx, by, bz = vertices[faces[f, 1]]
        cx, cy, cz = vertices[faces[f, 2]]

        area = signed_area(ax, ay, bx, by, cx, cy)
        if abs(area) < 1e-12:
            continue

        first, last = pixel_range(ay, by, cy, height)
        left, right = pixel_range(ax, bx, cx, width)
        for row in range(first, last + 1):
            for col in range(left, right + 1):
                # Barycentric coordinates from areas; the sign of `area` cancels, so both windings count.
                x, y = col + 0.5, row + 0.5
                u = signed_area(x, y, bx, by, cx, cy) / area
                v = signed_area(x, y, cx, cy, ax, ay) / area
                w = 1.0 - u - v

                if u >= -EDGE and v >= -EDGE and w >= -EDGE:
                    z = 1.0 / (u / az + v / bz + w / cz)  # 1 / depth is linear in the image
                    depth[row, col] = min(depth[row, col], z)


@njit(**entry_options)
def rasterize_texels(vertices: F64, faces: I32, owners: I32, weights: F32) -> None:
    """Write which triangle covers each texel's centre, and the barycentric coordinates there.

    Args:
        vertices: [V, 2] column and row in texels.
        faces: [F, 3].
        owners: [T, T], written where a triangle covers and no other did before.
        weights: [T, T, 3] barycentric coordinates, written with the owner.
    """
    side = owners.shape[0]
    for f in range(faces.shape[0]):
        ax, ay = vertices[faces[f, 0]]
        bx, by = vertices[faces[f, 1]]
        cx, cy = vertices[faces[f, 2]]

        area = signed_area(ax, ay, bx, by, cx, cy)
        if abs(area) < 1e-12:
            continue

        first, last = pixel_range(ay, by, cy, side)
        left, right = pixel_range(ax, bx, cx, side)
        for row in range(first, last + 1):
            for col in range(left, right + 1):
                # Barycentric coordinates from areas; the sign of `area` cancels, so both windings count.
                x, y = col + 0.5, row + 0.5
                u = signed_area(x, y, bx, by, cx, cy) / area
                v = signed_area(x, y, cx, cy, ax, ay) / area
                w = 1.0 - u - v

                if u >= -EDGE and v >= -EDGE and w >= -EDGE and owners[row, col] < 0:
                    owners[row, col] = f
                    weights[row, col, 0], weights[row, col, 1], weights[row, col, 2] = u, v, w


@njit(**kernel_options)
def depth_difference(depth: F32, row: int, col: int, z: float) -> float:
    """Return the largest difference between a depth and that of four pixels."""
    worst = 0.0
    for i in range(2):
        for j in range(2):
            worst = max(worst, abs(depth[row + i, col + j] - z))
    return worst


@njit(**kernel_options)
def add_color(
    color: F32, row: int, col: int, down: float, right: float, weight: float, total: F64
) -> None:
    """Add the bilinear mean of four pixels, weighted by their fourth channel, to a total [4]."""
    for i in range(2):
        for j in range(2):
            share = (right if j else 1.0 - right) * (down if i else 1.0 - down)
            share *= weight * color[row + i, col + j, 3]
            for k in range(3):
                total[k] += share * color[row + i, col + j, k]
            total[3] += share


@njit(**entry_options)
def accumulate_colors(
    points: F64,
    normals: F64,
    viewmat: F64,
    intrinsics: F64,
    color: F32,
    depth: F32,
    tolerance: float,
    totals: F64,
) -> None:
    """Add the colours of one view to the totals of the points that it sees.

    A point is visible if it faces the camera and the four pixels around it show the surface at its
    depth, so colours never leak across an edge. Weights fall to 0 towards both limits, so that the
    border of a view does not show.

    Args:
        points: [P, 3] in the world.
        normals: [P, 3] unit, outwards.
        viewmat: [4, 4] world to camera.
        intrinsics: [3, 3] pixels.
        color: [H, W, 4] straight colour, and the weight of each pixel.
        depth: [H, W] of the mesh, large where there is none.
        tolerance: largest difference in depth, world units.
        totals: [P, 4] weighted colour and weight, added to.
    """
    height, width = depth.shape
    eye = np.zeros(3)  # -R^T t
    for k in range(3):
        for m in range(3):
            eye[k] -= viewmat[m, k] * viewmat[m, 3]

    for p in range(points.shape[0]):
        ex, ey, ez = eye[0] - points[p, 0], eye[1] - points[p, 1], eye[2] - points[p, 2]
        facing = ex * normals[p, 0] + ey * normals[p, 1] + ez * normals[p, 2]
        if facing <= 0.0:
            continue
        facing /= math.sqrt(ex * ex + ey * ey + ez * ez)
        if facing <= SHALLOWEST:
            continue

        x = viewmat[0, 3]
        y = viewmat[1, 3]
        z = viewmat[2, 3]
        for k in range(3):
            x += viewmat[0, k] * points[p, k]
            y += viewmat[1, k] * points[p, k]
            z += viewmat[2, k] * points[p, k]

        column = intrinsics[0, 0] * x / z + intrinsics[0, 2] - 0.5
        line = intrinsics[1, 1] * y / z + intrinsics[1, 2] - 0.5

        # The four pixels around the projection must all lie in the image; NaN lies nowhere.
        if not (0.0 <= column < width - 1 and 0.0 <= line < height - 1):
            continue
        c, r = math.floor(column), math.floor(line)

        nearness = 1.0 - depth_difference(depth, r, c, z) * facing / tolerance
        if nearness <= 0.0:
            continue
        weight = nearness * (facing - SHALLOWEST) ** SHARPNESS
        add_color(color, r, c, line - r, column - c, weight, totals[p])
