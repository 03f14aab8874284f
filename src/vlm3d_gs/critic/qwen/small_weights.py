"""The tensors of a small Qwen2.5-VL: read from the published layout, checked, and joined where one product does."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.critic.qwen.small_config import StackConfig


class StoredTensors:
    """The tensors of a file, each taken once."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            InputFileError: it cannot be read.
        """
        self.path = path
        try:
            self._tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputFileError(
                f"{path} cannot be read: {error}. Fetch the model again."
            ) from error

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor in float32.

        Raises:
            InputFileError: there is none of that name and shape.
        """
        tensor = self._tensors.pop(name, None)
        if tensor is None or tuple(tensor.shape) != shape:
            found = "is missing" if tensor is None else f"is {tuple(tensor.shape)}"
            raise InputFileError(
                f"{self.path}: {name} {found} and should be {shape}. config.json and weights must come from the "
                "same model; fetch them again."
            )
        return tensor.float()

    def finish(self) -> None:
        """Refuse tensors that nobody took.

        Raises:
            InputFileError: there is one.
        """
        if self._tensors:
            raise InputFileError(
                f"{self.path} holds {len(self._tensors)} tensors too many, such as {min(self._tensors)}. config.json "
                "and weights must come from the same model; fetch them again."
            )


def tower_block(stored: StoredTensors, number: int, sizes: StackConfig) -> dict[str, Tensor]:
    """Return the tensors of a block of the vision tower, by the names of `small.Block`."""
    place, width, hidden = f"visual.blocks.{number}.", sizes.width, sizes.hidden

    return {
        "norm1": stored.take(place + "norm1.weight", width),
        "qkv": stored.take(place + "attn.qkv.weight", 3 * width, width),
        "qkv_bias": stored.take(place + "attn.qkv.bias", 3 * width),
        "out": stored.take(place + "attn.proj.weight", width, width),
        "out_bias": stored.take(place + "attn.proj.bias", width),
        "norm2": stored.take(place + "norm2.weight", width),
        "gate": stored.take(place + "mlp.gate_proj.weight", hidden, width),
        "gate_bias": stored.take(place + "mlp.gate_proj.bias", hidden),
        "up": stored.take(place + "mlp.up_proj.weight", hidden, width),
        "up_bias": stored.take(place + "mlp.up_proj.bias", hidden),
        "down": stored.take(place + "mlp.down_proj.weight", width, hidden),
        "down_bias": stored.take(place + "mlp.down_proj.bias", width),
    }


def text_layer(stored: StoredTensors, number: int, sizes: StackConfig) -> dict[str, Tensor]:
    """Return the tensors of a layer of the language model, by the names of `small.Block`; some have no bias."""
    place, width, hidden = f"model.layers.{number}.", sizes.width, sizes.hidden
    joined = [f"{place}self_attn.{letter}_proj." for letter in "qkv"]

    return {
        "norm1": stored.take(place + "input_layernorm.weight", width),
        "qkv": torch.cat([stored.take(name + "weight", width, width) for name in joined]),
        "qkv_bias": torch.cat([stored.take(name + "bias", width) for name in joined]),
        "out": stored.take(place + "self_attn.o_proj.weight", width, width),
        "norm2": stored.take(place + "post_attention_layernorm.weight", width),
        "gate": stored.take(place + "mlp.gate_proj.weight", hidden, width),
        "up": stored.take(place + "mlp.up_proj.weight", hidden, width),
        "down": stored.take(place + "mlp.down_proj.weight", width, hidden),
    }
