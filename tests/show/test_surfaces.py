"""Depth and normals of a sphere are those of a sphere."""

from __future__ import annotations

import pytest
import torch

from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.render import Rendering
from vlm3d_gs.show.surfaces import normals, surface_pictures

SIDE, DISTANCE, RADIUS = 64, 3.0, 0.7


def sphere() -> tuple[Rendering, Cameras, torch.Tensor, torch.Tensor]:
    """A perfect render of a sphere at the origin, with its true normals and its solid pixels."""
    camera = orbit(30.0, 20.0, DISTANCE, 40.0, SIDE, SIDE)
    steps = torch.arange(SIDE) + 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    focal, middle = camera.Ks[0, 0, 0], camera.Ks[0, 0, 2]
    rays = torch.stack([(x - middle) / focal, (y - middle) / focal, torch.ones_like(x)], -1)
    a, b = rays.square().sum(-1), DISTANCE * rays[..., 2]
    root = b * b - a * (DISTANCE**2 - RADIUS**2)
    hit = root > 0
    depth = torch.where(hit, (b - root.clamp(min=0).sqrt()) / a, 0.0)
    points = rays * depth[..., None] - torch.tensor([0.0, 0.0, DISTANCE])
    true = points / RADIUS * torch.tensor([1.0, -1.0, -1.0])
    alpha = hit.float()[None, ..., None]
    none = torch.zeros(0)
    rendering = Rendering(torch.zeros(1, SIDE, SIDE, 3), alpha, depth[None, ..., None], none, none)
    return rendering, camera, true, hit


def test_normals_of_a_sphere_point_outwards() -> None:
    rendering, camera, true, hit = sphere()
    found = normals(rendering.depth, rendering.alpha, camera)[0]
    inner = hit & (true[..., 2] > 0.4)
    assert float((found * true).sum(-1)[inner].min()) > 0.98
    assert float((found * true).sum(-1)[hit].mean()) > 0.98
    assert found[~hit].unique(dim=0).tolist() == [[0.0, 0.0, 1.0]]
    pictures = surface_pictures(rendering, camera, "normal", (0.0, 1.0, 0.0), (0.0, 1.0))[0]
    assert pictures[0, 0].tolist() == [0.0, 1.0, 0.0]
    middle, right, top = pictures[32, 32], pictures[32, 44], pictures[20, 32]
    assert middle[2] > 0.95
    assert right[0] > 0.7 > right[1]
    assert top[1] > 0.7 > top[0]


def test_depth_is_brighter_where_it_is_nearer() -> None:
    rendering, camera, _, hit = sphere()
    picture = surface_pictures(rendering, camera, "depth", (0.0, 0.0, 0.0), (2.3, 3.0))[0]
    depth = rendering.depth[0, ..., 0]
    expected = 1.0 - 0.85 * ((depth - 2.3) / 0.7).clamp(0, 1)
    torch.testing.assert_close(picture[hit], expected[hit][:, None].expand(-1, 3))
    assert picture[32, 32, 0] > 0.98
    assert float(picture[~hit].abs().max()) == 0.0


def test_an_unknown_kind_is_refused() -> None:
    rendering, camera, _, _ = sphere()
    with pytest.raises(ConfigError, match="depth or normal, got 'height'"):
        surface_pictures(rendering, camera, "height", (0.0, 0.0, 0.0), (0.0, 1.0))  # type: ignore[arg-type]
