"""The compiled CPU renderer against the definition, in value and gradient."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradients import assert_grad_close
from oracles import KINDS, decided_pixels, draw_scene, ring
from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render import Rendering, render
from vlm3d_gs.render.cpu import rasterize
from vlm3d_gs.render.cpu.blend import BUFFER, open_rows
from vlm3d_gs.render.cpu.math import exp2_negative
from vlm3d_gs.render.cpu.rasterize import band_rows
from vlm3d_gs.render.cpu.tiles import TILE

RTOL, ATOL = 1e-4, 5e-5


def differentiate(
    gaussians: Gaussians, cameras: Cameras, backend: str, weights: list[Tensor], background: Tensor
) -> tuple[Rendering, dict[str, Tensor]]:
    """Render, weigh the pictures, and return the gradients of all parameters and centres."""
    leaves = {
        name: value.clone().requires_grad_() for name, value in gaussians.parameters().items()
    }
    rendering = render(gaussians.changed(leaves), cameras, backend=backend, background=background)
    pictures = (rendering.color, rendering.alpha, rendering.depth)
    loss = sum(
        (image.double() * weight).sum() for image, weight in zip(pictures, weights, strict=True)
    )
    loss.backward()
    gradients = {name: value.grad for name, value in leaves.items()}
    return rendering, {**gradients, "means2d": rendering.means2d.grad}


def check_against_reference(gaussians: Gaussians, cameras: Cameras, seed: int) -> float:
    """Compare pictures and gradients at decided pixels; return the share of pixels that are decided."""
    generator = torch.Generator().manual_seed(seed)
    decided = decided_pixels(gaussians, cameras)[..., None]
    size = (len(cameras), cameras.height, cameras.width)
    weights = [
        torch.randn(*size, c, generator=generator, dtype=torch.float64) * decided for c in (3, 1, 1)
    ]
    background = torch.rand(len(cameras), 3, generator=generator)
    drawn, gradients = differentiate(gaussians, cameras, "cpu", weights, background)
    expected, witnesses = differentiate(gaussians, cameras, "reference", weights, background)
    for name in ("color", "alpha", "depth"):
        torch.testing.assert_close(
            getattr(drawn, name) * decided,
            getattr(expected, name) * decided,
            rtol=RTOL,
            atol=ATOL,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    seen = (drawn.radii > 0) & (expected.radii > 0)
    torch.testing.assert_close(drawn.radii * seen, expected.radii * seen, rtol=1e-3, atol=1e-3)
    scale = max(float(value.norm()) for value in witnesses.values())
    for name, witness in witnesses.items():
        assert_grad_close(name, gradients[name], witness, scale)
    return float(decided.float().mean()) if decided.numel() else 1.0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n=st.sampled_from([0, 1, 2, 7, 60]),
    seed=st.integers(0, 10_000),
    sh_degree=st.integers(0, 3),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4, unique=True),
    views=st.integers(1, 3),
    size=st.sampled_from([(50, 37), (16, 16), (33, 5), (1, 1)]),
    antialiased=st.booleans(),
)
@example(n=60, seed=1, sh_degree=3, kinds=list(KINDS), views=2, size=(50, 37), antialiased=False)
@example(n=60, seed=1, sh_degree=3, kinds=list(KINDS), views=2, size=(50, 37), antialiased=True)
@example(
    n=300, seed=2, sh_degree=0, kinds=["plain", "opaque"], views=2, size=(50, 37), antialiased=False
)
def test_agrees_with_the_definition(n, seed, sh_degree, kinds, views, size, antialiased):
    gaussians = replace(draw_scene(n, seed, sh_degree, tuple(kinds)), antialiased=antialiased)
    check_against_reference(gaussians, ring(views, *size), seed)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_for_each_kind_at_nearly_all_pixels(kind, antialiased):
    gaussians = replace(draw_scene(80, 3, 1, (kind,)), antialiased=antialiased)
    share = check_against_reference(gaussians, ring(2), 5)
    assert share > 0.9


def test_the_filter_keeps_what_a_splat_covers_when_it_is_drawn_smaller():
    scene = replace(draw_scene(1, 3), antialiased=True)
    scene = scene.changed(
        {
            "means": torch.zeros(1, 3),
            "log_scales": torch.full((1, 3), -3.5),
            "opacity_logits": torch.zeros(1),
        }
    )
    covered = {}
    for mode in (True, False):
        for side in (256, 32):
            drawn = render(replace(scene, antialiased=mode), ring(1, side, side), backend="cpu")
            covered[mode, side] = float(drawn.alpha.sum()) / side**2
    # A deviation of 0.47 px at 32: the dilation alone makes it cover 2.4 times as much.
    assert covered[True, 32] == pytest.approx(covered[True, 256], rel=0.1)
    assert covered[False, 32] > 1.8 * covered[False, 256]


def test_stored_images_of_gsplat(shared_fixtures, stored_case):
    gaussians, cameras, image = stored_case
    drawn = render(gaussians, cameras, backend="cpu")
    torch.testing.assert_close(drawn.color[0], image[..., :3], rtol=0, atol=1e-5)
    torch.testing.assert_close(drawn.alpha[0], image[..., 3:], rtol=0, atol=1e-5)


def test_same_bytes_with_any_number_of_threads():
    gaussians, cameras = draw_scene(400, 7, 2, KINDS), ring(3)
    weights = [torch.ones(1, dtype=torch.float64)] * 3
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            drawn, gradients = differentiate(
                gaussians, cameras, "cpu", weights, torch.rand(3, 3).mul(0)
            )
            results.append([*drawn, *gradients.values()])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_calls_from_several_threads_do_not_disturb_each_other():
    cameras = ring(2)
    scenes = [draw_scene(100, seed) for seed in range(4)]
    alone = [render(scene, cameras, backend="cpu").color for scene in scenes]
    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(lambda scene: render(scene, cameras, backend="cpu").color, scenes * 3)
        )
    assert all(torch.equal(a, b) for a, b in zip(alone * 3, together, strict=True))


def test_float64_scenes_come_back_as_float64():
    scene = draw_scene(20, 0).to(dtype=torch.float64).requires_grad_()
    drawn = render(scene, ring(1), backend="cpu")
    drawn.color.sum().backward()
    assert drawn.color.dtype == drawn.radii.dtype == torch.float64
    assert scene.means.grad is not None
    assert scene.means.grad.dtype == torch.float64


def test_frozen_scenes_render_without_a_graph():
    drawn = render(draw_scene(20, 0), ring(1), backend="cpu")
    assert not drawn.color.requires_grad
    assert not drawn.means2d.requires_grad


def test_only_some_parameters_may_want_gradients():
    scene = draw_scene(30, 0)
    scene.sh.requires_grad_()
    render(scene, ring(1), backend="cpu").alpha.sum().backward()
    assert scene.means.grad is None
    assert float(scene.sh.grad.abs().max()) == 0.0


def test_a_zero_quaternion_gets_a_zero_gradient():
    scene = draw_scene(10, 0, kinds=("zero_quat",)).requires_grad_()
    render(scene, ring(1), backend="cpu").color.square().sum().backward()
    assert float(scene.quats.grad.abs().max()) == 0.0
    assert float(scene.log_scales.grad.abs().max()) > 0.0


def test_extreme_sizes_stay_finite():
    scene = draw_scene(12, 4)
    for log_scale in (-40.0, 15.0, 60.0):
        stretched = Gaussians(
            **{**scene.parameters(), "log_scales": torch.full((12, 3), log_scale)}
        )
        drawn, gradients = differentiate(
            stretched, ring(1), "cpu", [torch.ones(1, dtype=torch.float64)] * 3, torch.zeros(3)
        )
        assert all(bool(torch.isfinite(value).all()) for value in [*drawn[:4], *gradients.values()])


@pytest.mark.parametrize("log_scale", [6.0, 12.0, 19.0, 25.0])
def test_huge_gaussians_are_drawn_as_the_definition_says(log_scale):
    scene = draw_scene(12, 4, 1)
    log_scales = scene.log_scales.clone()
    log_scales[:2] = log_scale + torch.tensor([0.0, -0.4, 0.3])
    huge = Gaussians(**{**scene.parameters(), "log_scales": log_scales})
    assert check_against_reference(huge, ring(2), 5) > 0.9


@pytest.mark.parametrize("size", [1e-10, 1e10, 1e19, 1e25, 1e38])
def test_quaternions_of_any_norm(size):
    scene = draw_scene(20, 4)
    quats = torch.nn.functional.normalize(scene.quats, dim=-1)
    plain = render(Gaussians(**{**scene.parameters(), "quats": quats}), ring(1), backend="cpu")
    scaled = Gaussians(**{**scene.parameters(), "quats": quats * size}).requires_grad_()
    drawn = render(scaled, ring(1), backend="cpu")
    torch.testing.assert_close(drawn.color, plain.color, rtol=RTOL, atol=ATOL)
    drawn.color.sum().backward()
    assert bool(scaled.quats.grad.isfinite().all())


@pytest.mark.parametrize("size", [1e6, 1e18, 1e20, 1e25])
def test_a_world_of_any_size_looks_the_same(size):
    scene, cameras = draw_scene(40, 4, 3), ring(2)
    plain = render(scene, cameras, backend="cpu")
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, 3] *= size
    large = Gaussians(
        **{
            **scene.parameters(),
            "means": scene.means * size,
            "log_scales": scene.log_scales + np.log(size),
        }
    ).requires_grad_()
    drawn = render(large, replace(cameras, viewmats=viewmats), backend="cpu")
    torch.testing.assert_close(drawn.color, plain.color, rtol=1e-3, atol=1e-3)
    drawn.color.sum().backward()
    assert bool(large.means.grad.isfinite().all())
    assert float(large.sh.grad.abs().max()) > 0.0


def test_a_gradient_that_overflows_is_zero_and_one_that_came_in_broken_is_not_hidden():
    size = ring(1).height, ring(1).width
    for slope, overflows in ((3e38, True), (float("nan"), False)):
        scene = draw_scene(20, 0).requires_grad_()
        drawn = render(scene, ring(1), backend="cpu")
        drawn.color.backward(torch.full((1, *size, 3), slope))
        assert bool(scene.means.grad.isfinite().all()) == overflows


def test_power_of_two_is_as_exact_as_promised():
    x = np.linspace(-126.0, 0.0, 200_001, dtype=np.float32)
    ours = np.array([exp2_negative(value) for value in x[::50]], np.float64)
    assert np.abs(ours / np.exp2(x[::50].astype(np.float64)) - 1.0).max() < 4e-7


@pytest.mark.parametrize(("views", "height"), [(1, 512), (4, 64), (4, 256), (40, 64), (1, 1)])
def test_bands_cover_all_tile_rows_once(views, height):
    bands = band_rows(views, height)
    assert bands[0] == 0
    assert bands[-1] == -(-height // TILE)
    assert (np.diff(bands) > 0).all()


@given(st.sets(st.integers(0, TILE - 1)), st.integers(0, TILE - 1), st.integers(0, TILE - 1))
def test_no_row_that_lets_light_through_is_left_out(lit, low, high):
    buffer = np.zeros(BUFFER, np.float32)
    for row in lit:
        buffer[row * TILE + (5 * row) % TILE] = 1e-4
    inside = [row for row in sorted(lit) if low <= row <= high]
    first, last = open_rows(buffer, low, high)
    if inside:
        assert (first, last) == (inside[0], inside[-1])
    else:
        assert first > last


def test_pictures_in_pieces_are_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a gradient views and rows of tiles are drawn in pieces, so that memory is bounded."""
    scene, cameras = draw_scene(200, 3, 1, KINDS), ring(3, 70)
    background = torch.rand(3, 3)

    def drawn() -> Rendering:
        with torch.no_grad():
            return render(scene, cameras, backend="cpu", background=background)

    whole = drawn()
    entries: list[int] = []
    run = rasterize.run_tasks

    def watched(kernel: object, tasks: int, *arguments: object) -> None:
        if kernel is rasterize.tiles.list_tiles:
            entries.append(len(arguments[-1]))  # type: ignore[arg-type]
        run(kernel, tasks, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rasterize, "run_tasks", watched)
    monkeypatch.setattr(rasterize, "_PAIRS", len(scene))
    monkeypatch.setattr(rasterize, "_ENTRIES", 100)
    for got, expected in zip(drawn(), whole, strict=True):
        assert torch.equal(got, expected)
    assert entries.count(0) == 3, "each view is counted by itself"
    assert len(entries) > 9, "and drawn in several pieces"
