"""Any float32 in any place, with bounds checked in compiled code.

`test_bounds` runs this file in a process of its own, where Numba raises IndexError for an index out
of bounds. Elsewhere the process would die, or not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from oracles import KINDS, draw_scene, ring
from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.render import Rendering, render
from vlm3d_gs.render.cpu.rasterize import _Blending, list_ends, render_cpu
from vlm3d_gs.render.cpu.tiles import clamped_index

FINITE = [0.0, 1e-45, 1e-40, 1e-30, 1e-12, 0.5, 19.0, 25.0, 60.0, 1e7, 1e19, 1e30, 3.4e38]
LARGEST = float(np.finfo(np.float32).max)
SIZES = [(50, 37), (16, 16), (33, 5), (1, 1)]
PARAMETERS = ("means", "log_scales", "quats", "opacity_logits", "sh")
SLOPES = ("d_color", "d_alpha", "d_depth")
PLACES = (*PARAMETERS, "viewmats", "Ks", "background", *SLOPES)


def changes(places: tuple[str, ...], *, finite: bool) -> st.SearchStrategy[list[Any]]:
    """Draw (place, position, value): which array, which entry (-1 for all), and what to put there."""
    special = [np.float32(sign * value).item() for value in FINITE for sign in (1.0, -1.0)]
    special += [] if finite else [float("inf"), -float("inf"), float("nan")]
    anything = st.floats(width=32, allow_nan=not finite, allow_infinity=not finite)
    values = st.one_of(st.sampled_from(special), anything)
    change = st.tuples(st.sampled_from(places), st.integers(-1, 60), values)
    return st.lists(change, min_size=1, max_size=8)


def put(arrays: dict[str, Tensor], changed: list[Any]) -> None:
    """Make the changes, in place."""
    for place, position, value in changed:
        flat = arrays[place].view(-1)
        if position < 0:
            flat.fill_(value)
        else:
            flat[position % len(flat)] = value


def arrays_of(seed: int, degree: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return all floats that enter a render of twelve Gaussians in two views, and a loss's slopes."""
    scene, cameras = draw_scene(12, seed, degree, KINDS), ring(2, *size)
    shape = (2, size[1], size[0])
    return {
        **scene.parameters(),
        "viewmats": cameras.viewmats.clone(),
        "Ks": cameras.Ks.clone(),
        "background": torch.rand(2, 3),
        "d_color": torch.randn(*shape, 3),
        "d_alpha": torch.randn(*shape, 1),
        "d_depth": torch.randn(*shape, 1),
    }


def differentiate(
    arrays: dict[str, Tensor], degree: int, size: tuple[int, int]
) -> tuple[Rendering, dict[str, Tensor]]:
    """Render past the checks of `render`; return the gradients of all parameters and centres too."""
    leaves = {name: arrays[name].requires_grad_() for name in PARAMETERS}
    none = torch.zeros(2)
    cameras = Cameras(arrays["viewmats"], arrays["Ks"], *size, none, none, none)
    drawn = render_cpu(Gaussians(**leaves), cameras, arrays["background"], degree)
    pictures = (drawn.color, drawn.alpha, drawn.depth)
    torch.autograd.backward(pictures, [arrays[name] for name in SLOPES])
    gradients = {name: value.grad for name, value in leaves.items()}
    return drawn, {**gradients, "means2d": drawn.means2d.grad}


