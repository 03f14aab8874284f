"""A small Qwen2.5-VL in plain torch: what the embedded critic needs, without the import of transformers.

Vision tower, merger and language model are those of Qwen2.5-VL (Bai et al. 2025, arXiv 2502.13923), read from the
published layout, frozen. Left out is what only large models have: windows in the vision tower, shared keys, video.
Equal to transformers' network in values and gradients; tests compare them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm3d_gs.critic.qwen.dot_product import additive, attend
from vlm3d_gs.critic.qwen.network import Message, Reader
from vlm3d_gs.critic.qwen.small_config import (
    PATCHES,
    WEIGHTS,
    SmallConfig,
    StackConfig,
    read_small_config,
)
from vlm3d_gs.critic.qwen.small_weights import StoredTensors, text_layer, tower_block

Turns = tuple[Tensor, Tensor]
"""Cosines and signed sines [L, 1, 1, head width] by which queries and keys of each token turn (rotary embedding)."""
Past = tuple[Tensor, Tensor]
"""Keys and values [B, heads, P, head width] of tokens that were read before."""


class Block(nn.Module):
    """A transformer block of the vision tower or of the language model: attention, then a gated layer."""

    norm1: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    out_bias: Tensor | None
    norm2: Tensor
    gate: Tensor
    gate_bias: Tensor | None
    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None

    def __init__(self, tensors: dict[str, Tensor], sizes: StackConfig, dtype: torch.dtype) -> None:
        """Take the tensors of `small_weights`, in their published orientation."""
        super().__init__()
        self.n_heads, self.eps = sizes.n_heads, sizes.eps
        for name, tensor in tensors.items():
            self.register_parameter(name, frozen(tensor, dtype))

        # The language model has no other biases than those of queries, keys and values.
        for name in ("out_bias", "gate_bias", "up_bias", "down_bias"):
            if name not in tensors:
                self.register_parameter(name, None)

    def forward(
        self,
        states: Tensor,
        turns: Turns,
        mask: Tensor | None = None,
        past: Past | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Past]:
        """Return the next states, and keys and values of all tokens read so far; differentiable.

        Args:
            states: [B, L, width].
            turns: of the L tokens.
            mask: [L, P + L], added to the products; None if every token sees all.
            past: of P tokens before these.
            rows: [R] the tokens whose next states are wanted; None is all L.
        """
        joined = F.linear(normed(states, self.norm1, self.eps), self.qkv, self.qkv_bias)
        both, values = joined.unflatten(-1, (3, self.n_heads, -1)).split((2, 1), 2)
        query, keys = turn(both, turns).permute(2, 0, 3, 1, 4).unbind()
        values = values[:, :, 0].transpose(1, 2)

        if past is not None:
            keys = torch.cat([past[0], keys], 2)
            values = torch.cat([past[1], values], 2)
        if rows is not None:
            states, query = states.index_select(1, rows), query.index_select(2, rows)
            mask = None if mask is None else mask[rows]

        seen = attend(query, keys, values, mask).transpose(1, 2).flatten(2)
        states = states + F.linear(seen, self.out, self.out_bias)

        inputs = normed(states, self.norm2, self.eps)
        gate = F.silu(F.linear(inputs, self.gate, self.gate_bias))
        gated = gate * F.linear(inputs, self.up, self.up_bias)

        return states + F.linear(gated, self.down, self.down_bias), (keys, values)


class VisionTower(nn.Module):
    """Patches to image tokens; every patch sees all patches of its own image."""

    def __init__(self, stored: StoredTensors, config: SmallConfig, dtype: torch.dtype) -> None:
        """Take the tensors of the tower and of the merger behind it."""
        super().__init__()
        sizes, side = config.vision, config.patch_size
        self.channels, self.frames = config.channels, config.frames
        width, merged = sizes.width, sizes.width * config.merge_size**2

        # The frames of a still image are equal, so a product with the sum of their weights is the convolution.
        kernel = stored.take(PATCHES, width, config.channels, config.frames, side, side)
        self.embed = frozen(kernel.sum(2).flatten(1), dtype)
        self.blocks = nn.ModuleList(
            Block(tower_block(stored, number, sizes), sizes, dtype)
            for number in range(sizes.n_blocks)
        )

        place, self.eps = "visual.merger.", sizes.eps
        self.norm = frozen(stored.take(place + "ln_q.weight", width), dtype)
        self.first = frozen(stored.take(place + "mlp.0.weight", merged, merged), dtype)
        self.first_bias = frozen(stored.take(place + "mlp.0.bias", merged), dtype)
        self.last = frozen(stored.take(place + "mlp.2.weight", config.text.width, merged), dtype)
        self.last_bias = frozen(stored.take(place + "mlp.2.bias", config.text.width), dtype)

    def forward(self, patches: Tensor, turns: Turns) -> Tensor:
        """Return image tokens [B * patches / merge ** 2, text width]; differentiable.

        Args:
            patches: [B * patches, channels * frames * side * side] of B equal images; only the first frame is read.
            turns: of the patches of one image.
        """
        still = patches.unflatten(1, (self.channels, self.frames, -1))[:, :, 0].flatten(1)
        states = F.linear(still, self.embed).unflatten(0, (-1, len(turns[0])))
        for block in self.blocks:
            states, _ = block(states, turns)

        merged = normed(states, self.norm, self.eps).reshape(-1, self.first.shape[1])
        inner = F.gelu(F.linear(merged, self.first, self.first_bias))

        return F.linear(inner, self.last, self.last_bias)


@dataclass(frozen=True)
class _Plan:
    """What depends on a message alone, on the network's device."""

    words: Tensor
    """[S, L, width]: embeddings of what follows the text before the first image; anything for image tokens."""
    image_index: Tensor
    """[tokens]: where these L tokens are image tokens."""
    answer_index: Tensor
    """[K]: at which of them the answers begin."""
    mask: Tensor
    """[L, P + L], added to the products of the language model."""
    text_turns: Turns
    vision_turns: Turns
    past: list[Past]
    """Of the P tokens before the first image, in each layer."""


