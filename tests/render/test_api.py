"""Laws that every backend obeys, and the errors of the front door."""

from __future__ import annotations

import math

import pytest
import torch

from oracles import draw_scene, ring
from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.errors import ConfigError, DeviceError, ShapeError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.harmonics import rgb_to_sh0
from vlm3d_gs.core.rotations import quat_multiply, quat_to_rotmat
from vlm3d_gs.render import choose_backend, render


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    return request.param


def one_gaussian(mean=(0.0, 0.0, 0.0), log_scale=-2.0, logit=0.0, rgb=(0.9, 0.2, 0.1)):
    return Gaussians(
        torch.tensor([mean]),
        torch.full((1, 3), log_scale),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        torch.tensor([logit]),
        rgb_to_sh0(torch.tensor([[rgb]])),
    )


def test_one_round_gaussian_has_its_closed_form(backend):
    distance, size = 3.0, 33
    cameras = orbit(0.0, 0.0, distance, 40.0, size, size)
    drawn = render(one_gaussian(), cameras, backend=backend, background=(0.0, 0.0, 1.0))
    focal = float(cameras.Ks[0, 0, 0])
    variance = (math.exp(-2.0) * focal / distance) ** 2 + 0.3
    for dx, dy in ((0, 0), (3, 0), (-2, 5)):
        alpha = 0.5 * math.exp(-0.5 * (dx * dx + dy * dy) / variance)
        row, column = 16 + dy, 16 + dx
        assert float(drawn.alpha[0, row, column]) == pytest.approx(alpha, rel=1e-4)
        expected = torch.tensor([0.9, 0.2, 0.1]) * alpha + torch.tensor([0.0, 0.0, 1.0]) * (
            1 - alpha
        )
        torch.testing.assert_close(drawn.color[0, row, column], expected, rtol=1e-4, atol=1e-5)
        assert float(drawn.depth[0, row, column]) == pytest.approx(distance, rel=1e-5)
    torch.testing.assert_close(drawn.means2d[0, 0].float(), torch.tensor([16.5, 16.5]))
    extent = math.sqrt(2.0 * math.log(0.5 * 255.0) * variance)
    assert float(drawn.radii[0, 0]) == pytest.approx(extent, rel=1e-4)


@pytest.mark.parametrize("views", [1, 3])
def test_nothing_shows_the_background(backend, views):
    nothing = draw_scene(0, 0).requires_grad_()
    background = torch.rand(views, 3)
    drawn = render(nothing, ring(views), backend=backend, background=background)
    assert torch.equal(drawn.color, background[:, None, None].expand_as(drawn.color))
    assert bool((drawn.alpha == 0.0).all())
    assert drawn.means2d.shape == (views, 0, 2)
    drawn.color.sum().backward()
    assert nothing.means.grad.shape == (0, 3)


def test_order_of_gaussians_does_not_matter(backend, generator):
    scene = draw_scene(120, 1, 1)
    shuffled = scene.select(torch.randperm(120, generator=generator))
    a, b = (render(item, ring(2), backend=backend).color for item in (scene, shuffled))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_turning_scene_and_cameras_together_changes_nothing(backend):
    scene, cameras = draw_scene(60, 2, 0), ring(2)
    turn = torch.tensor([0.9, 0.1, -0.3, 0.4])
    rotation = quat_to_rotmat(turn)
    matrix = torch.eye(4)
    matrix[:3, :3] = rotation.T
    turned = Gaussians(
        **{
            **scene.parameters(),
            "means": scene.means @ rotation.T,
            "quats": quat_multiply(turn.expand_as(scene.quats), scene.quats),
        }
    )
    moved = Cameras(cameras.viewmats @ matrix, cameras.Ks, 50, 37, *(torch.zeros(2),) * 3)
    a, b = render(scene, cameras, backend=backend), render(turned, moved, backend=backend)
    difference = (a.color - b.color).abs().amax(-1)
    assert float((difference > 1e-3).float().mean()) < 0.01  # pixels at a threshold may jump


