"""evaluate.palette, regions, shapes, cleanliness: each against cases with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scenes import render_scene, scene_for
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.prompts import COLORS, SHAPES
from vlm3d_gs.evaluate.cleanliness import drop_specks, measure_cleanliness
from vlm3d_gs.evaluate.palette import CLASS_NAMES, DARK, OTHER, classify_colors
from vlm3d_gs.evaluate.regions import component_sizes, grow, shrink, shrink_disc, touching
from vlm3d_gs.evaluate.shapes import Rays, distances, fit_shapes
from vlm3d_gs.evaluate.views import (
    ObservedViews,
    checker_cameras,
    flat_rays,
    observe,
    search_pixels,
)
from vlm3d_gs.layout.shapes import HALF_HEIGHT, HALF_WIDTH
from vlm3d_gs.mini.world import raycast as rc
from vlm3d_gs.mini.world.scenes import (
    PALETTE,
    ObjectSpec,
    SceneSpec,
)

DARKEST = rc.AMBIENT - rc.DIFFUSE


def mask_of(*rows: str) -> torch.Tensor:
    return torch.tensor([[[letter == "#" for letter in row] for row in rows]])


@pytest.mark.parametrize("color", COLORS)
def test_shading_does_not_change_a_colours_name(color: str, generator: torch.Generator) -> None:
    shades = torch.linspace(DARKEST, 1.0, 20)[:, None]
    noise = 0.03 * torch.randn(20, 3, generator=generator)
    names = [CLASS_NAMES[i] for i in classify_colors(shades * torch.tensor(PALETTE[color]) + noise)]
    assert set(names) == {color}


def test_mixing_in_grey_turns_a_colour_foreign() -> None:
    red, grey = torch.tensor(PALETTE["red"]), torch.full((3,), 0.5)
    mixed = torch.stack([share * grey + (1 - share) * red for share in (0.2, 0.9)])
    assert [CLASS_NAMES[i] for i in classify_colors(mixed)] == ["red", "white"]


def test_black_and_strange_colours_have_no_palette_name() -> None:
    strange = torch.tensor([[0.0, 0.0, 0.0], [0.05, 0.02, 0.01], [0.9, 0.1, 0.5]])
    assert classify_colors(strange).tolist() == [DARK, DARK, OTHER]


def test_components_touch_by_corners_and_stay_in_their_view() -> None:
    masks = mask_of("##..#", "..#..", "....#", "....#").repeat(2, 1, 1)
    sizes = component_sizes(masks)
    assert sizes[0].tolist() == sizes[1].tolist()
    assert sizes[0].tolist() == [[3, 3, 0, 0, 1], [0, 0, 3, 0, 0], [0, 0, 0, 0, 2], [0, 0, 0, 0, 2]]


def test_components_touch_diagonally() -> None:
    sizes = component_sizes(mask_of("#..", ".#.", "..#"))
    assert sizes.max() == 3


def test_touching_keeps_whole_components_that_hold_a_seed() -> None:
    masks, seeds = mask_of("##.##", "##...", "....#"), mask_of("#..#.", ".....", ".#...")
    assert torch.equal(touching(masks, seeds), mask_of("##.##", "##...", "....."))


def test_grow_and_shrink_are_opposite_on_a_block() -> None:
    block = torch.zeros(1, 9, 9, dtype=torch.bool)
    block[0, 3:6, 3:6] = True
    assert int(grow(block, 1).sum()) == 25
    assert int(shrink(block, 1).sum()) == 1
    assert torch.equal(shrink(grow(block, 2), 2), block)
    assert bool(shrink(torch.ones(1, 4, 4, dtype=torch.bool), 1).all())  # the edge stays


def test_shrinking_by_a_disc_undoes_the_rounding_of_a_square() -> None:
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    beyond = torch.stack([(abs(y - 20) - 8).clamp_min(0), (abs(x - 20) - 8).clamp_min(0)])
    rounded = beyond.norm(dim=0)[None] <= 4.0
    square = ((abs(y - 20) <= 8) & (abs(x - 20) <= 8))[None]
    assert torch.equal(shrink_disc(rounded, 4.0), square)


def test_specks_are_dropped() -> None:
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, :10, :10] = True
    mask[0, 15:, 15:] = True  # a quarter of the largest: kept
    mask[0, 15, 2] = True  # a speck: dropped
    kept = drop_specks(mask)
    assert int(kept.sum()) == 125


def exact_views(scene: SceneSpec) -> ObservedViews:
    """ObservedViews with the ray caster's coverage in place of a rendering."""
    cameras = checker_cameras()
    nothing = Gaussians(*(torch.zeros(0, *shape) for shape in ((3,), (3,), (4,), (), (1, 3))))
    views = observe(nothing, cameras, "cpu")
    return ObservedViews(
        cameras=cameras,
        alpha=render_scene(scene, cameras).alpha[..., 0],
        classes=torch.full_like(views.classes, CLASS_NAMES.index(scene.objects[0].color)),
        lengths=views.lengths,
        points=views.points,
        origins=views.origins,
        directions=views.directions,
    )


