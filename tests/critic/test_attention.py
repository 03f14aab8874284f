"""Own modules of Qwen-VL: the results are those of transformers, in fewer calls."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from gradients import assert_grad_close
from vlm3d_gs.critic.qwen.attention import (
    StillPatchEmbedding,
    attend_in_chunks,
    attend_to_text,
    use_fast_modules,
    vision_kwargs,
)

CPU = torch.device("cpu")
GRIDS = torch.tensor([[1, 6, 10], [1, 4, 4]])
"""Two pictures; in windows of four patches they make chunks of 16, 8 and 4 tokens."""
DEPTH = 3


def windowed() -> Qwen2_5_VLForConditionalGeneration:
    """A small Qwen2.5-VL whose tower has windows in all layers but the last."""
    torch.manual_seed(2)
    vision = {
        "depth": DEPTH,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "window_size": 16,
        "out_hidden_size": 48,
        "fullatt_block_indexes": [DEPTH - 1],
    }
    text = {
        "vocab_size": 16,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [2, 3, 3],
        },
    }
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    )
    for parameter in model.parameters():
        parameter.data *= 3.0 if parameter.ndim > 1 else 1.0
    return model.eval().requires_grad_(False)


def stills(generator: torch.Generator) -> torch.Tensor:
    """Random patches whose two frames are the same [76, 3 * 2 * 4 * 4]."""
    frame = torch.randn(76, 3, 1, 16, generator=generator)
    return frame.expand(-1, -1, 2, -1).flatten(1)


def test_a_tower_with_windows_sees_the_same(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, patches = windowed(), stills(generator).requires_grad_()
    theirs = model.model.visual(patches, grid_thw=GRIDS).pooler_output
    weights = torch.randn(theirs.shape, generator=generator)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), patches)

    use_fast_modules(model)
    calls = []
    fused = F.scaled_dot_product_attention

    def counted(*tensors: Any, **more: Any) -> torch.Tensor:
        calls.append(tensors[0].shape)
        return fused(*tensors, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    ours = model.model.visual(patches, **vision_kwargs(model.model.visual, GRIDS, CPU))
    torch.testing.assert_close(ours.pooler_output, theirs, atol=1e-5, rtol=1e-4)
    assert len(calls) == DEPTH, "one call a layer"
    assert len({shape[0] for shape in calls}) == 2, "windows and whole pictures"
    (actual,) = torch.autograd.grad((ours.pooler_output * weights).sum(), patches)
    folded = [g.unflatten(1, (3, 2, 16)).sum(2) for g in (actual, expected)]
    assert_grad_close("frames together", *folded)


@pytest.mark.parametrize("borders", [(0, 4, 8, 12), (0, 5, 6, 12), (0, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_do_not_see_each_other(
    borders: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    drawn = torch.randn(3, 1, 2, 12, 8, generator=generator)
    query, key, value = (part.to(dtype).requires_grad_() for part in drawn)
    each = [
        F.scaled_dot_product_attention(
            *(part[:, :, a:b].float() for part in (query, key, value)), scale=0.5
        )
        for a, b in pairwise(borders)
    ]
    expected = torch.cat(each, 2).transpose(1, 2)
    actual, _ = attend_in_chunks(
        torch.nn.Identity(),
        query,
        key,
        value,
        None,
        cu_seq_lens_q=torch.tensor(borders),
        scaling=0.5,
    )
    assert actual.dtype == dtype
    loose = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(actual.float(), expected, atol=loose, rtol=loose)
    slope = torch.randn(expected.shape, generator=generator)
    ours = torch.autograd.grad((actual.float() * slope).sum(), (query, key, value))
    theirs = torch.autograd.grad((expected * slope).sum(), (query, key, value))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.float(), other.float(), atol=3 * loose, rtol=3 * loose)


@pytest.mark.parametrize("bias", [False, True])
def test_stills_are_embedded_as_by_the_convolution(bias: bool, generator: torch.Generator) -> None:
    convolution = torch.nn.Conv3d(3, 5, (2, 4, 4), stride=(2, 4, 4), bias=bias)
    patches = stills(generator)
    expected = convolution(patches.reshape(-1, 3, 2, 4, 4)).flatten(1)
    torch.testing.assert_close(StillPatchEmbedding(convolution)(patches), expected)


@pytest.mark.parametrize("key_heads", [4, 2])
def test_text_in_bfloat16_attends_as_in_float32(key_heads: int, generator: torch.Generator) -> None:
    query = torch.randn(1, 4, 6, 8, generator=generator)
    key, value = torch.randn(2, 1, key_heads, 9, 8, generator=generator)
    mask = torch.rand(1, 1, 6, 9, generator=generator) < 0.6
    mask[..., 0] = True
    layer = torch.nn.Identity()
    layer.num_key_value_groups = 4 // key_heads  # type: ignore[assignment]
    exact, _ = attend_to_text(layer, query, key, value, mask, scaling=0.4)
    halved = [part.bfloat16() for part in (query, key, value)]
    rough, _ = attend_to_text(layer, *halved, mask, scaling=0.4)
    assert rough.shape == exact.shape == (1, 6, 4, 8)
    torch.testing.assert_close(rough.float(), exact, atol=3e-2, rtol=3e-2)
