"""What the answers need of a Qwen-VL network, whatever computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from vlm3d_gs.critic.qwen.packing import PackedQuestions

Quantization = Literal["none", "8bit", "4bit"]

Reader = Callable[[Tensor], Tensor]
"""From patches [S * V * patches, values] of a message's views to the hidden states [S, K, width] at its K answers."""


@dataclass(frozen=True)
class Message:
    """What a network reads beside the pixels, for given views and questions."""

    packed: PackedQuestions
    """Tokens, positions and mask of one scene, on the network's device."""
    image_mask: Tensor
    """[L] bool: which tokens are image tokens."""
    image_index: Tensor
    """[N] int64: where these are."""
    grids: Tensor
    """[S * V, 3] int64, on the CPU: patches of each view along time, height and width."""
    text_ids: tuple[int, ...]
    """Token ids before the first image."""
    n_scenes: int
    """Scenes in one batch, each with its own views."""


class Qwen(Protocol):
    """A frozen Qwen-VL."""

    @property
    def runtime(self) -> str:
        """What computes the network: `torch` or `transformers`."""

    @property
    def module(self) -> nn.Module:
        """All weights; what a caller moves who wants them on the device for a while only."""

    @property
    def head(self) -> Tensor:
        """[words, width]: hidden states times these are the logits of the words."""

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder for one token of an image."""

    @property
    def trained_px(self) -> int | None:
        """Side of the images for a model that was trained on one size only (`trained_px` in its config.json)."""

    def reader(self, message: Message) -> Reader:
        """Return the network as a function of patches alone, differentiable in them.

        What depends only on the message is computed here, once, with the weights on the device.
        """

    def generate(self, ids: Tensor, most: int) -> Tensor:
        """Return the tokens [N] with N <= most that follow the text [L], by greedy decoding."""