def test_views_are_independent(backend):
    scene, cameras = draw_scene(50, 3, 2), ring(3)
    together = render(scene, cameras, backend=backend)
    for view in range(3):
        alone = render(scene, cameras.select([view]), backend=backend)
        torch.testing.assert_close(alone.color[0], together.color[view], rtol=1e-6, atol=1e-6)


def test_background_fills_what_alpha_leaves(backend):
    scene, cameras = draw_scene(50, 4), ring(1)
    black, white = (
        render(scene, cameras, backend=backend, background=(v, v, v)) for v in (0.0, 1.0)
    )
    torch.testing.assert_close(white.color - black.color, (1 - black.alpha).expand_as(black.color))


def test_lower_degree_ignores_higher_coefficients(backend):
    scene, cameras = draw_scene(40, 5, 3), ring(1)
    flat = Gaussians(**{**scene.parameters(), "sh": scene.sh[:, :1]})
    a = render(scene, cameras, backend=backend, sh_degree=0)
    assert torch.equal(a.color, render(flat, cameras, backend=backend).color)


def test_gradient_of_projected_centres_is_kept(backend):
    scene = draw_scene(30, 6).requires_grad_()
    drawn = render(scene, ring(2), backend=backend)
    drawn.color.square().sum().backward()
    assert drawn.means2d.grad.shape == (2, 30, 2)
    assert float(drawn.means2d.grad.abs().max()) > 0.0


@pytest.mark.parametrize("name", ["means", "log_scales", "quats", "opacity_logits", "sh"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_refused_by_name(backend, name, value):
    scene = draw_scene(5, 0)
    scene.parameters()[name].view(-1)[2] = value
    with pytest.raises(ConfigError, match=rf"gaussians\.{name} has 1 values"):
        render(scene, ring(1), backend=backend)


def test_reference_passes_gradcheck():
    scene = draw_scene(3, 8, 1).to(dtype=torch.float64)
    cameras = orbit(20.0, 10.0, 2.5, 45.0, 7, 6)
    leaves = [value.requires_grad_() for value in scene.parameters().values()]

    def pictures(*values):
        drawn = render(Gaussians(*values), cameras, backend="reference", background=(0.2, 0.5, 0.9))
        return drawn.color, drawn.alpha, drawn.depth

    assert torch.autograd.gradcheck(pictures, leaves, eps=1e-6, atol=1e-5)


def test_reference_matches_stored_images_of_gsplat(stored_case):
    gaussians, cameras, image = stored_case
    drawn = render(gaussians, cameras, backend="reference")
    torch.testing.assert_close(drawn.color[0], image[..., :3], rtol=0, atol=1e-5)
    torch.testing.assert_close(drawn.alpha[0], image[..., 3:], rtol=0, atol=1e-5)


def test_auto_follows_the_device():
    assert choose_backend("auto", torch.device("cpu")) == "cpu"
    assert choose_backend("auto", torch.device("cuda")) == "gsplat"


def test_unknown_backend_lists_the_known():
    with pytest.raises(
        ConfigError,
        match="Unknown render backend 'vulkan'. Available: auto, cpu, gsplat, reference",
    ):
        render(draw_scene(1, 0), ring(1), backend="vulkan")


def test_wrong_background_and_degree_are_refused():
    with pytest.raises(ShapeError, match="background"):
        render(draw_scene(1, 0), ring(2), background=torch.zeros(3, 3))
    with pytest.raises(ConfigError, match="sh_degree must be 0 to 1"):
        render(draw_scene(1, 0, 1), ring(1), sh_degree=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a CUDA device")
def test_gsplat_without_cuda_says_so():
    with pytest.raises(DeviceError, match="needs a CUDA device"):
        render(draw_scene(1, 0), ring(1), backend="gsplat")
