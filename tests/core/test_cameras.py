"""Cameras: where they stand, what they see, how they are drawn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm3d_gs.core.cameras import (
    CameraRanges,
    look_at,
    mvdream_camera_matrices,
    orbit,
    sample_view_groups,
    turntable_cameras,
)
from vlm3d_gs.core.errors import ConfigError


def project(cameras, point):
    """Pixel coordinates [C, 2] and depth [C] of one world point."""
    p = cameras.viewmats @ torch.tensor([*point, 1.0])
    q = (cameras.Ks @ p[:, :3, None])[:, :, 0]
    return q[:, :2] / q[:, 2:], p[:, 2]


def test_azimuth_names():
    cameras = orbit([0.0, 90.0, 180.0, 270.0], 0.0, 2.0, 40.0, 64, 64)
    expected = torch.tensor([[2.0, 0, 0], [0, 2, 0], [-2, 0, 0], [0, -2, 0]])
    torch.testing.assert_close(cameras.positions, expected, rtol=0, atol=1e-6)


def test_front_camera_sees_y_on_its_right_and_z_up():
    cameras = orbit(0.0, 0.0, 2.0, 40.0, 64, 48)
    centre, depth = project(cameras, (0.0, 0.0, 0.0))
    torch.testing.assert_close(centre[0], torch.tensor([32.0, 24.0]))
    assert float(depth[0]) == pytest.approx(2.0)
    right, _ = project(cameras, (0.0, 0.1, 0.0))
    up, _ = project(cameras, (0.0, 0.0, 0.1))
    assert float(right[0, 0]) > 32.0
    assert float(right[0, 1]) == pytest.approx(24.0, abs=1e-4)
    assert float(up[0, 1]) < 24.0


def test_field_of_view_is_vertical():
    cameras = orbit(0.0, 0.0, 2.0, 40.0, 100, 50)
    top = 2.0 * math.tan(math.radians(20.0))
    pixel, _ = project(cameras, (0.0, 0.0, top))
    assert float(pixel[0, 1]) == pytest.approx(0.0, abs=1e-4)


@settings(deadline=None, max_examples=100)
@given(st.floats(-720, 720), st.floats(-90, 90), st.floats(0.5, 10), st.floats(5, 120))
def test_orbit_is_rigid_and_looks_at_the_origin(azimuth, elevation, distance, fov):
    cameras = orbit(azimuth, elevation, distance, fov, 33, 21)
    rotation = cameras.viewmats[0, :3, :3].double()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3).double(), rtol=0, atol=1e-5)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1.0, abs=1e-5)
    assert float(cameras.positions.norm()) == pytest.approx(distance, rel=1e-5)
    torch.testing.assert_close(
        cameras.camera_to_world @ cameras.viewmats, torch.eye(4)[None], rtol=0, atol=1e-4
    )
    assert float(cameras.azimuths_deg) == pytest.approx(azimuth, abs=1e-4)


def test_straight_down_is_defined():
    viewmat = look_at(torch.tensor([[0.0, 0.0, 3.0]]), torch.zeros(3))[0]
    assert bool(torch.isfinite(viewmat).all())
    nearly = orbit(0.0, 89.99, 3.0, 40.0, 8, 8).viewmats[0]
    torch.testing.assert_close(viewmat, nearly, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 91.0, 2.0, 40.0), "elevations_deg must be in -90..90, got 91"),
        ((0.0, 0.0, 0.0, 40.0), "distance must be positive, got 0"),
        ((0.0, 0.0, 2.0, 180.0), "fov_deg must be above 0 and below 180, got 180"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        orbit(*arguments, 8, 8)


def test_picture_sizes_must_be_whole_and_positive():
    with pytest.raises(ConfigError, match=r"cameras\.width must be an integer"):
        orbit(0.0, 0.0, 2.0, 40.0, 0, 8)


def test_turntable_goes_once_around():
    cameras = turntable_cameras(4, 15.0, 3.0, 40.0, 8, 8)
    assert cameras.azimuths_deg.tolist() == [0.0, 90.0, 180.0, 270.0]
    with pytest.raises(ConfigError, match="at least 1 view"):
        turntable_cameras(0, 15.0, 3.0, 40.0, 8, 8)


def test_groups_share_what_they_should(generator):
    ranges = CameraRanges((0.0, 360.0), (0.0, 30.0), (2.0, 4.0), (35.0, 45.0), 16, 12)
    cameras = sample_view_groups(50, 4, generator, ranges)
    assert (len(cameras), cameras.width, cameras.height) == (200, 16, 12)
    for values in (cameras.elevations_deg, cameras.distances, cameras.Ks[:, 0, 0]):
        groups = values.reshape(50, 4)
        assert torch.equal(groups, groups[:, :1].expand(50, 4))
        assert len(groups[:, 0].unique()) > 40
    steps = cameras.azimuths_deg.reshape(50, 4).diff(dim=1) % 360.0
    torch.testing.assert_close(steps, torch.full((50, 3), 90.0), rtol=0, atol=1e-3)
    assert 0.0 <= float(cameras.elevations_deg.min()) < 5.0
    assert 25.0 < float(cameras.elevations_deg.max()) <= 30.0
    assert 2.0 <= float(cameras.distances.min()) < float(cameras.distances.max()) <= 4.0


def test_same_seed_same_cameras():
    a, b = (
        sample_view_groups(2, 4, torch.Generator().manual_seed(5), CameraRanges()) for _ in range(2)
    )
    assert torch.equal(a.viewmats, b.viewmats)


def test_ranges_must_be_ordered():
    with pytest.raises(ConfigError, match=r"CameraRanges\.distance"):
        CameraRanges(distance=(3.0, 2.0))


def test_resizing_keeps_what_is_seen():
    cameras = orbit(30.0, 10.0, 2.0, 40.0, 64, 48)
    small = cameras.resized(32, 12)
    a, _ = project(cameras, (0.2, -0.1, 0.3))
    b, _ = project(small, (0.2, -0.1, 0.3))
    torch.testing.assert_close(a * torch.tensor([0.5, 0.25]), b)


def test_mvdream_matrices():
    matrix = mvdream_camera_matrices(orbit(0.0, 0.0, 3.0, 40.0, 8, 8))[0]
    expected = torch.tensor([[0.0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-6)
    raised = mvdream_camera_matrices(orbit(40.0, 30.0, 2.5, 40.0, 8, 8))[0]
    assert float(raised[:3, 3].norm()) == pytest.approx(1.0)
    assert float(torch.linalg.det(raised[:3, :3])) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(raised[:3, 2], raised[:3, 3])  # OpenGL cameras look along -z


def test_select_and_to():
    cameras = turntable_cameras(6, 0.0, 2.0, 40.0, 8, 8)
    some = cameras.select([1, 4])
    assert some.azimuths_deg.tolist() == [60.0, 240.0]
    assert torch.equal(some.viewmats, cameras.viewmats[[1, 4]])
    assert cameras.to(dtype=torch.float64).Ks.dtype == torch.float64


def test_mvdreams_cameras_lie_low_and_near():
    """Means and shares of threestudio-mvdream's sampler, 0 to 30 degrees and half-extents of 0.8 to 1."""
    ranges = CameraRanges(
        elevation_deg=(0.0, 30.0),
        fov_deg=(15.0, 60.0),
        half_extent=(0.8, 1.0),
        mixed_elevations=True,
    )
    cameras = sample_view_groups(4000, 1, torch.Generator().manual_seed(0), ranges)
    elevations = cameras.elevations_deg
    assert float(elevations.mean()) == pytest.approx(12.3, abs=0.3)
    assert float((elevations < 19.5).float().mean()) == pytest.approx(0.825, abs=0.02)
    extents = cameras.distances * 0.5 * cameras.height / cameras.Ks[:, 1, 1]
    assert 0.8 - 1e-5 < float(extents.min()) < 0.81
    assert 0.99 < float(extents.max()) < 1.0 + 1e-5
