"""mini.surfaces and mini.splats: samples on the ray caster's surfaces, lit alike, spoiled on purpose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scenes import scene_for, splats_for
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.prompts import SHAPES
from vlm3d_gs.mini.world import raycast as rc
from vlm3d_gs.mini.world.scenes import PALETTE
from vlm3d_gs.mini.world.splats import DAMAGES, damage, scene_to_gaussians
from vlm3d_gs.mini.world.surfaces import sample_surface, surface_area


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_lie_where_rays_hit_with_the_same_normal(
    shape: str, generator: torch.Generator
) -> None:
    points, normals = sample_surface(shape, 400, generator)
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(400, dtype=torch.float64))
    step = 0.05  # start close outside, so that no other part of the torus is in the way
    starts = (points + step * normals).numpy()
    for start, inward, normal in zip(starts, -normals.numpy(), normals.numpy(), strict=True):
        distance, *hit = rc.hit(SHAPES.index(shape), *start, *inward)
        assert distance == pytest.approx(step, abs=2e-3)
        np.testing.assert_allclose(hit, normal, atol=2e-2)


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_are_even(shape: str, generator: torch.Generator) -> None:
    """No clumps and no gaps: neighbours stand about as far apart as the area allows."""
    points, _ = sample_surface(shape, 4000, generator)
    nearest = torch.cdist(points[:800], points).topk(2, largest=False).values[:, 1]
    mean_spacing = math.sqrt(surface_area(shape) / 4000)
    assert float(nearest.median()) == pytest.approx(0.75 * mean_spacing, rel=0.35)
    gaps = torch.cdist(sample_surface(shape, 2000, generator)[0], points).amin(dim=1)
    assert float(gaps.max()) < 2.2 * mean_spacing


def test_area_is_the_flux_of_the_position(generator: torch.Generator) -> None:
    """Divergence theorem: the integral of p.n over a closed surface is three times the volume."""
    volumes = {
        "sphere": 4.0 / 3.0 * math.pi,
        "cube": (2 * rc.CUBE_HALF) ** 3,
        "cylinder": math.pi * rc.CYLINDER_RADIUS**2 * 2 * rc.CYLINDER_HALF,
        "cone": math.pi * rc.CONE_RADIUS**2 * 2 * rc.CONE_HALF / 3.0,
        "torus": 2 * math.pi**2 * rc.TORUS_MAJOR * rc.TORUS_MINOR**2,
    }
    for shape, volume in volumes.items():
        points, normals = sample_surface(shape, 20_000, generator)
        flux = surface_area(shape) * float((points * normals).sum(dim=-1).mean())
        assert flux / 3.0 == pytest.approx(volume, rel=0.01), shape


def test_unknown_shape_lists_the_known(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="torus"):
        sample_surface("pyramid", 10, generator)
    with pytest.raises(ConfigError, match="torus"):
        surface_area("pyramid")


def test_scene_shares_gaussians_by_area_and_lights_them() -> None:
    scene = scene_for("a red cube on top of a blue sphere")
    gaussians = scene_to_gaussians(scene, 3000, torch.Generator().manual_seed(1))
    assert len(gaussians) == 3000
    assert gaussians.sh.shape == (3000, 1, 3)
    red = gaussians.colors[:, 0] > gaussians.colors[:, 2]
    areas = [surface_area(item.shape) * item.size**2 for item in scene.objects]
    assert float(red.float().mean()) == pytest.approx(areas[0] / sum(areas), abs=0.002)
    shade = gaussians.colors[red] / torch.tensor(PALETTE["red"])
    assert float(shade.min()) == pytest.approx(rc.AMBIENT - rc.DIFFUSE * rc.LIGHT[2], abs=1e-3)
    assert float(shade.max()) == pytest.approx(rc.AMBIENT + rc.DIFFUSE * rc.LIGHT[2], abs=1e-3)
    thin = gaussians.rotations[..., 2].abs()  # a cube's normals are the axes
    torch.testing.assert_close(thin[red].amax(dim=-1), torch.ones(int(red.sum())))


def test_scene_to_gaussians_refuses_nonsense() -> None:
    scene = scene_for("a red cube")
    with pytest.raises(ConfigError):
        scene_to_gaussians(scene, 0, torch.Generator())
    with pytest.raises(ConfigError):
        scene_to_gaussians(scene, 10, torch.Generator(), opacity=1.0)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_seeded_and_leaves_the_original_alone(kind: str) -> None:
    original = splats_for("a green torus")
    before = {name: tensor.clone() for name, tensor in original.parameters().items()}
    first, second = (
        damage(original, kind, 0.6, torch.Generator().manual_seed(4)).parameters() for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(
        first[n].shape != before[n].shape or not torch.equal(first[n], before[n]) for n in first
    )
    assert all(torch.equal(tensor, before[n]) for n, tensor in original.parameters().items())
    assert all(bool(tensor.isfinite().all()) for tensor in first.values())
    assert damage(original, kind, 0.0, torch.Generator()) is original


def test_damage_refuses_unknown_kinds_and_strengths() -> None:
    scene = splats_for("a green torus")
    with pytest.raises(ConfigError, match="haze"):
        damage(scene, "rust", 0.5, torch.Generator())
    with pytest.raises(ConfigError, match="strength"):
        damage(scene, "haze", 1.5, torch.Generator())


def test_damages_do_what_they_are_called() -> None:
    scene = splats_for("a green cube")
    spoiled = {kind: damage(scene, kind, 1.0, torch.Generator().manual_seed(2)) for kind in DAMAGES}
    assert len(spoiled["holes"]) < 0.95 * len(scene)
    floaters = spoiled["floaters"].means[len(scene) :]
    assert float(torch.cdist(floaters, scene.means).amin(dim=1).median()) > 0.1
    haze = spoiled["haze"].select(torch.arange(len(spoiled["haze"])) >= len(scene))
    assert float(haze.opacities.max()) < 0.2
    torch.testing.assert_close(haze.colors, torch.full_like(haze.colors, 0.5))
    assert float(spoiled["blur"].scales.mean()) > 2 * float(scene.scales.mean())
    assert float((spoiled["noise"].means - scene.means).std()) == pytest.approx(0.05, rel=0.1)