class SmallQwen(nn.Module):
    """A small Qwen2.5-VL, as a `Qwen`."""

    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype, *, resident: bool = True
    ) -> None:
        """Load the weights from a folder in the published layout.

        Args:
            folder: with config.json and model.safetensors.
            device: where the network runs.
            dtype: of weights and activations.
            resident: move it to the device; else the caller does.

        Raises:
            ConfigError: the network is not one that this file computes; see `small_config`.
            InputFileError: a file cannot be read, or the weights do not fit config.json.
        """
        super().__init__()
        self.config = config = read_small_config(folder)
        stored, sizes = StoredTensors(folder / WEIGHTS), config.text

        self.visual = VisionTower(stored, config, dtype)
        self.words = frozen(
            stored.take("model.embed_tokens.weight", config.n_words, sizes.width), dtype
        )
        self.layers = nn.ModuleList(
            Block(text_layer(stored, number, sizes), sizes, dtype)
            for number in range(sizes.n_blocks)
        )
        self.norm = frozen(stored.take("model.norm.weight", sizes.width), dtype)
        stored.finish()

        self.eval().to(device if resident else "cpu")

    @property
    def runtime(self) -> str:
        """Plain torch, this file."""
        return "torch"

    @property
    def module(self) -> nn.Module:
        """This module."""
        return self

    @property
    def head(self) -> Tensor:
        """[words, width]: hidden states times these are the logits of the words; the embeddings again."""
        return self.words

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder for one token of an image."""
        return self.config.image_token_id

    @property
    def trained_px(self) -> int | None:
        """Side of the images for a model that was trained on one size only."""
        return self.config.trained_px

    @torch.no_grad()
    def reader(self, message: Message) -> Reader:
        """Return the hidden states [S, K, width] at the answers as a differentiable function of the patches."""
        packed, n_scenes, start = message.packed, message.n_scenes, len(message.text_ids)
        cosines, sines = text_turns(packed.position_ids, self.config)
        words = F.embedding(packed.input_ids, self.words)

        # The text before the first image is the same at every look, so it is read here.
        past = self._read(
            words[None, :start],
            (cosines[:start], sines[:start]),
            additive(packed.mask[:start, :start], self.words.dtype),
        )[1]

        plan = _Plan(
            words[start:].expand(n_scenes, -1, -1),
            message.image_index - start,
            packed.answer_index - start,
            additive(packed.mask[start:], self.words.dtype),
            (cosines[start:], sines[start:]),
            vision_turns(message.grids[0], self.config, self.words.device),
            [(k.expand(n_scenes, -1, -1, -1), v.expand(n_scenes, -1, -1, -1)) for k, v in past],
        )
        return partial(self._answer_states, plan)

    def _answer_states(self, plan: _Plan, patches: Tensor) -> Tensor:
        tokens = self.visual(patches, plan.vision_turns).unflatten(0, (len(plan.words), -1))
        states = plan.words.index_copy(1, plan.image_index, tokens)

        return self._read(states, plan.text_turns, plan.mask, plan.past, plan.answer_index)[0]

    def _read(
        self,
        states: Tensor,
        turns: Turns,
        mask: Tensor | None,
        past: Sequence[Past] | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, list[Past]]:
        """Return the last hidden states of the language model, and each layer's keys and values; see `Block`."""
        last = len(self.layers) - 1
        read: list[Past] = []
        for number, layer in enumerate(self.layers):
            # Of the last layer nothing is read but the rows.
            states, both = layer(
                states,
                turns,
                mask,
                None if past is None else past[number],
                rows if number == last else None,
            )
            read.append(both)

        return normed(states, self.norm, self.config.text.eps), read

    @torch.no_grad()
    def generate(self, ids: Tensor, most: int) -> Tensor:
        """Return the tokens [N] with N <= most that follow the text [L], by greedy decoding."""
        positions = torch.arange(len(ids) + most, device=ids.device).expand(3, -1)
        cosines, sines = text_turns(positions, self.config)
        causal = torch.ones(len(ids), len(ids), dtype=torch.bool, device=ids.device).tril()
        mask: Tensor | None = additive(causal, self.words.dtype)

        past: list[Past] | None = None
        new, start = ids, 0
        found: list[Tensor] = []
        while len(found) < most:
            end = start + len(new)
            states, past = self._read(
                F.embedding(new, self.words)[None],
                (cosines[start:end], sines[start:end]),
                mask,
                past,
            )
            new = (states[0, -1] @ self.words.T).argmax(-1, keepdim=True)
            found.append(new)
            if int(new) == self.config.end_token_id:
                break
            start, mask = end, None

        return torch.cat(found)


