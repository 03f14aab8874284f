"""Pictures to patches, against transformers' own processor and by numerical gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vlm3d_gs.errors import ShapeError
from vlm3d_gs.guidance.preprocess import PatchLayout, to_patches


@pytest.mark.parametrize("layout", [PatchLayout(), PatchLayout(8, 1, 2), PatchLayout(4, 2, 1)])
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
    wanted = processor(images=[np.asarray(item) for item in levels], return_tensors="np")
    values, grids = to_patches(levels.float() / 255.0, layout)
    np.testing.assert_allclose(values.numpy(), wanted["pixel_values"], atol=2e-6)
    np.testing.assert_array_equal(grids.numpy(), wanted["image_grid_thw"])


def test_gradient_is_right_through_resize_and_normalisation(generator: torch.Generator) -> None:
    images = torch.rand(1, 7, 9, 3, generator=generator, dtype=torch.float64) * 0.5 + 0.25
    layout = PatchLayout(4, 1, 2)
    assert torch.autograd.gradcheck(
        lambda x: to_patches(x, layout)[0], images.requires_grad_(), fast_mode=True
    )


def test_no_gradient_outside_the_range_of_colours() -> None:
    images = torch.full((1, 8, 8, 3), 1.5, requires_grad=True)
    to_patches(images, PatchLayout(8, 1, 1))[0].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() == 0


def test_channels_first_is_refused() -> None:
    with pytest.raises(ShapeError, match="images"):
        to_patches(torch.zeros(1, 3, 8, 8), PatchLayout(8, 1, 1))
