"""Exact images of coloured primitives: a small Numba ray caster.

Shapes are indexed as in `prompts.SHAPES`. An object of size r at centre c is, axis-aligned, with z up:
sphere of radius r; cube of half edge 0.8 r; cylinder of radius 0.75 r and half height 0.85 r; cone of base radius
0.9 r and half height 0.9 r, tip up; torus lying flat with major radius 0.68 r and minor radius 0.30 r.

Light comes from one fixed direction of the world and is the same in every view, so that a view-independent colour on
the surface explains every image: shade = 0.72 + 0.28 n.l, colour = albedo * shade.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vlm3d_gs.render.cpu.cache import can_cache

F32 = NDArray[np.float32]

CUBE_HALF = 0.8
CYLINDER_RADIUS, CYLINDER_HALF = 0.75, 0.85
CONE_RADIUS, CONE_HALF = 0.9, 0.9
TORUS_MAJOR, TORUS_MINOR = 0.68, 0.30
LIGHT = np.array([0.35, 0.20, 0.915], dtype=np.float64) / math.sqrt(0.35**2 + 0.20**2 + 0.915**2)
AMBIENT, DIFFUSE = 0.72, 0.28
LIGHT_X, LIGHT_Y, LIGHT_Z = (float(value) for value in LIGHT)
FAR = 1.0e9
Hit = tuple[float, float, float, float]
"""Distance along the ray, and the surface normal there."""


@njit(cache=can_cache(), nogil=True, inline="always")
def _sphere(ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> Hit:
    """Return distance and normal of a ray's first hit with the unit sphere; FAR for none."""
    b = ox * dx + oy * dy + oz * dz
    disc = b * b - (ox * ox + oy * oy + oz * oz - 1.0)
    if disc <= 0.0:
        return FAR, 0.0, 0.0, 1.0
    t = -b - math.sqrt(disc)
    if t <= 0.0:
        return FAR, 0.0, 0.0, 1.0
    return t, ox + t * dx, oy + t * dy, oz + t * dz


