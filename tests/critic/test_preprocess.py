"""Pictures to patches, against transformers' own processor and by numerical gradient."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ConfigError, InputFileError, ShapeError
from vlm3d_gs.critic.qwen.preprocess import (
    PatchLayout,
    cut_patches,
    fitting_size,
    load_patch_layout,
    to_patches,
)
from vlm3d_gs.mini.world.scenes import render_rgba, sample_scene

LAYOUTS = {
    "qwen2-vl and qwen2.5-vl": PatchLayout(),
    "qwen3-vl": PatchLayout(16, 2, 2, (0.5,) * 3, (0.5,) * 3, 65536, 16777216),
}
"""As the published processors' files say."""


@pytest.mark.parametrize(
    "layout",
    [
        PatchLayout(min_pixels=16),
        PatchLayout(8, 1, 2, min_pixels=16),
        PatchLayout(4, 2, 1, min_pixels=16),
    ],
)
@pytest.mark.parametrize("patches", [(2, 2), (4, 6)])
def test_patches_equal_the_processors(
    layout: PatchLayout, patches: tuple[int, int], generator: torch.Generator
) -> None:
    height, width = (count * layout.factor for count in patches)
    levels = torch.randint(0, 256, (2, height, width, 3), generator=generator, dtype=torch.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=layout.patch_size,
        merge_size=layout.merge_size,
        temporal_patch_size=layout.temporal_patch_size,
        image_mean=list(layout.mean),
        image_std=list(layout.std),
        size={"shortest_edge": 16, "longest_edge": 10**7},
    )
    expected = processor(images=[np.asarray(item) for item in levels], return_tensors="np")
    values, grids = to_patches(levels.float() / 255.0, layout)
    np.testing.assert_allclose(values.numpy(), expected["pixel_values"], atol=2e-6)
    np.testing.assert_array_equal(grids.numpy(), expected["image_grid_thw"])


def test_gradient_is_right_through_resize_and_normalisation(generator: torch.Generator) -> None:
    images = torch.rand(1, 7, 9, 3, generator=generator, dtype=torch.float64) * 0.5 + 0.25
    layout = PatchLayout(4, 1, 2, min_pixels=16)
    assert torch.autograd.gradcheck(
        lambda x: to_patches(x, layout)[0], images.requires_grad_(), fast_mode=True
    )


def test_a_gradient_is_there_after_a_first_call_in_inference_mode() -> None:
    layout = PatchLayout(14, 2, 2, (0.31, 0.42, 0.53), (0.2, 0.3, 0.4), 56 * 56, 1000 * 1000)
    with torch.inference_mode():
        cut_patches(torch.rand(1, 56, 56, 3), layout)
    images = torch.rand(1, 56, 56, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(cut_patches(images, layout).sum(), images)
    assert gradient.abs().sum() > 0.0


def test_no_gradient_outside_the_range_of_colours() -> None:
    images = torch.full((1, 8, 8, 3), 1.5, requires_grad=True)
    to_patches(images, PatchLayout(8, 1, 1, min_pixels=16))[0].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() == 0


def test_channels_first_is_refused() -> None:
    with pytest.raises(ShapeError, match="images"):
        to_patches(torch.zeros(1, 3, 8, 8), PatchLayout(8, 1, 1, min_pixels=16))


@pytest.mark.parametrize("name", LAYOUTS)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_pictures_get_the_size_that_the_processor_gives_them(
    name: str, height: int, width: int
) -> None:
    layout = LAYOUTS[name]
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ConfigError, match="200"):
            fitting_size(height, width, layout)
        return
    expected = smart_resize(height, width, layout.factor, layout.min_pixels, layout.max_pixels)
    assert fitting_size(height, width, layout) == expected


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [(256, 256), (64, 64), (100, 333), (500, 41)])
def test_resized_patches_are_the_processors_within_two_levels(
    name: str, size: tuple[int, int], generator: torch.Generator
) -> None:
    """Pillow rounds and clips between the two directions of a resize, so pictures of bare noise differ by more."""
    layout = LAYOUTS[name]
    scene = sample_scene(np.random.default_rng(3))
    rgba, _ = render_rgba([scene], orbit([20.0], 15.0, 3.05, 40.0, 64, 64))
    drawn = torch.from_numpy(rgba[0, 0])
    render = drawn[..., :3] + (1.0 - drawn[..., 3:]) * torch.tensor([0.9, 0.7, 0.2])
    shapes = torch.nn.functional.interpolate(render.movedim(-1, 0)[None], size, mode="nearest")
    smooth = torch.rand(1, 3, *size, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(smooth, 5, 1, 2)
    pictures = (255.0 * torch.cat([shapes, smooth])).round().to(torch.uint8).movedim(1, -1)
    processor = Qwen2VLImageProcessorPil(
        patch_size=layout.patch_size,
        merge_size=layout.merge_size,
        image_mean=list(layout.mean),
        image_std=list(layout.std),
        size={"shortest_edge": layout.min_pixels, "longest_edge": layout.max_pixels},
    )
    expected = processor(images=[np.asarray(item) for item in pictures], return_tensors="np")
    values, grids = to_patches(pictures.float() / 255.0, layout)
    np.testing.assert_array_equal(grids.numpy(), expected["image_grid_thw"])
    apart = np.abs(values.numpy() - expected["pixel_values"]) * min(layout.std)
    assert apart.max() <= 2.0 / 255.0 + 1e-6


@pytest.mark.parametrize(
    "content",
    [
        {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, "image_mean": [0.5] * 3}
        | {"image_std": [0.5] * 3, "size": {"shortest_edge": 65536, "longest_edge": 16777216}},
        {"image_processor": {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}}
        | {"processor_class": "Qwen3VLProcessor"},
    ],
)
def test_both_kinds_of_processor_files_are_read(content: dict[str, object], tmp_path: Path) -> None:
    name = "processor_config.json" if "image_processor" in content else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps(content))
    layout = load_patch_layout(tmp_path)
    assert layout.factor == 32
    if "size" in content:
        assert layout == LAYOUTS["qwen3-vl"]


def test_files_that_fit_no_qwen_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a Qwen-VL"):
        load_patch_layout(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text('{"patch_size": 14}')
    with pytest.raises(InputFileError, match="merge_size"):
        load_patch_layout(tmp_path)
    sizes = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "resample": 2}
    path.write_text(json.dumps(sizes))
    with pytest.raises(ConfigError, match="resample"):
        load_patch_layout(tmp_path)
