"""Ellipses so large that squares of their areas, or cubes of their widths, leave float32."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gradients import assert_grad_close
from oracles import draw_scene, ring
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render import reference, render
from vlm3d_gs.render.cpu.rasterize import _Projection, camera_rows


def one(log_scales: list[float], *, antialiased: bool = False) -> Gaussians:
    """Return one half-transparent Gaussian near the middle, turned, of one colour."""
    scene = draw_scene(1, 4)
    changes = {
        "means": 0.1 * scene.means,
        "log_scales": torch.tensor([log_scales]),
        "opacity_logits": torch.zeros(1),
        "sh": torch.ones(1, 1, 3),
    }
    values = {**scene.parameters(), **changes}
    return Gaussians(**values, antialiased=True) if antialiased else Gaussians(**values)


# The product of the two deviations in pixels passes 1.8e19 between 17 and 19.
@pytest.mark.parametrize("log_scale", [10.0, 17.0, 18.5, 19.0, 22.0, 25.0, 28.0])
def test_the_widths_of_an_ellipse_are_those_of_the_definition(log_scale: float) -> None:
    scene = one([log_scale, log_scale - 0.4, log_scale + 0.3])
    cameras = ring(1)
    sizes = (cameras.width, cameras.height, 0)
    _, shapes, radii = _Projection.apply(*scene.parameters().values(), camera_rows(cameras), sizes)

    inverse = reference.project(scene.to(dtype=torch.float64), cameras.to(dtype=torch.float64))[1]
    u, uv, v = inverse[0, 0, 0, 0], inverse[0, 0, 0, 1], inverse[0, 0, 1, 1]
    # Of x with y fixed, the width is 1 / sqrt(u); of y with x free, v - uv^2 / u is its inverse square.
    expected = torch.stack([-uv / u, u.sqrt(), (v - uv * uv / u).sqrt()])
    torch.testing.assert_close(shapes[0, 0, :3].double(), expected, rtol=1e-4, atol=0.0)
    assert math.isfinite(float(radii))


def slopes(scene: Gaussians, backend: str, weights: Tensor) -> dict[str, Tensor]:
    """Return the gradients of all parameters under a weighted sum of a picture's colours."""
    leaves = {name: value.clone().requires_grad_() for name, value in scene.parameters().items()}
    drawn = render(
        scene.changed(leaves), ring(1), backend=backend, background=torch.full((1, 3), 0.2)
    )
    (drawn.color.double() * weights).sum().backward()
    return {name: value.grad for name, value in leaves.items()}


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("shape", [(0.0, -0.4, 0.3), (0.0, -8.0, -9.0)], ids=["ball", "needle"])
@pytest.mark.parametrize("log_scale", [11.0, 14.0, 19.0, 22.0])
def test_gradients_of_large_gaussians(
    log_scale: float, shape: tuple[float, ...], antialiased: bool
) -> None:
    scene = one([log_scale + part for part in shape], antialiased=antialiased)
    weights = torch.randn(
        1, 37, 50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    gradients = slopes(scene, "cpu", weights)
    for name, witness in slopes(scene.to(dtype=torch.float64), "reference", weights).items():
        assert_grad_close(name, gradients[name], witness)
