"""optimize.poses: things of known shape that should touch, or should not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vlm3d_gs.optimize.poses import Body, Poses, gap, settle

RADIUS = 0.5
GRID = 24


def _grid(reach: float) -> Tensor:
    steps = torch.linspace(-reach, reach, GRID)
    z, y, x = torch.meshgrid(steps, steps, steps, indexing="ij")
    return torch.stack([x, y, z], -1)


def _directions(count: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=1)


def ball() -> Body:
    """A ball of `RADIUS`."""
    distance = _grid(0.6).norm(dim=-1) - RADIUS
    return Body(RADIUS * _directions(800), distance, torch.zeros(3), torch.full((3,), 0.6))


def brick() -> Body:
    """A box of 1 x 0.4 x 0.2."""
    half = torch.tensor([0.5, 0.2, 0.1])
    away = _grid(0.6).abs() - half
    distance = away.clamp(min=0).norm(dim=-1) + away.amax(-1).clamp(max=0)
    spread = 2 * torch.rand(1500, 3, generator=torch.Generator().manual_seed(1)) - 1
    # Pushed out along one axis: onto a side.
    side = torch.arange(1500) % 3
    spread[torch.arange(1500), side] = spread[torch.arange(1500), side].sign()
    return Body(spread * half, distance, torch.zeros(3), torch.full((3,), 0.6))


def standing(*places: tuple[float, float, float], turn: float = 0.0) -> Poses:
    count = len(places)
    return Poses(torch.tensor(places), torch.full((count,), turn), torch.zeros(count))


def test_the_gap_of_two_balls_is_the_distance_of_their_surfaces() -> None:
    balls = [ball(), ball()]
    for apart in (0.85, 1.0, 1.2, 1.9):
        poses = standing((0.0, 0.0, 0.0), (0.0, apart, 0.0))
        assert float(gap(balls, poses, 0, 1)) == pytest.approx(apart - 1.0, abs=0.02)

    grown = Poses(poses.places, poses.turns_rad, torch.tensor([0.0, math.log(1.4)]))
    assert float(gap(balls, grown, 0, 1)) == pytest.approx(1.9 - 0.5 - 0.7, abs=0.02)


def test_turns_about_z_count() -> None:
    things = [brick(), ball()]
    along = standing((0.0, 0.0, 0.0), (1.2, 0.0, 0.0))
    across = Poses(along.places, torch.tensor([math.pi / 2, 0.0]), along.log_scales)
    assert float(gap(things, along, 0, 1)) == pytest.approx(0.2, abs=0.02)
    assert float(gap(things, across, 0, 1)) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("off", [-0.08, 0.08])
def test_what_should_touch_is_brought_together(off: float) -> None:
    poses = standing((0.0, 0.0, 0.0), (0.0, 0.0, 0.6 + off))
    found = settle([brick(), ball()], poses, [(0, 1)], [], [False, True])
    assert found.gaps[0] == pytest.approx(abs(off), abs=0.02)
    assert found.gaps[1] < 0.004
    # Straight up or down, by hardly more than it takes, and nothing grows.
    moved = found.poses.places - poses.places
    assert not moved[:, :2].any(), "nothing slides"
    assert moved[0, 2] == 0.0, "what carries stays on its floor"
    assert float(moved[1, 2]) == pytest.approx(-off, abs=0.03)
    assert found.poses.log_scales.abs().max() < 0.05


def test_what_should_touch_side_by_side_slides_on_its_floor() -> None:
    poses = standing((0.0, 0.0, 0.0), (0.0, 1.1, 0.0))
    found = settle([ball(), ball()], poses, [(0, 1)], [], [False, False])
    assert found.gaps[1] < 0.01 < found.gaps[0]
    assert not found.poses.places[:, 2].any()


def test_what_should_not_touch_is_pushed_apart_and_the_rest_stays() -> None:
    poses = standing((0.0, 0.0, 0.0), (0.0, 0.9, 0.0), (0.0, -1.3, 0.0))
    found = settle([ball()] * 3, poses, [], [(0, 1), (0, 2)], [False] * 3)
    assert found.depths[0] == pytest.approx(0.1, abs=0.02)
    assert found.depths[1] < 0.01
    assert found.poses.places[2].equal(poses.places[2])


def test_a_scene_in_order_is_left_as_it_is() -> None:
    poses = standing((0.0, 0.0, 0.0), (0.0, 1.2, 0.0))
    found = settle([ball(), ball()], poses, [], [(0, 1)], [False] * 2)
    assert found.poses.places.equal(poses.places)
    assert found.depths == (0.0, 0.0)


def test_places_beyond_the_grid_are_as_far_as_they_are() -> None:
    far = torch.tensor([[3.0, 0.0, 0.0], [0.0, -2.0, 2.0]])
    expected = far.norm(dim=1) - RADIUS
    assert torch.allclose(ball().distance_at(far), expected, atol=0.02)