@njit(cache=can_cache(), nogil=True, inline="always")
def _cube(ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> Hit:
    """Slab method: the ray is inside the cube where it is between all three pairs of faces."""
    near, far, axis = -FAR, FAR, 0
    for k in range(3):
        o = ox if k == 0 else (oy if k == 1 else oz)
        d = dx if k == 0 else (dy if k == 1 else dz)
        if abs(d) < 1e-12:
            if abs(o) > CUBE_HALF:
                return FAR, 0.0, 0.0, 1.0
            continue
        t1, t2 = (-CUBE_HALF - o) / d, (CUBE_HALF - o) / d
        low, high = min(t1, t2), max(t1, t2)
        if low > near:
            near, axis = low, k
        far = min(far, high)

    if near >= far or near <= 0.0:
        return FAR, 0.0, 0.0, 1.0
    nx = -math.copysign(1.0, dx) if axis == 0 else 0.0
    ny = -math.copysign(1.0, dy) if axis == 1 else 0.0
    nz = -math.copysign(1.0, dz) if axis == 2 else 0.0
    return near, nx, ny, nz


@njit(cache=can_cache(), nogil=True, inline="always")
def _cylinder(ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> Hit:
    """Nearer of the hits with the side and with the cap that faces the ray."""
    best, nx, ny, nz = FAR, 0.0, 0.0, 1.0
    a = dx * dx + dy * dy
    if a > 1e-12:
        b = ox * dx + oy * dy
        disc = b * b - a * (ox * ox + oy * oy - CYLINDER_RADIUS * CYLINDER_RADIUS)
        if disc > 0.0:
            t = (-b - math.sqrt(disc)) / a
            if t > 0.0 and abs(oz + t * dz) <= CYLINDER_HALF:
                best, nx, ny, nz = (
                    t,
                    (ox + t * dx) / CYLINDER_RADIUS,
                    (oy + t * dy) / CYLINDER_RADIUS,
                    0.0,
                )

    if abs(dz) > 1e-12:
        cap = -math.copysign(CYLINDER_HALF, dz)
        t = (cap - oz) / dz
        x, y = ox + t * dx, oy + t * dy
        if 0.0 < t < best and x * x + y * y <= CYLINDER_RADIUS * CYLINDER_RADIUS:
            best, nx, ny, nz = t, 0.0, 0.0, -math.copysign(1.0, dz)

    return best, nx, ny, nz


@njit(cache=can_cache(), nogil=True, inline="always")
def _cone(ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> Hit:
    """Nearer of the hits with the side and, from below, with the base."""
    best, nx, ny, nz = FAR, 0.0, 0.0, 1.0
    slope = CONE_RADIUS / (2.0 * CONE_HALF)
    k2 = slope * slope
    h = CONE_HALF - oz
    a = dx * dx + dy * dy - k2 * dz * dz
    b = ox * dx + oy * dy + k2 * h * dz
    c = ox * ox + oy * oy - k2 * h * h

    if abs(a) > 1e-12:
        disc = b * b - a * c
        if disc > 0.0:
            root = math.sqrt(disc)
            for sign in (-1.0, 1.0):
                t = (-b + sign * root) / a
                z = oz + t * dz
                if 0.0 < t < best and abs(z) <= CONE_HALF:
                    x, y = ox + t * dx, oy + t * dy
                    radial = max(math.sqrt(x * x + y * y), 1e-9)
                    norm = math.sqrt(1.0 + k2)
                    best, nx, ny, nz = t, x / radial / norm, y / radial / norm, slope / norm

    if dz > 1e-12:
        t = (-CONE_HALF - oz) / dz
        x, y = ox + t * dx, oy + t * dy
        if 0.0 < t < best and x * x + y * y <= CONE_RADIUS * CONE_RADIUS:
            best, nx, ny, nz = t, 0.0, 0.0, -1.0

    return best, nx, ny, nz


@njit(cache=can_cache(), nogil=True, inline="always")
def _torus(ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> Hit:
    """Sphere tracing on the torus' distance, inside its bounding sphere."""
    reach = TORUS_MAJOR + TORUS_MINOR
    b = ox * dx + oy * dy + oz * dz
    disc = b * b - (ox * ox + oy * oy + oz * oz - reach * reach)
    if disc <= 0.0:
        return FAR, 0.0, 0.0, 1.0

    t, end = max(-b - math.sqrt(disc), 0.0), -b + math.sqrt(disc)
    for _ in range(64):
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        ring = math.sqrt(x * x + y * y)
        away = math.sqrt((ring - TORUS_MAJOR) ** 2 + z * z)

        step = away - TORUS_MINOR  # no surface is nearer than this
        if step < 1e-4:
            scale = (ring - TORUS_MAJOR) / max(away * ring, 1e-9)
            return t, x * scale, y * scale, z / max(away, 1e-9)
        t += step
        if t > end:
            break

    return FAR, 0.0, 0.0, 1.0


@njit(cache=can_cache(), nogil=True)
def hit(shape: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> Hit:
    """Return distance and normal of a ray's first hit with a primitive of size 1 at the origin; FAR for none."""
    if shape == 0:
        return _sphere(ox, oy, oz, dx, dy, dz)
    if shape == 1:
        return _cube(ox, oy, oz, dx, dy, dz)
    if shape == 2:
        return _cylinder(ox, oy, oz, dx, dy, dz)
    if shape == 3:
        return _cone(ox, oy, oz, dx, dy, dz)
    return _torus(ox, oy, oz, dx, dy, dz)


@njit(cache=can_cache(), nogil=True)
def _draw_view(
    shapes: NDArray[np.int64],
    centers: NDArray[np.float64],
    sizes: NDArray[np.float64],
    colors: NDArray[np.float64],
    position: NDArray[np.float64],
    rot: NDArray[np.float64],
    tan: float,
    supersample: int,
    rgba: NDArray[np.float32],
    ids: NDArray[np.int8],
) -> None:
    """Draw one scene from one camera; arguments as in `raycast`, without the dimensions S and V.

    The loop over the objects is written out here: as a function of its own it made the whole a third slower.
    """
    size_px, n_objects = rgba.shape[0], shapes.shape[0]
    weight = 1.0 / (supersample * supersample)
    px, py, pz = position[0], position[1], position[2]

    for row in range(size_px):
        for col in range(size_px):
            red, green, blue, alpha, seen = 0.0, 0.0, 0.0, 0.0, -1

            for sub in range(supersample * supersample):
                # Direction of the ray: through the image plane, then in the world.
                x = col + (sub % supersample + 0.5) / supersample
                y = row + (sub // supersample + 0.5) / supersample
                u, w = (2.0 * x / size_px - 1.0) * tan, (2.0 * y / size_px - 1.0) * tan
                norm = 1.0 / math.sqrt(u * u + w * w + 1.0)
                dx = (rot[0, 0] * u + rot[1, 0] * w + rot[2, 0]) * norm
                dy = (rot[0, 1] * u + rot[1, 1] * w + rot[2, 1]) * norm
                dz = (rot[0, 2] * u + rot[1, 2] * w + rot[2, 2]) * norm

                best, which, shade = FAR, -1, 0.0
                for k in range(n_objects):
                    if shapes[k] < 0:
                        continue

                    # The camera in the object's frame, where the object has size 1.
                    r = sizes[k]
                    ox = (px - centers[k, 0]) / r
                    oy = (py - centers[k, 1]) / r
                    oz = (pz - centers[k, 2]) / r

                    # Most rays miss the sphere of radius sqrt(2), which contains every shape.
                    b = ox * dx + oy * dy + oz * dz
                    if b * b - (ox * ox + oy * oy + oz * oz - 2.0) <= 0.0:
                        continue

                    t, nx, ny, nz = hit(shapes[k], ox, oy, oz, dx, dy, dz)
                    if t < FAR and t * r < best:
                        best, which = t * r, k
                        shade = AMBIENT + DIFFUSE * (nx * LIGHT_X + ny * LIGHT_Y + nz * LIGHT_Z)

                if which >= 0:
                    red += weight * shade * colors[which, 0]
                    green += weight * shade * colors[which, 1]
                    blue += weight * shade * colors[which, 2]
                    alpha += weight
                    seen = which

            rgba[row, col, 0] = red
            rgba[row, col, 1] = green
            rgba[row, col, 2] = blue
            rgba[row, col, 3] = alpha
            ids[row, col] = seen if alpha >= 0.5 else -1


@njit(cache=can_cache(), nogil=True)
def raycast(
    shapes: NDArray[np.int64],
    centers: NDArray[np.float64],
    sizes: NDArray[np.float64],
    colors: NDArray[np.float64],
    positions: NDArray[np.float64],
    rotations: NDArray[np.float64],
    tan_half_fov: NDArray[np.float64],
    supersample: int,
    rgba: NDArray[np.float32],
    ids: NDArray[np.int8],
) -> None:
    """Draw S scenes of up to K objects from V cameras each, into `rgba` and `ids`.

    Args:
        shapes: [S, K] int64 index into `prompts.SHAPES`, -1 for no object.
        centers: [S, K, 3] float64 world units.
        sizes: [S, K] float64 world units.
        colors: [S, K, 3] float64 albedo, 0 to 1.
        positions: [S, V, 3] float64 camera positions.
        rotations: [S, V, 3, 3] float64 world-to-camera, OpenCV axes.
        tan_half_fov: [S, V] float64 tangent of half the field of view; images are square.
        supersample: rays per pixel along each axis.
        rgba: [S, V, H, H, 4] float32, written: colour premultiplied by alpha, alpha is coverage.
        ids: [S, V, H, H] int8, written: index of an object in the pixel, -1 if less than half is covered.
    """
    for s in range(shapes.shape[0]):
        for v in range(positions.shape[1]):
            _draw_view(
                shapes[s],
                centers[s],
                sizes[s],
                colors[s],
                positions[s, v],
                rotations[s, v],
                tan_half_fov[s, v],
                supersample,
                rgba[s, v],
                ids[s, v],
            )
