"""The gsplat adapter against a stand-in that keeps gsplat's contract, so that it is tested without a GPU."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import pytest
import torch

from oracles import draw_scene, ring
from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.errors import DeviceError, MissingDependencyError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render import gsplat_backend, render


def stand_in(*, means, quats, scales, opacities, colors, viewmats, Ks, width, height, **options):
    """gsplat's `rasterization` in form, the reference in substance."""
    assert options.pop("packed") is False
    assert options.pop("render_mode") == "RGB+ED"
    sh_degree = options.pop("sh_degree")
    mode = options.pop("rasterize_mode")
    assert options == {"near_plane": 0.01, "eps2d": 0.3, "radius_clip": 0.0}
    assert mode in ("classic", "antialiased")
    assert colors.shape[1] == (sh_degree + 1) ** 2
    assert bool((quats.norm(dim=-1) > 0.5).all()), "gsplat makes NaN of a zero quaternion"
    none = torch.zeros(len(viewmats))
    cameras = Cameras(viewmats, Ks, width, height, none, none, none)
    logits = torch.logit(opacities)
    scene = Gaussians(means, scales.log(), quats, logits, colors, mode == "antialiased")
    drawn = render(scene, cameras, backend="reference")
    radii = torch.stack([drawn.radii, drawn.radii * 0.5], -1).ceil().int()
    picture = torch.cat([drawn.color, drawn.depth], -1)
    return picture, drawn.alpha, {"means2d": drawn.means2d, "radii": radii}


@pytest.mark.parametrize("antialiased", [False, True])
def test_pictures_and_gradients_arrive_in_our_form(antialiased):
    scene, cameras = draw_scene(30, 0, 2, ("plain", "zero_quat")), ring(2)
    scene = replace(scene, antialiased=antialiased)
    background = torch.rand(2, 3)
    results = []
    for through_adapter in (True, False):
        leaves = {
            name: value.clone().requires_grad_() for name, value in scene.parameters().items()
        }
        if through_adapter:
            drawn = gsplat_backend.rasterize(
                stand_in, scene.changed(leaves), cameras, background, 1
            )
        else:
            drawn = render(
                scene.changed(leaves),
                cameras,
                backend="reference",
                background=background,
                sh_degree=1,
            )
        (drawn.color.square().sum() + drawn.depth.sum()).backward()
        results.append((drawn, leaves))
    (ours, leaves), (expected, witnesses) = results
    for name in ("color", "alpha", "depth"):
        torch.testing.assert_close(
            getattr(ours, name), getattr(expected, name), rtol=1e-4, atol=1e-5
        )
    assert torch.equal(ours.radii, expected.radii.ceil())
    assert ours.means2d.grad is not None
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, witnesses[name].grad, rtol=1e-3, atol=1e-4)


def test_an_empty_scene_never_reaches_gsplat():
    drawn = gsplat_backend.rasterize(None, draw_scene(0, 0), ring(2), torch.ones(2, 3) * 0.5, 0)
    assert torch.equal(drawn.color, torch.full_like(drawn.color, 0.5))
    assert drawn.means2d.shape == (2, 0, 2)


def test_scenes_on_the_cpu_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(DeviceError, match="needs Gaussians on a CUDA device, got cpu"):
        render(draw_scene(1, 0), ring(1), backend="gsplat")


def test_missing_gsplat_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(MissingDependencyError, match="Run: vlm3d-gs setup gpu"):
        gsplat_backend.load_rasterization()


def test_old_gsplat_names_the_version(monkeypatch):
    old = types.ModuleType("gsplat")
    old.__version__ = "1.4.0"
    monkeypatch.setitem(sys.modules, "gsplat", old)
    with pytest.raises(MissingDependencyError, match=r"got 1\.4\.0"):
        gsplat_backend.load_rasterization()


def test_versions_are_parsed():
    assert gsplat_backend.parse_version("1.6.0+pt27cu128") == (1, 6, 0)
    assert gsplat_backend.parse_version("1.5.3.post1") == (1, 5, 3)