def check_finite(drawn: Rendering, gradients: dict[str, Tensor]) -> None:
    """Require that pictures, radii, centres and gradients are finite."""
    pictures = {name: getattr(drawn, name) for name in ("color", "alpha", "depth", "radii")}
    pictures["means2d"] = drawn.means2d
    for name, value in pictures.items():
        assert bool(value.isfinite().all()), name
    for name, value in gradients.items():
        assert bool(value.isfinite().all()), f"gradient of {name}"


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 100),
    degree=st.integers(0, 3),
    size=st.sampled_from(SIZES),
    changed=changes(PLACES, finite=False),
)
@example(seed=0, degree=0, size=(50, 37), changed=[("log_scales", -1, 19.0)])
@example(seed=0, degree=0, size=(50, 37), changed=[("means", -1, float("nan"))])
@example(seed=0, degree=3, size=(50, 37), changed=[("Ks", -1, float("nan"))])
@example(seed=0, degree=3, size=(50, 37), changed=[("Ks", -1, float("inf"))])
@example(seed=0, degree=3, size=(50, 37), changed=[("d_color", 3, float("nan"))])
def test_no_float_leads_out_of_bounds(
    seed: int, degree: int, size: tuple[int, int], changed: list[Any]
) -> None:
    arrays = arrays_of(seed, degree, size)
    put(arrays, changed)
    differentiate(arrays, degree, size)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 100),
    degree=st.integers(0, 3),
    size=st.sampled_from(SIZES),
    changed=changes(PLACES, finite=True),
)
@example(seed=0, degree=3, size=(50, 37), changed=[("log_scales", -1, 25.0)])
@example(seed=0, degree=3, size=(50, 37), changed=[("quats", -1, LARGEST)])
@example(seed=0, degree=3, size=(50, 37), changed=[("sh", -1, LARGEST)])
@example(seed=0, degree=3, size=(50, 37), changed=[("d_color", -1, LARGEST)])
@example(seed=0, degree=3, size=(50, 37), changed=[("Ks", -1, 0.0)])
def test_finite_floats_give_finite_pictures_and_gradients(
    seed: int, degree: int, size: tuple[int, int], changed: list[Any]
) -> None:
    arrays = arrays_of(seed, degree, size)
    put(arrays, changed)
    check_finite(*differentiate(arrays, degree, size))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 100),
    size=st.sampled_from(SIZES),
    changed=changes(("means2d", "shapes", "radii", *SLOPES), finite=False),
)
def test_blending_takes_any_float_from_the_projection(
    seed: int, size: tuple[int, int], changed: list[Any]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    arrays = {
        "means2d": 40.0 * torch.rand(2, 12, 2, generator=generator),
        "shapes": torch.rand(2, 12, 8, generator=generator) + 0.01,
        "radii": torch.ones(2, 12),
        "d_color": torch.randn(2, size[1], size[0], 3),
        "d_alpha": torch.randn(2, size[1], size[0]),
        "d_depth": torch.randn(2, size[1], size[0]),
    }
    put(arrays, changed)
    means2d, shapes = arrays["means2d"].requires_grad_(), arrays["shapes"].requires_grad_()
    pictures = _Blending.apply(means2d, shapes, arrays["radii"], torch.zeros(2, 3), size)
    torch.autograd.backward(pictures, [arrays[name] for name in SLOPES])


@settings(deadline=None, derandomize=True)
@given(value=st.floats(width=32), low=st.sampled_from([-1, 0]), high=st.integers(0, 5000))
def test_an_index_stays_in_its_range(value: float, low: int, high: int) -> None:
    index = clamped_index(np.float32(value), low, high)
    assert low <= index <= high
    if low <= value < high:
        assert abs(index - np.floor(value)) <= 1, "value + 1 is rounded to float32"


def test_lists_may_be_longer_than_32_bits() -> None:
    counts = np.full((3, 4), 2**31 - 1, np.int64)
    assert list_ends(counts)[-1, -1] == 12 * (2**31 - 1)


@pytest.mark.parametrize("name", ["evil19.ply", "d_one25.ply"])
def test_splats_that_killed_the_renderer(name: str, shared_fixtures: Any) -> None:
    path = shared_fixtures / "wild" / name
    if not path.is_file():
        pytest.skip(f"{name} is absent here")
    scene, cameras = read_splat(path).requires_grad_(), ring(2, 320, 200)
    drawn = render(scene, cameras, backend="cpu")
    (drawn.color.sum() + drawn.alpha.sum() + drawn.depth.sum()).backward()
    check_finite(drawn, {name: value.grad for name, value in scene.parameters().items()})
    expected = render(scene.detach(), cameras, backend="reference")
    torch.testing.assert_close(drawn.alpha, expected.alpha, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drawn.color, expected.color, rtol=1e-4, atol=1e-4)
