"""Which code computes a critic's network: our plain torch for small ones, or transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.critic.qwen.messages import ChatTokenizer
from vlm3d_gs.critic.qwen.network import Quantization, Qwen
from vlm3d_gs.critic.qwen.small import SmallQwen
from vlm3d_gs.critic.qwen.small_config import is_small
from vlm3d_gs.critic.qwen.tokenizer import FolderTokenizer

Runtime = Literal["auto", "torch", "transformers"]


def load_qwen(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    runtime: Runtime,
    *,
    quantize: Quantization,
    checkpointing: bool,
    cache_text: bool,
    fast_modules: bool,
    resident: bool,
) -> tuple[Qwen, ChatTokenizer]:
    """Load a network and its tokenizer; for the arguments see `YesNoModel`.

    Raises:
        ConfigError: the folder holds no Qwen-VL, or plain torch cannot do what is asked.
        DeviceError: quantised weights without a GPU.
        InputFileError: a file of a small network cannot be read.
    """
    special = quantize != "none" or checkpointing or not cache_text or not fast_modules
    if runtime == "torch" and special:
        raise ConfigError(
            "critic.runtime=torch has no critic.quantize and no critic.checkpointing. Set critic.runtime=auto."
        )
    if runtime == "torch" or (runtime == "auto" and not special and is_small(folder)):
        return SmallQwen(folder, device, dtype, resident=resident), FolderTokenizer(folder)

    # This imports transformers, which takes seconds.
    from vlm3d_gs.critic.qwen.transformers_qwen import TransformersQwen, load_tokenizer

    qwen = TransformersQwen(
        folder,
        device,
        dtype,
        quantize=quantize,
        checkpointing=checkpointing,
        cache_text=cache_text,
        fast_modules=fast_modules,
        resident=resident,
    )
    return qwen, load_tokenizer(folder)
