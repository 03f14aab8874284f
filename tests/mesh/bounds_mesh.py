"""Any float in any place of the mesh's, the checker's and the ray caster's loops, with bounds checked.

`tests/render/test_bounds.py` runs this file in a process of its own, where Numba raises IndexError
for an index out of bounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlm3d_gs.evaluate import kernels
from vlm3d_gs.mesh import density, raster, silhouettes, tsdf
from vlm3d_gs.mini.world.raycast import raycast
from vlm3d_gs.render.cpu.math import ceil_within, floor_within

F64 = NDArray[np.float64]
NAN, INF = float("nan"), float("inf")
SPECIAL = [0.0, 1e-300, 1e-45, 1e-12, 0.5, 1e6, 9.3e18, 1e30, 1e300, INF]
VALUES = st.one_of(
    st.sampled_from([*SPECIAL, *(-value for value in SPECIAL), NAN]), st.floats(width=64)
)
CHANGES = st.lists(st.tuples(st.integers(0, 10_000), VALUES), min_size=1, max_size=8)
EVERY = -1
"""A position that stands for all."""
several = settings(max_examples=150, deadline=None, derandomize=True)


def put(arrays: list[F64], changed: list[tuple[int, float]]) -> None:
    """Set entries, counted through all arrays, in place."""
    total = sum(array.size for array in arrays)
    with np.errstate(over="ignore"):
        for position, value in changed:
            if position == EVERY:
                for array in arrays:
                    array[...] = value
                continue
            at = position % total
            for array in arrays:
                if at < array.size:
                    array.reshape(-1)[at] = value
                    break
                at -= array.size


def one(value: float) -> F64:
    """Return a number as an array, so that it can be changed too."""
    return np.full(1, value)


def counter() -> NDArray[np.int64]:
    """Return a task counter at its start."""
    return np.zeros(1, np.int64)


@several
@given(changed=CHANGES)
@example(changed=[(EVERY, NAN)])
@example(changed=[(EVERY, INF)])
def test_density(changed: list[tuple[int, float]]) -> None:
    rows = np.random.default_rng(0).uniform(0.1, 1.0, (8, 13))
    origin, step = np.zeros(3), one(0.1)
    put([rows, origin, step], changed)
    field = np.zeros((9, 8, 7), np.float32)
    density.add_gaussians(counter(), 4, rows, origin, float(step[0]), field)


@several
@given(changed=CHANGES)
@example(changed=[(EVERY, NAN)])
@example(changed=[(EVERY, INF)])
def test_triangles(changed: list[tuple[int, float]]) -> None:
    vertices = np.random.default_rng(0).uniform(-5.0, 20.0, (9, 3))
    faces = np.arange(9, dtype=np.int32).reshape(3, 3)
    put([vertices], changed)
    raster.rasterize_depth(vertices, faces, np.full((12, 15), 1e9, np.float32))
    owners, weights = np.full((12, 12), -1, np.int32), np.zeros((12, 12, 3), np.float32)
    raster.rasterize_texels(np.ascontiguousarray(vertices[:, :2]), faces, owners, weights)


@several
@given(changed=CHANGES)
@example(changed=[(EVERY, NAN)])
@example(changed=[(EVERY, INF)])
def test_colors_of_points(changed: list[tuple[int, float]]) -> None:
    generator = np.random.default_rng(0)
    points, normals = generator.uniform(-1.0, 1.0, (6, 3)), np.tile([0.0, 0.0, -1.0], (6, 1))
    viewmat = np.eye(4)
    viewmat[2, 3] = 3.0
    intrinsics = np.array([[12.0, 0.0, 6.0], [0.0, 12.0, 6.0], [0.0, 0.0, 1.0]])
    tolerance = one(2.0)
    put([points, normals, viewmat, intrinsics, tolerance], changed)
    color, depth = np.ones((12, 12, 4), np.float32), np.full((12, 12), 3.0, np.float32)
    raster.accumulate_colors(
        points, normals, viewmat, intrinsics, color, depth, float(tolerance[0]), np.zeros((6, 4))
    )


@several
@given(changed=CHANGES)
@example(changed=[(EVERY, NAN)])
@example(changed=[(EVERY, INF)])
def test_distances(changed: list[tuple[int, float]]) -> None:
    project = np.array([[12.0, 0.0, 6.0, 18.0], [0.0, 12.0, 6.0, 18.0], [0.0, 0.0, 1.0, 3.0]])
    origin, numbers = np.full(3, -1.0), np.array([0.3, 0.5])
    put([project, origin, numbers], changed)
    depth = np.full((12, 12), 3.0, np.float32)
    totals = np.zeros((7, 7, 7), np.float32), np.zeros((7, 7, 7), np.uint16)
    step, truncation = numbers.tolist()
    tsdf.fuse(counter(), 4, depth, project, origin, step, truncation, *totals)


@several
@given(changed=CHANGES)
@example(changed=[(EVERY, NAN)])
@example(changed=[(EVERY, INF)])
@example(changed=[(0, NAN)])
@example(changed=[(5, NAN)])
@example(changed=[(2, 0.5), (3, 1e300)])
def test_largest_values_along_rays(changed: list[tuple[int, float]]) -> None:
    starts = np.array([[3.0, 3.0, -9.0]])
    rays = np.array([[[0.2, 0.0, -1.0], [0.0, 0.2, -1.0], [0.0, 0.0, 1.0]]])
    put([starts, rays], changed)
    field = np.random.default_rng(0).random((7, 6, 5), np.float32)
    peaks = np.zeros((1, 9, 9), np.float32)
    silhouettes.march(counter(), 9, field, starts, rays, peaks)
    assert np.isfinite(peaks).all()


@several
@given(changed=CHANGES, shape=st.integers(0, 4))
@example(changed=[(EVERY, NAN)], shape=4)
def test_ray_caster(changed: list[tuple[int, float]], shape: int) -> None:
    centers, sizes, colors = np.zeros((1, 2, 3)), np.full((1, 2), 0.5), np.ones((1, 2, 3))
    positions, rotations = np.array([[[0.0, 0.0, -3.0]]]), np.eye(3)[None, None].copy()
    tangents = np.full((1, 1), 0.4)
    arrays = [centers, sizes, colors, positions, rotations, tangents]
    put(arrays, changed)
    shapes = np.array([[shape, -1]])
    pictures = np.zeros((1, 1, 6, 6, 4), np.float32), np.zeros((1, 1, 6, 6), np.int8)
    allow_division_by_zero(raycast, shapes, *arrays, 2, *pictures)


@several
@given(changed=CHANGES, shape=st.integers(0, 4))
@example(changed=[(EVERY, NAN)], shape=4)
def test_checker(changed: list[tuple[int, float]], shape: int) -> None:
    params = np.zeros(6)
    origins, directions = np.tile([0.0, 0.0, -3.0], (9, 1)), np.tile([0.0, 0.0, 1.0], (9, 1))
    limits, inside = np.full(9, 1e9), np.arange(9) % 2 == 0
    put([params, origins, directions, limits], changed)
    rays = (origins, directions, inside, limits)
    allow_division_by_zero(kernels.search, shape, params, np.ones(6), 6, (0.3, 0.05), *rays)
    allow_division_by_zero(kernels.cast_reach, shape, params, origins, directions, np.zeros(9))


def test_components_of_masks() -> None:
    masks = np.random.default_rng(0).random((40, 9, 7)) < 0.6
    seeds, reached = np.random.default_rng(1).random((40, 9, 7)) < 0.2, np.zeros((40, 9, 7), bool)
    sizes = np.zeros((40, 9, 7), np.int64)
    kernels.fill_sizes(masks, sizes)
    kernels.fill_from(masks, seeds, reached)
    assert ((sizes > 0) == masks).all()


def allow_division_by_zero(kernel: Any, *arguments: Any) -> None:
    """Call a kernel that, unlike the renderer's, raises ZeroDivisionError as Python does."""
    try:
        kernel(*arguments)
    except ZeroDivisionError:
        return


@given(value=VALUES, low=st.integers(-2, 5), span=st.integers(0, 900))
@settings(deadline=None, derandomize=True)
def test_clamped_rounding(value: float, low: int, span: int) -> None:
    high = low + span
    down, up = floor_within(value, low, high), ceil_within(value, low, high)
    if np.isnan(value):
        assert down == up == low
    else:
        assert down == np.clip(np.floor(value), low, high)
        assert up == np.clip(np.ceil(value), low, high)
