"""Parts of Qwen-VL models as this package wants them: attention, and the embedding of patches.

A vision tower attends within chunks: the pictures, or windows of them. The library calls attention once a chunk, which
for four views of 252 px is 36 times a layer; here all chunks of a layer are one call. Attention goes through the door
that transformers keeps for it, and the embedding takes the place of the library's module.
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

VISION_ATTENTION = "vlm3d_gs_flash_chunks"
"""The library hands over chunk borders only to implementations that have "flash" in their name."""
TEXT_ATTENTION = "vlm3d_gs_text"


def use_fast_modules(network: Any) -> None:
    """Let a Qwen-VL of transformers use the parts of this file, which give what its own give; in place."""
    AttentionInterface.register(VISION_ATTENTION, attend_in_chunks)
    AttentionInterface.register(TEXT_ATTENTION, attend_to_text)
    AttentionMaskInterface.register(TEXT_ATTENTION, sdpa_mask)
    network.model.visual.config._attn_implementation = VISION_ATTENTION
    network.model.language_model.config._attn_implementation = TEXT_ATTENTION
    network.model.visual.patch_embed = StillPatchEmbedding(network.model.visual.patch_embed.proj)


class StillPatchEmbedding(torch.nn.Module):
    """The embedding of patches of still pictures, whose frames are alike: one product with weights summed over time.

    The library's convolution over time, height and width does the same, several times slower in the backward pass.
    """

    def __init__(self, convolution: torch.nn.Conv3d) -> None:
        """Take over weights [out, channels, frames, patch, patch], on their device and in their type."""
        super().__init__()
        self.frames = convolution.kernel_size[0]
        self.channels = convolution.in_channels
        weight = convolution.weight.detach().sum(2).flatten(1)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.bias = convolution.bias

    def forward(self, patches: Tensor) -> Tensor:
        """Embed [N, channels * frames * patch * patch] as [N, out]; only the first frame is looked at."""
        still = patches.unflatten(1, (self.channels, self.frames, -1))[:, :, 0].flatten(1)
        return F.linear(still.to(self.weight.dtype), self.weight, self.bias)


def vision_kwargs(tower: Any, grids: Tensor, device: torch.device) -> dict[str, Any]:
    """Return what a vision tower would work out anew at every call from the grids of patches, as its arguments.

    Borders of chunks stay on the CPU, so that no layer waits for the device to learn them.

    Args:
        tower: `visual` of a Qwen-VL of transformers.
        grids: [B, 3] numbers of patches along time, height and width, on the CPU.
        device: of the tower.
    """
    merge, config = tower.spatial_merge_size, tower.config
    borders = get_vision_cu_seqlens(grids)
    tables: dict[str, Any] = {
        "grid_thw": grids,
        "position_ids": get_vision_position_ids(grids, merge).to(device),
        "cu_seqlens": borders,
        "max_seqlen": int(borders.diff().max()),
    }
    if config.model_type.startswith("qwen2_5_vl"):
        order, windows = get_vision_window_index(
            grids, merge, config.window_size, config.patch_size
        )
        tables |= {
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
        tables |= {"interp_indices": indices.to(device), "interp_weights": weights.to(device)}
    return tables


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
        module: the layer; not looked at.
        query: [1, heads, L, dim], as are `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: None.
        cu_seq_lens_q: [chunks + 1] where chunks begin and end, on the CPU.
        scaling: of the products; None is 1 / sqrt(dim).

    Returns:
        [1, L, heads, dim], and None for the weights. Differentiable.
    """
    borders = tuple(cu_seq_lens_q.tolist())
    table, each = _chunk_table(borders, query.device), [query[0], key[0], value[0]]
    if table is None:  # all of one length
        parts = [tensor.unflatten(1, (len(borders) - 1, -1)) for tensor in each]
        mixed = _attend(parts, None, scaling)
    else:
        gather, places, mask = table
        mixed = _attend([tensor[:, gather] for tensor in each], mask, scaling)[places]
    return mixed[None], None


def _attend(parts: list[Tensor], mask: Tensor | None, scaling: float | None) -> Tensor:
    """Return [chunks * longest, heads, dim] of queries, keys and values [heads, chunks, longest, dim]."""
    query, key, value = (tensor.transpose(0, 1) for tensor in parts)
    if _is_slow(query):
        mixed = _attend_plainly(query, key, value, mask, scaling)
    else:
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return mixed.transpose(1, 2).flatten(0, 1)


def attend_to_text(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' own function does; shapes as there."""
    if _is_slow(query) and attention_mask is not None:
        sharing = query.shape[1] // key.shape[1]  # heads of a query to one of a key
        key, value = (part.repeat_interleave(sharing, 1) for part in (key, value))
        mixed = _attend_plainly(query, key, value, attention_mask, scaling)
        return mixed.transpose(1, 2), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **more
    )


def _is_slow(query: Tensor) -> bool:
    """Tell whether torch's fused attention is slower than plain products: in bfloat16 on a CPU, backwards."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16


def _attend_plainly(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """Return what `scaled_dot_product_attention` does, with the weights written out."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
    return scores.softmax(-1) @ value


@lru_cache(maxsize=64)
def _chunk_table(
    borders: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return how to go from a sequence to chunks of different lengths and back; None if they are all of one length.

    Args:
        borders: where chunks begin and end.
        device: of the tensors.

    Returns:
        Token [chunks, longest] of each place, those beyond a chunk's end being its last one; place [L] of each token in
        the flattened chunks; and the mask [chunks, 1, 1, longest] of places before the end.
    """
    starts, ends = torch.tensor(borders[:-1]), torch.tensor(borders[1:])
    offsets = torch.arange(int((ends - starts).max()))
    inside = offsets < (ends - starts)[:, None]
    if bool(inside.all()):
        return None
    gather = torch.minimum(starts[:, None] + offsets, ends[:, None] - 1)
    places = inside.flatten().nonzero()[:, 0]
    return gather.to(device), places.to(device), inside[:, None, None].to(device)