def frozen(tensor: Tensor, dtype: torch.dtype) -> nn.Parameter:
    """Return a weight without gradient."""
    return nn.Parameter(tensor.to(dtype), requires_grad=False)


def normed(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return states [..., width] divided by their root mean square, times the weight [width]."""
    return F.rms_norm(states, weight.shape, weight, eps)


def turn(states: Tensor, turns: Turns) -> Tensor:
    """Return queries or keys [B, L, ..., heads, D] turned by their tokens' positions; number i pairs with i + D / 2."""
    cosines, sines = turns
    turned = states * cosines + states.roll(cosines.shape[-1] // 2, -1) * sines

    return turned.to(states.dtype)


def text_turns(positions: Tensor, config: SmallConfig) -> Turns:
    """Return the turns of the language model for positions [3, L] (M-RoPE).

    Source: Qwen2-VL (Wang et al. 2024, arXiv 2409.12191), section 2.1.
    """
    pairs = config.text.head_width // 2
    exponents = torch.arange(pairs, device=positions.device) / pairs
    section = torch.tensor(config.mrope_section, device=positions.device)
    axes = torch.arange(3, device=positions.device).repeat_interleave(section)

    return _turns(positions[axes].T * config.text.rope_theta**-exponents)


def vision_turns(grid: Tensor, config: SmallConfig, device: torch.device) -> Turns:
    """Return the turns of the vision tower for the patches of one image, block by block as `to_patches` cuts them.

    Args:
        grid: [3] patches along time, height and width.
        config: sizes of the network.
        device: of the result.
    """
    merge, (rows, columns) = config.merge_size, grid[1:].tolist()
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    blocks = places.reshape(2, rows // merge, merge, columns // merge, merge).transpose(2, 3)

    # One half of the pairs turns with the row, the other with the column.
    pairs = config.vision.head_width // 4
    frequencies = config.vision.rope_theta ** -(torch.arange(pairs) / pairs)
    angles = blocks.flatten(1)[..., None] * frequencies

    return _turns(torch.cat(tuple(angles), -1).to(device))


def _turns(angles: Tensor) -> Turns:
    """Return cosines and signed sines [L, 1, 1, D] of angles [L, D / 2]."""
    cosines, sines = angles.cos(), angles.sin()
    both = torch.cat([cosines, cosines], -1), torch.cat([-sines, sines], -1)

    return both[0][:, None, None], both[1][:, None, None]
