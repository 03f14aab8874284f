"""Tiny diffusion pipelines with random weights, in the layouts of the published ones, made on the fly.

Each is built from the libraries' own classes and saved by diffusers, so that diffusers can load it as a witness. A
picture of 64 px becomes a latent of 8x8 (of 16x16 for the multi-view network).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from vlm3d_gs.prior.loading.mvdream_keys import (
    diffusers_name,
    mvdream_modules,
    mvdream_unet_config,
)

TEXT_TOKENS = 77
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Stable Diffusion's noise schedule."""


def clip_vocabulary() -> dict[str, int]:
    """A token a letter, inside a word and at its end, then CLIP's special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [f"{letter}</w>" for letter in letters]
    pieces = [*letters, *ends, "<|startoftext|>", "<|endoftext|>"]
    return {piece: index for index, piece in enumerate(pieces)}


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    return CLIPTokenizer(
        vocab=clip_vocabulary(), merges=[], model_max_length=TEXT_TOKENS, pad_token=pad_token
    )


def save_published_tokenizer(folder: Path) -> None:
    """Write the files of the published tokenizers, which know nothing of tokenizer.json."""
    folder.mkdir(parents=True)
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "!",
    }
    settings = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TEXT_TOKENS,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    (folder / "vocab.json").write_text(json.dumps(clip_vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def t5_tokenizer() -> T5TokenizerFast:
    """A token a letter, with T5's special tokens."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("\N{LOWER ONE EIGHTH BLOCK}", -2.0)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_config(width: int, n_layers: int = 3, projection: int = 32) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        max_position_embeddings=TEXT_TOKENS,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )


def tiny_vae(channels: int = 4, levels: int = 4, **settings: object) -> AutoencoderKL:
    """Encodes 2**(levels - 1) pixels a side into one latent cell."""
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=channels,
        **settings,
    )


def tiny_unet(text_width: int, **settings: object) -> UNet2DConditionModel:
    """Two levels, the lower with attention."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        **settings,
    )


def tiny_sd15(folder: Path) -> Path:
    """Stable Diffusion 1.5's shape: epsilon prediction, PNDM."""
    torch.manual_seed(15)
    StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(clip_config(32)),
        tokenizer=clip_tokenizer(),
        unet=tiny_unet(32, attention_head_dim=4),
        scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def tiny_sd21(folder: Path) -> Path:
    """Stable Diffusion 2.1's shape: v prediction, linear projections, heads by level."""
    torch.manual_seed(21)
    StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(clip_config(32)),
        tokenizer=clip_tokenizer("!"),
        unet=tiny_unet(32, attention_head_dim=[2, 4], use_linear_projection=True),
        scheduler=DDIMScheduler(
            **BETAS,
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def tiny_sdxl(folder: Path) -> Path:
    """SDXL's shape: two text encoders, pooled text and sizes as added conditions."""
    torch.manual_seed(10)
    unet = tiny_unet(
        32 + 48,
        attention_head_dim=[2, 4],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 48,
        transformer_layers_per_block=[1, 2],
    )
    StableDiffusionXLPipeline(
        vae=tiny_vae(scaling_factor=0.13025),
        text_encoder=CLIPTextModel(clip_config(32)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(48, projection=48)),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer("!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def tiny_sd3(folder: Path, *, with_t5: bool = True) -> Path:
    """Stable Diffusion 3's shape: a transformer, flow matching, up to three text encoders."""
    torch.manual_seed(3)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=96,
        pooled_projection_dim=32 + 48,
        pos_embed_max_size=16,
    )
    t5 = T5Config(
        vocab_size=32, d_model=96, d_kv=8, d_ff=64, num_layers=2, num_heads=4, is_decoder=False
    )
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(clip_config(32, projection=32)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(48, projection=48)),
        text_encoder_3=T5EncoderModel(t5) if with_t5 else None,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer("!"),
        tokenizer_3=t5_tokenizer() if with_t5 else None,
    ).save_pretrained(folder)
    return folder


def tiny_mvdream_unet(folder: Path) -> Path:
    """A multi-view network of two levels with one block each, in the published layout and tensor names."""
    config = {
        "_class_name": "MultiViewUNetModel",
        "attention_resolutions": [2, 1],
        "camera_dim": 16,
        "channel_mult": [1, 2],
        "context_dim": 64,
        "image_size": 8,
        "in_channels": 4,
        "model_channels": 32,
        "num_head_channels": 16,
        "num_res_blocks": 1,
        "out_channels": 4,
        "transformer_depth": 1,
    }
    torch.manual_seed(6)
    published = {inner: outer for outer, inner in mvdream_modules(config).items()}
    weights = {
        diffusers_name(name, published): value
        for name, value in UNet2DConditionModel(**mvdream_unet_config(config)).state_dict().items()
    }
    folder.mkdir(parents=True)
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def tiny_mvdream(folder: Path, unet: Path) -> Path:
    """The published multi-view bundle's layout around a network with its tensor names.

    Args:
        folder: written.
        unet: the folder `unet` of ../shared/fixtures/mvdream_tiny, or of `tiny_mvdream_unet`.
    """
    torch.manual_seed(4)
    shutil.copytree(unet, folder / "unet")
    tiny_vae(levels=3).save_pretrained(folder / "vae")
    CLIPTextModel(clip_config(64)).save_pretrained(folder / "text_encoder")
    save_published_tokenizer(folder / "tokenizer")
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "MVDreamPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["mv_unet", "MultiViewUNetModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder
