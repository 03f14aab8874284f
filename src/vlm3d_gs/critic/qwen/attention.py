"""Faster attention and patch embedding for the Qwen-VL models of transformers, and nothing that waits for a device.

A vision tower attends within chunks: the images, or windows of them. Transformers calls attention once per chunk, which
for four views of 252 px is 36 times per layer; here all chunks of a layer are one call. Attention is registered through
the interface that transformers has for it; the embedding replaces a module.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from vlm3d_gs.critic.qwen.dot_product import attend, fused_is_slow

VISION_ATTENTION = "vlm3d_gs_flash_chunks"
"""Transformers passes chunk borders only to implementations that have "flash" in their name."""
TEXT_ATTENTION = "vlm3d_gs_text"


def use_fast_modules(network: Any) -> None:
    """Make a Qwen-VL of transformers use the modules of this file, with equal results; in place."""
    AttentionInterface.register(VISION_ATTENTION, attend_in_chunks)
    AttentionInterface.register(TEXT_ATTENTION, attend_to_text)
    AttentionMaskInterface.register(TEXT_ATTENTION, sdpa_mask)
    network.model.visual.config._attn_implementation = VISION_ATTENTION
    network.model.language_model.config._attn_implementation = TEXT_ATTENTION
    network.model.visual.patch_embed = StillPatchEmbedding(network.model.visual.patch_embed.proj)
    if network.config.model_type == "qwen3_vl":
        network.model.language_model._deepstack_process = add_at_places


def add_at_places(states: Tensor, places: Tensor, added: Tensor) -> Tensor:
    """Return text states with features of the images added to those of the image tokens.

    In place of Qwen3-VL's own, which selects by a mask: on a device that waits, and cannot be recorded.

    Args:
        states: [S, L, width].
        places: [tokens] int64, where the image tokens of each scene are.
        added: [S * tokens, width].
    """
    return states.index_add(1, places, added.to(states.dtype).unflatten(0, (len(states), -1)))


class StillPatchEmbedding(torch.nn.Module):
    """The patch embedding of still images, whose frames are equal: one product with weights summed over time.

    The convolution of transformers over time, height and width computes the same, with a backward pass several times
    slower.
    """

    def __init__(self, convolution: torch.nn.Conv3d) -> None:
        """Take the weights [out, channels, frames, patch, patch], on their device and in their dtype."""
        super().__init__()
        self.frames = convolution.kernel_size[0]
        self.channels = convolution.in_channels
        weight = convolution.weight.detach().sum(2).flatten(1)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.bias = convolution.bias

    def forward(self, patches: Tensor) -> Tensor:
        """Embed [N, channels * frames * patch * patch] as [N, out]; only the first frame is read."""
        # A convolution over equal frames is a product of one frame with the weights' sum.
        still = patches.unflatten(1, (self.channels, self.frames, -1))[:, :, 0].flatten(1)
        return F.linear(still.to(self.weight.dtype), self.weight, self.bias)


def vision_kwargs(tower: Any, grids: Tensor, device: torch.device) -> dict[str, Any]:
    """Return keyword arguments that a vision tower would otherwise compute at every call from the grids of patches.

    Chunk borders stay on the CPU, so that no layer waits for the device to read them.

    Args:
        tower: `visual` of a Qwen-VL of transformers.
        grids: [B, 3] numbers of patches along time, height and width, on the CPU.
        device: of the tower.
    """
    merge, config = tower.spatial_merge_size, tower.config

    borders = get_vision_cu_seqlens(grids)
    kwargs: dict[str, Any] = {
        "grid_thw": grids,
        "position_ids": get_vision_position_ids(grids, merge).to(device),
        "cu_seqlens": borders,
        "max_seqlen": int(borders.diff().max()),
    }

    # Qwen2-VL needs no more: its tower attends to whole images and has no learned position embeddings.
    if config.model_type.startswith("qwen2_5_vl"):
        order, windows = get_vision_window_index(
            grids, merge, config.window_size, config.patch_size
        )
        kwargs |= {
            "window_index": order.to(device),
            "cu_window_seqlens": windows,
            "max_window_seqlen": int(windows.diff().max()),
        }
    elif config.model_type.startswith("qwen3_vl"):
        indices, weights = get_vision_interpolation_indices_and_weights(
            grids,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=merge,
        )
        kwargs |= {"interp_indices": indices.to(device), "interp_weights": weights.to(device)}

    return kwargs


def attend_in_chunks(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attend within chunks of a sequence, all chunks in one call.

    Args:
        module: the layer; not used.
        query: [1, heads, L, dim], as are `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: None.
        cu_seq_lens_q: [chunks + 1] chunk borders, on the CPU.
        scaling: factor of the products; None is 1 / sqrt(dim).

    Returns:
        [1, L, heads, dim], and None for the weights. Differentiable.
    """
    borders = tuple(cu_seq_lens_q.tolist())
    tensors = [query[0], key[0], value[0]]
    padding = _chunk_padding(borders, query.device)

    if padding is None:
        # Chunks of one length become a batch by a view alone.
        chunks = [tensor.unflatten(1, (len(borders) - 1, -1)) for tensor in tensors]
        output = _attend_to_batch(chunks, None, scaling)
    else:
        gather, kept, mask = padding
        output = _attend_to_batch([tensor[:, gather] for tensor in tensors], mask, scaling)[kept]

    return output[None], None


def _attend_to_batch(chunks: list[Tensor], mask: Tensor | None, scaling: float | None) -> Tensor:
    """Return [chunks * longest, heads, dim] of queries, keys and values [heads, chunks, longest, dim]."""
    query, key, value = (tensor.transpose(0, 1) for tensor in chunks)
    return attend(query, key, value, mask, scaling).transpose(1, 2).flatten(0, 1)


def attend_to_text(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as `sdpa_attention_forward` of transformers does; shapes as there."""
    if fused_is_slow(query) and attention_mask is not None:
        # Grouped-query attention: several query heads share one key head.
        group = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(group, 1) for tensor in (key, value))
        return attend(query, key, value, attention_mask, scaling).transpose(1, 2), None

    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may need a gradient
def _chunk_padding(
    borders: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return how to pad chunks of different lengths to a batch and back; None if they all have one length.

    Args:
        borders: where chunks begin and end.
        device: of the tensors.

    Returns:
        Token index [chunks, longest] of each slot, padded with the chunk's last token; slot index [L] of each token in
        the flattened batch; and the mask [chunks, 1, 1, longest] of slots that are not padding.
    """
    starts, ends = torch.tensor(borders[:-1]), torch.tensor(borders[1:])
    offsets = torch.arange(int((ends - starts).max()))
    inside = offsets < (ends - starts)[:, None]
    if bool(inside.all()):
        return None

    gather = torch.minimum(starts[:, None] + offsets, ends[:, None] - 1)
    kept = inside.flatten().nonzero()[:, 0]

    return gather.to(device), kept.to(device), inside[:, None, None].to(device)