def rays_of(views: ObservedViews, pixels: torch.Tensor) -> Rays:
    nothing_hides = np.full(int(pixels.sum()), rc.FAR)
    return Rays(*flat_rays(views, pixels), views.solid[pixels].numpy(), nothing_hides)


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_silhouettes_are_fitted_exactly(shape: str) -> None:
    center, size = (0.08, -0.05, 0.1), 0.5
    views = exact_views(SceneSpec((ObjectSpec(shape, "red", center, size),)))
    half = size * np.array([HALF_WIDTH[shape], HALF_WIDTH[shape], HALF_HEIGHT[shape]])
    everything = torch.ones_like(views.solid)
    rough, fine = rays_of(views, search_pixels(views)), rays_of(views, everything)
    # The search starts from a box that is 15 % too large and off by a tenth of the size.
    fits = fit_shapes(rough, fine, center - 1.05 * half - 0.05, center + 1.25 * half - 0.05)
    assert [item.shape for item in fits].index(shape) == 0
    assert fits[0].iou > 0.975
    assert fits[0].iou > fits[1].iou + 0.05
    np.testing.assert_allclose(fits[0].center, center, atol=0.015)
    assert fits[0].half_width == pytest.approx(half[0], rel=0.04)
    assert fits[0].half_height == pytest.approx(half[2], rel=0.04)
    hits = distances(fits[0], fine) < rc.FAR
    assert hits.mean() == pytest.approx(fine.inside.mean(), rel=0.03)


def test_a_turned_cube_is_still_a_cube() -> None:
    """Turn the cameras instead of the cube: the silhouettes are those of a cube turned by 30 deg."""
    views = exact_views(SceneSpec((ObjectSpec("cube", "red", (0.0, 0.0, 0.0), 0.6),)))
    angle = math.radians(30.0)
    turn = np.array(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    )
    turned = []
    for pixels in (search_pixels(views), torch.ones_like(views.solid)):
        rays = rays_of(views, pixels)
        turned.append(
            rays._replace(origins=rays.origins @ turn.T, directions=rays.directions @ turn.T)
        )
    fits = fit_shapes(*turned, np.full(3, -0.6), np.full(3, 0.6))
    assert fits[0].shape == "cube"
    assert fits[0].iou > 0.96


def test_rays_go_through_the_pixels_that_cameras_project_to() -> None:
    cameras = checker_cameras(8)
    nothing = Gaussians(*(torch.zeros(0, *shape) for shape in ((3,), (3,), (4,), (), (1, 3))))
    views = observe(nothing, cameras, "cpu")
    points = views.origins[:, None, None] + 2.0 * views.directions
    local = torch.einsum("vij,vhwj->vhwi", cameras.viewmats[:, :3, :3], points)
    local = local + cameras.viewmats[:, None, None, :3, 3]
    pixels = torch.einsum("vij,vhwj->vhwi", cameras.Ks, local / local[..., 2:])
    y, x = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(8) + 0.5, indexing="ij")
    torch.testing.assert_close(pixels[..., 0], x.expand(len(cameras), 8, 8), rtol=0, atol=1e-3)
    torch.testing.assert_close(pixels[..., 1], y.expand(len(cameras), 8, 8), rtol=0, atol=1e-3)


def test_cleanliness_counts_what_was_painted() -> None:
    views = exact_views(scene_for("a red cube"))
    red, blue = CLASS_NAMES.index("red"), CLASS_NAMES.index("blue")
    clean = measure_cleanliness(views, [red])
    assert (clean.foreign, clean.haze, clean.floaters) == (0.0, 0.0, 0.0)
    assert len(clean.views) == len(views.cameras)
    assert clean.views[3].azimuth_deg == pytest.approx(90.0)

    covered = int(views.covered.sum())
    views.classes[:, 40:60] = blue
    expected = int(views.covered[:, 40:60].sum()) / covered
    assert measure_cleanliness(views, [red]).foreign == pytest.approx(expected)
    assert measure_cleanliness(views, [red, blue]).foreign == 0.0

    views.alpha[:, 2:6, 2:6] = 0.9  # a dense speck in the corner of every view
    views.alpha[:, 80:90, 10:20] = 0.2  # a faint cloud apart
    total = covered + len(views.cameras) * 116
    dirty = measure_cleanliness(views, [red, blue])
    assert dirty.floaters == pytest.approx(len(views.cameras) * 116 / total)
    assert dirty.haze == 0.0

    views = exact_views(scene_for("a red cube"))
    views.alpha[:, 47:50, 47:50] = 0.6  # one can see through the middle
    thin = measure_cleanliness(views, [red])
    assert thin.haze == pytest.approx(len(views.cameras) * 9 / covered, rel=0.3)
