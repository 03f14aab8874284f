"""The Qwen-VL networks of transformers, read from a folder in the published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    BitsAndBytesConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from vlm3d_gs.core.errors import ConfigError, DeviceError, InputFileError
from vlm3d_gs.critic.qwen.network import Quantization
from vlm3d_gs.prior.loading.pipeline import quiet_loading

MODEL_TYPES = {
    "qwen2_vl": Qwen2VLForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": Qwen3VLForConditionalGeneration,
}
"""`model_type` in a folder's config.json -> the class of transformers that reads it."""
BROKEN = (
    *(ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    *(SafetensorError, StrictDataclassError),
)
"""What broken files make the library raise."""


def load_network(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    quantize: Quantization = "none",
    resident: bool = True,
) -> Any:
    """Load a frozen Qwen-VL.

    Args:
        folder: with config.json and .safetensors weights.
        device: where the network runs.
        dtype: of weights and activations.
        quantize: bits of the language model's weights; fewer than 16 on a GPU only.
        resident: move it to the device; else the caller does. Quantised weights are always there.

    Raises:
        ConfigError: the folder holds no Qwen-VL.
        DeviceError: quantised weights without a GPU.
        InputFileError: a file is absent or damaged, or the weights do not fit config.json.
    """
    kind = _model_type(folder)
    if kind not in MODEL_TYPES:
        raise ConfigError(
            f"{folder} holds a {kind!r}. A critic with gradients must be one of {', '.join(MODEL_TYPES)}."
        )

    kwargs: dict[str, Any] = {}
    if quantize != "none":
        if device.type != "cuda":
            raise DeviceError(
                f"critic.quantize is {quantize!r}, which needs a GPU; this run is on {device.type}. "
                "Set critic.quantize=none."
            )
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=quantize == "8bit",
            load_in_4bit=quantize == "4bit",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_type="nf4",
        )
        kwargs["device_map"] = {"": device}

    try:
        with quiet_loading():
            network = MODEL_TYPES[kind].from_pretrained(
                folder, dtype=dtype, local_files_only=True, use_safetensors=True, **kwargs
            )
    except torch.OutOfMemoryError:
        raise
    except BROKEN as error:
        raise InputFileError(_unreadable(folder, error)) from error
    network.requires_grad_(False).eval()

    return network.to(device) if resident and quantize == "none" else network


def _model_type(folder: Path) -> object:
    """Return what config.json calls the network."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputFileError(_unreadable(folder, error)) from error
    return settings.get("model_type") if isinstance(settings, dict) else None


def _unreadable(folder: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return f"The critic in {folder} cannot be read: {reason}"


def checkpoint_activations(network: Any) -> None:
    """Recompute activations in the backward pass instead of keeping them; in place."""
    enable = getattr(network, "activation_checkpointing_enable", None)  # newer transformers
    (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})
    network.train()  # transformers checkpoints in this mode only; Qwen-VL has no dropout
