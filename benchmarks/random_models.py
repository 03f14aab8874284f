"""Folders of real architectures with random weights: speed and memory do not depend on the values.

`size="full"` has the published sizes, `size="tiny"` the same layouts a hundred times smaller, for trials without a GPU.
The tokenizers know only letters, which costs as much as knowing words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from vlm3d_gs.mini.critic.model import critic_tokenizer, save_processor
from vlm3d_gs.prior.loading.mvdream_keys import mvdream_unet_config

TEXT_TOKENS = 77
PRIORS: dict[str, dict[str, Any]] = {
    "full": {"text": (1024, 23, 16), "vae": (128, 256, 512, 512), "channels": 320, "head": 64},
    "tiny": {"text": (32, 2, 4), "vae": (32, 32, 32, 32), "channels": 32, "head": 16},
}
"""Width, layers and heads of the text encoder (OpenCLIP ViT-H's), channels of the VAE and of the UNet."""
CRITICS: dict[str, dict[str, Any]] = {
    "tiny-qwen": {"text": (512, 1408, 6, 8, 2), "vision": (256, 684, 8, 8), "vocabulary": 15_194},
    "qwen2.5-vl-3b": {
        "text": (2048, 11008, 36, 16, 2),
        "vision": (1280, 3420, 32, 16),
        "vocabulary": 151_936,
    },
    "qwen2.5-vl-7b": {
        "text": (3584, 18944, 28, 28, 4),
        "vision": (1280, 3420, 32, 16),
        "vocabulary": 152_064,
    },
}
"""Width, feed-forward width, layers and heads of both towers; last the text's heads of keys; size of the vocabulary."""

PATCHES = {
    "patch_size": 14,
    "merge_size": 2,
    "min_pixels": 4 * 28**2,
    "max_pixels": 16_384 * 28**2,
}
"""Of the published processors."""


def random_prior(family: str, folder: Path, size: str = "full") -> Path:
    """Write a Stable Diffusion 2.1 (`sd`) or MVDream (`mvdream`) pipeline and return its folder."""
    width, layers, heads = PRIORS[size]["text"]
    text = CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=TEXT_TOKENS,
        hidden_act="gelu",
    )

    with torch.device(_device()):
        unet, vae = prior_networks(family, size)
        pipeline = StableDiffusionPipeline(
            unet=unet.to(_dtype()),
            vae=vae.to(_dtype()),
            text_encoder=CLIPTextModel(text).to(_dtype()),
            tokenizer=_letters(),
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                prediction_type="epsilon" if family == "mvdream" else "v_prediction",
                clip_sample=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    pipeline.save_pretrained(folder)
    return folder


def prior_networks(family: str, size: str = "full") -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """Return the denoiser and the autoencoder of a prior, on torch's default device."""
    shape = PRIORS[size]
    width, channels, head = shape["text"][0], shape["channels"], shape["head"]
    levels = (channels, 2 * channels, 4 * channels, 4 * channels)

    if family == "mvdream":
        unet = _mvdream_unet(channels, head, width)
    else:
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=levels,
            cross_attention_dim=width,
            attention_head_dim=[level // head for level in levels],
            use_linear_projection=True,
        )
    vae = AutoencoderKL(
        block_out_channels=shape["vae"],
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        force_upcast=False,
    )
    return unet, vae


def random_critic(name: str, folder: Path) -> Path:
    """Write a Qwen2.5-VL of published proportions, with the embedded critic's tokenizer, and return its folder."""
    tokenizer = critic_tokenizer()

    # bfloat16, as published: in float32 the large ones would fill the memory
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(_device()):
            model = Qwen2_5_VLForConditionalGeneration(critic_config(name))
    finally:
        torch.set_default_dtype(default)

    model.save_pretrained(folder)
    save_processor(folder, tokenizer)

    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | PATCHES, indent=2) + "\n")
    return folder


def critic_config(name: str) -> Qwen2_5_VLConfig:
    """Return the sizes of a critic of `CRITICS`, and the token ids of the embedded critic's tokenizer."""
    size, tokenizer = CRITICS[name], critic_tokenizer()
    width, inner, layers, heads, key_heads = size["text"]
    v_width, v_inner, v_layers, v_heads = size["vision"]
    half = width // heads // 2

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": size["vocabulary"],
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8],
            },
        },
        vision_config={
            "depth": v_layers,
            "hidden_size": v_width,
            "intermediate_size": v_inner,
            "num_heads": v_heads,
            "out_hidden_size": width,
            "fullatt_block_indexes": [index for index in range(v_layers) if index % 8 == 7],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def _mvdream_unet(channels: int, head: int, width: int) -> UNet2DConditionModel:
    published = {
        "attention_resolutions": [4, 2, 1],
        "camera_dim": 16,
        "channel_mult": [1, 2, 4, 4],
        "context_dim": width,
        "image_size": 32,
        "in_channels": 4,
        "model_channels": channels,
        "num_head_channels": head,
        "num_res_blocks": 2,
        "out_channels": 4,
        "transformer_depth": 1,
    }
    return UNet2DConditionModel(**mvdream_unet_config(published))


def _letters() -> CLIPTokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TEXT_TOKENS)
