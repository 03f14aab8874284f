from __future__ import annotations

import manifold3d
import numpy as np
import pytest
import trimesh

from vlm3d_gs.core.errors import ConfigError, ExportError
from vlm3d_gs.mesh import solid as module
from vlm3d_gs.mesh.grid import Grid, grid_over
from vlm3d_gs.mesh.shells import FILLED, outer_field
from vlm3d_gs.mesh.solid import (
    Solid,
    count_parts,
    decimate,
    keep_parts,
    separate_vertices,
    surface,
)

GRID = grid_over(-np.ones(3), np.ones(3), 64)


def points(grid: Grid = GRID) -> np.ndarray:
    axes = [o + grid.step * np.arange(n) for o, n in zip(grid.origin, grid.shape, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def ball(radius: float, x: float = 0.0) -> np.ndarray:
    return (radius - np.linalg.norm(points() - [x, 0.0, 0.0], axis=-1)).astype(np.float32)


def shell(outer: float, inner: float) -> np.ndarray:
    return np.minimum(ball(outer), -ball(inner))


def solid_of(field: np.ndarray) -> Solid:
    return surface(outer_field(field, 0.0, GRID.step), GRID)


def volume(solid: Solid) -> float:
    """The enclosed volume, negative if the triangles face inwards."""
    a, b, c = (solid.vertices[solid.faces[:, k]] for k in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6.0)


def assert_sound(solid: Solid) -> None:
    mesh = trimesh.Trimesh(solid.vertices, solid.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    made = manifold3d.Manifold(
        manifold3d.Mesh(solid.vertices.astype(np.float32), solid.faces.astype(np.uint32))
    )
    assert made.status() == manifold3d.Error.NoError


def test_a_ball_has_the_volume_and_the_normals_of_a_ball() -> None:
    solid = solid_of(ball(0.7))
    assert_sound(solid)
    assert volume(solid) == pytest.approx(4.0 / 3.0 * np.pi * 0.7**3, rel=0.01)
    assert np.abs(np.linalg.norm(solid.vertices, axis=-1) - 0.7).max() < 0.01
    outwards = solid.vertices / np.linalg.norm(solid.vertices, axis=-1, keepdims=True)
    assert (solid.vertex_normals * outwards).sum(axis=-1).min() > 0.95
    assert np.allclose(np.linalg.norm(solid.vertex_normals, axis=-1), 1.0)


def test_a_cavity_is_filled() -> None:
    hollow = shell(0.8, 0.5)
    assert (outer_field(hollow, 0.0, GRID.step)[ball(0.45) > 0] == FILLED).all()
    solid = solid_of(hollow)
    assert count_parts(solid) == 1
    assert volume(solid) == pytest.approx(volume(solid_of(ball(0.8))), rel=1e-3)


def test_a_pinhole_does_not_let_the_outside_in() -> None:
    drilled = shell(0.8, 0.5)
    p = points()
    drilled[(np.hypot(p[..., 0], p[..., 1]) < 0.02) & (p[..., 2] > 0)] = -0.05
    assert (drilled[ball(0.3) > 0] < 0).all()
    solid = solid_of(drilled)
    assert_sound(solid)
    assert volume(solid) == pytest.approx(volume(solid_of(ball(0.8))), rel=0.02)


def test_a_wide_opening_stays_open() -> None:
    bowl = shell(0.8, 0.6)
    bowl[points()[..., 2] > 0.2] = -0.05
    assert volume(solid_of(bowl)) < 0.5 * volume(solid_of(ball(0.8)))


def test_a_narrow_gap_between_two_objects_stays_a_gap() -> None:
    pair = np.maximum(ball(0.4, -0.44), ball(0.4, 0.44))
    assert count_parts(solid_of(pair)) == 2


def test_another_level_gives_the_surface_there() -> None:
    field = outer_field(ball(0.9), 0.4, GRID.step)
    assert volume(surface(field, GRID)) == pytest.approx(4.0 / 3.0 * np.pi * 0.5**3, rel=0.02)


def test_a_field_that_fills_its_grid_is_closed_at_the_border() -> None:
    solid = surface(outer_field(np.ones(GRID.shape, np.float32), 0.0, GRID.step), GRID)
    assert_sound(solid)
    sides = GRID.step * (np.asarray(GRID.shape) - 1)
    assert volume(solid) == pytest.approx(sides.prod(), rel=0.1)


def test_values_exactly_at_the_level_do_no_harm() -> None:
    steps = np.round(ball(0.7) * 10.0) / 10.0
    solid = solid_of(steps.astype(np.float32))
    assert_sound(solid)


def test_nothing_inside_is_an_error() -> None:
    with pytest.raises(ExportError, match="dense enough"):
        surface(np.full((8, 8, 8), -1.0, np.float32), GRID)


def test_small_parts_are_dropped_by_their_share_of_the_largest() -> None:
    solid = solid_of(np.maximum(ball(0.5, -0.45), ball(0.2, 0.6)))  # volumes 1 to 0.064
    assert count_parts(keep_parts(solid, 0.05)) == 2
    assert count_parts(keep_parts(solid, 0.08)) == 1
    assert volume(keep_parts(solid, 1.0)) == pytest.approx(volume(solid_of(ball(0.5, -0.45))))
    assert count_parts(keep_parts(solid, 0.0)) == 2


def test_parts_that_are_inside_out_are_always_dropped() -> None:
    whole = solid_of(ball(0.8))
    inner = solid_of(ball(0.4))
    both = Solid(
        np.concatenate([whole.vertices, inner.vertices]),
        np.concatenate([whole.faces, inner.faces[:, ::-1] + len(whole.vertices)]).astype(np.int32),
    )
    assert volume(keep_parts(both, 0.0)) == pytest.approx(volume(whole))
    with pytest.raises(ExportError, match="encloses nothing"):
        keep_parts(Solid(inner.vertices, inner.faces[:, ::-1]), 0.0)


@pytest.mark.parametrize("faces", [4, 12, 100, 2001])
def test_decimation_keeps_to_the_number_and_stays_sound(faces: int) -> None:
    thin = decimate(solid_of(ball(0.7)), faces)
    assert 4 <= len(thin.faces) <= faces
    assert_sound(thin)


def test_decimation_leaves_a_small_mesh_unchanged() -> None:
    solid = solid_of(ball(0.7))
    assert decimate(solid, len(solid.faces)) is solid


def test_where_decimation_tears_the_mesh_the_second_method_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    solid = solid_of(ball(0.7))

    def tear(vertices, faces, target_count):
        return vertices, faces[:target_count]

    monkeypatch.setattr(module.fast_simplification, "simplify", tear)
    thin = decimate(solid, 3000)
    assert 500 < len(thin.faces) <= 3000
    assert_sound(thin)
    assert volume(thin) == pytest.approx(volume(solid), rel=0.02)


def test_fewer_faces_than_the_parts_need_is_an_error() -> None:
    pair = solid_of(np.maximum(ball(0.4, -0.5), ball(0.4, 0.5)))
    with pytest.raises(ConfigError, match="cannot be drawn with 5 faces"):
        decimate(pair, 5)


def merged(solid: Solid) -> trimesh.Trimesh:
    """The surface as a reader sees it that merges vertices by position."""
    mesh = trimesh.Trimesh(solid.vertices.astype(np.float32), solid.faces, process=False)
    mesh.merge_vertices()
    return mesh


def test_where_a_surface_touches_itself_its_vertices_are_separated() -> None:
    boxes = [trimesh.creation.box(bounds=((c, c, 0.0), (c + 0.5,) * 2 + (0.5,))) for c in (0, 0.5)]
    starts = (0, len(boxes[0].vertices))
    touching = Solid(
        np.concatenate([box.vertices for box in boxes]),
        np.concatenate([b.faces + k for b, k in zip(boxes, starts, strict=True)]).astype(np.int32),
    )
    assert_sound(touching)
    assert not merged(touching).is_watertight  # they share an edge
    apart = separate_vertices(touching)
    assert_sound(apart)
    assert merged(apart).is_watertight
    assert np.abs(apart.vertices - touching.vertices).max() < 1e-3
    assert separate_vertices(apart) is apart


def test_an_open_mesh_is_an_error() -> None:
    solid = solid_of(ball(0.7))
    with pytest.raises(ExportError, match="not closed"):
        count_parts(Solid(solid.vertices, solid.faces[1:]))
