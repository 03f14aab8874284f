"""A picture of a mesh, drawn the slow and plain way: an oracle that shares no code with the package."""

from __future__ import annotations

import numpy as np
from numba import njit

from vlm3d_gs.core.cameras import Cameras


def draw(vertices, faces, uvs, image, cameras: Cameras):
    """Return colour [C, H, W, 3] over black and coverage [C, H, W]; the texture is sampled bilinearly.

    vertices [V, 3] in the cameras' world; faces [F, 3]; uvs [V, 2], v upwards; image [T, T, 3].
    """
    colors, masks = [], []
    for viewmat, intrinsics in zip(
        cameras.viewmats.double().numpy(), cameras.Ks.double().numpy(), strict=True
    ):
        local = vertices @ viewmat[:3, :3].T + viewmat[:3, 3]
        color = np.zeros((cameras.height, cameras.width, 3))
        nearest = np.full((cameras.height, cameras.width), np.inf)
        _draw(
            local,
            np.asarray(faces, np.int64),
            np.asarray(uvs, np.float64),
            np.asarray(image, np.float64),
            intrinsics,
            color,
            nearest,
        )
        colors.append(color)
        masks.append(np.isfinite(nearest))
    return np.stack(colors), np.stack(masks)


@njit(cache=False)
def _draw(local, faces, uvs, image, intrinsics, color, nearest):
    """Ray of each pixel in a triangle's box against the triangle (Moeller-Trumbore), nearest wins."""
    height, width = nearest.shape
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    for f in range(len(faces)):
        a, b, c = local[faces[f, 0]], local[faces[f, 1]], local[faces[f, 2]]
        xs = (fx * a[0] / a[2] + cx, fx * b[0] / b[2] + cx, fx * c[0] / c[2] + cx)
        ys = (fy * a[1] / a[2] + cy, fy * b[1] / b[2] + cy, fy * c[1] / c[2] + cy)
        e1, e2 = b - a, c - a
        for row in range(max(0, int(min(ys)) - 1), min(height, int(max(ys)) + 2)):
            for col in range(max(0, int(min(xs)) - 1), min(width, int(max(xs)) + 2)):
                ray = np.array([(col + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, 1.0])
                p = np.cross(ray, e2)
                det = np.dot(e1, p)
                if abs(det) < 1e-15:
                    continue
                u = -np.dot(a, p) / det
                q = np.cross(-a, e1)
                v = np.dot(ray, q) / det
                t = np.dot(e2, q) / det
                if u < -1e-9 or v < -1e-9 or u + v > 1 + 1e-9 or t <= 0 or t >= nearest[row, col]:
                    continue
                nearest[row, col] = t
                w = 1 - u - v
                uv = w * uvs[faces[f, 0]] + u * uvs[faces[f, 1]] + v * uvs[faces[f, 2]]
                _sample(image, uv[0], 1 - uv[1], color[row, col])


@njit(cache=False)
def _sample(image, s, t, out):
    rows, columns = image.shape[0], image.shape[1]
    x, y = s * columns - 0.5, t * rows - 0.5
    i, j = int(np.floor(y)), int(np.floor(x))
    fy, fx = y - i, x - j
    for k in range(3):
        out[k] = 0.0
    for di in range(2):
        for dj in range(2):
            r, c = min(max(i + di, 0), rows - 1), min(max(j + dj, 0), columns - 1)
            share = (fy if di else 1 - fy) * (fx if dj else 1 - fx)
            for k in range(3):
                out[k] += share * image[r, c, k]
